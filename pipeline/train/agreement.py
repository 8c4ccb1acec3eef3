"""What must be one for all ranks before they train together, and for the output before anybody writes to it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from schemas.errors import InputError

LOCK = ".lock"


def check_agreement(mine: dict[str, Any]) -> None:
    """Raises InputError on every rank where one of these things is not the same on all of them.

    Nodes started with unlike commands, or paths that not all of them see, would else train unlike rows in silence.
    """
    every: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    for what in mine:
        odd = [rank for rank, theirs in enumerate(every) if theirs[what] != every[0][what]]
        if odd:
            raise InputError(
                f"rank {odd[0]} has another {what} than rank 0; give every node the same command, "
                "and paths that lie on storage all of them see"
            )


@contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """Rank 0 holds the output for as long as it lives; a second run there is refused, on all its ranks."""
    refused: list[str | None] = [None]
    lock = -1
    if dist.get_rank() == 0:
        try:
            output.mkdir(parents=True, exist_ok=True)
            lock = os.open(output / LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused = [f"output: another run is writing to '{output}'; wait for it, end it, or name another output"]
        except OSError as error:
            refused = [f"output: '{output}' cannot be written ({error.strerror}); name another folder"]
    dist.broadcast_object_list(refused, src=0)
    if refused[0] is not None:
        raise InputError(refused[0])
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)
