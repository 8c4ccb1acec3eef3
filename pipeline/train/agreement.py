"""What must be one for all ranks before they train together, and for the output before anybody writes to it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from pipeline.storage import filesystem, is_local
from schemas.errors import InputError

LOCK = ".lock"
T = TypeVar("T")


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


def first_ranks(mine: bytes | None) -> bytes:
    """The first rank's bytes, on every rank; each must call it."""
    box = [mine]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None, "the first rank has them"
    return box[0]


def together(act: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Each rank's own result of `act`; where it raises InputError on any rank, the first such is raised on all."""
    result: T | None = None
    failure: str | None = None
    try:
        result = act()
    except InputError as error:
        failure = str(error)
    every: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, failure, group=group)
    for told in every:
        if told is not None:
            raise InputError(told)
    return result  # type: ignore[return-value]


def first_rank(act: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Rank 0's result of `act`, on all ranks once it is there; so is its InputError."""
    told: list[Any] = [None, None]
    if dist.get_rank(group) == 0:
        try:
            told[0] = act()
        except InputError as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, group=group, group_src=0)
    if told[1] is not None:
        raise InputError(told[1])
    return told[0]


@contextmanager
def sole_writer(output: str, key: str = "output") -> Iterator[None]:
    """Rank 0 holds the output for as long as it lives; a second run there is refused, on all its ranks.

    A URL cannot be held: there a run finds the other's commit before its own next one (checkpoint.py).
    """
    fs, folder = filesystem(output)
    if not is_local(fs):
        yield
        return
    refused: list[str | None] = [None]
    lock = -1
    if dist.get_rank() == 0:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            lock = os.open(Path(folder) / LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused = [f"{key}: another run is writing to '{output}'; wait for it, end it, or name another {key}"]
        except OSError as error:
            refused = [f"{key}: '{output}' cannot be written ({error.strerror}); name another folder"]
    dist.broadcast_object_list(refused, src=0)
    if refused[0] is not None:
        raise InputError(refused[0])
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)
