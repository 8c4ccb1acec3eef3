"""Committed checkpoints: each save a new directory, every file written before the manifest that makes it count.

All ranks write their own pieces with torch.distributed.checkpoint (DCP) and hash them on the way; rank 0 gathers the
hashes and commits (checkpoint_store.py). What is saved has plan-free names (table_state.py), so a checkpoint loads
under any sharding plan and number of ranks (restore.py). In the background the pieces are copied first (background.py).
"""

import dataclasses
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.train.agreement import first_rank
from pipeline.train.background import Background, Staging
from pipeline.train.checkpoint_store import CheckpointStore, Commit, FileNote, Progress
from pipeline.train.pieces import SavePlanner, State, reason, writer
from pipeline.train.table_state import WINDOW, training_state
from schemas.errors import InputError

__all__ = ["Checkpoints", "Commit", "Progress", "Saved"]


@dataclasses.dataclass(frozen=True)
class Saved:
    """One committed save, as rank 0 saw it."""

    commit: str
    """Address of its directory."""
    step: int
    blocked_seconds: float
    """How long training stood still for it."""
    written_seconds: float
    """From the call to the commit."""
    bytes: int
    """Of all its files."""


class Checkpoints:
    """The checkpoints of one run, under one folder or URL that all ranks see.

    With `background`, `save` returns as soon as the state is copied, and a thread writes it; at most one save is in
    flight. `wait` (and the next `save`) raises what went wrong with it, on all ranks alike.
    """

    def __init__(
        self, folder: str | Path, keep_last: int, timeout_seconds: int = 600, background: bool = False
    ) -> None:
        self.store = CheckpointStore(str(folder))
        self.keep_last, self.timeout_seconds = keep_last, timeout_seconds
        self._known: set[str] | None = None
        self._background = Background(timeout_seconds) if background else None
        self._staging = Staging()
        self._group: dist.ProcessGroup | None = None
        self._done: list[Saved] = []

    def newest(self) -> Commit | None:
        """The newest committed checkpoint, or None. Every rank may call it, and a process of no group: it reads."""
        self._known_commits()
        return self.store.newest()

    def save(
        self,
        model: nn.Module,
        optimizer: CombinedOptimizer,
        progress: Progress,
        job: dict[str, Any],
        data: str,
        extras: dict[str, bytes] | None = None,
        window: State | None = None,
    ) -> None:
        """Writes and commits a checkpoint; every rank must call it.

        `extras` are small files of rank 0's, read again by `Commit.read`; `window` more pieces, read by `load_window`.
        Raises InputError on all ranks where this save, or the one in the background before it, fails.
        """
        began = time.perf_counter()
        self.wait()
        state = training_state(model, optimizer) | {WINDOW + name: pieces for name, pieces in (window or {}).items()}
        save = _Save(self.store, progress, job, data, extras or {}, self.keep_last, 2.0 * self.timeout_seconds)
        if self._background is None:
            self._finish(save, began, save.run(state, None, self._known_commits()))
            return
        if self._group is None:  # its own: two threads may not share one
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.timeout_seconds))
        copied, known, group = self._staging.copy(state), self._known_commits(), self._group
        blocked = time.perf_counter() - began
        self._background.start(
            f"the checkpoint of step {progress.step}",
            lambda: save.run(copied, group, known),
            lambda result: self._finish(save, began, result, blocked),
        )

    def wait(self) -> None:
        """Ends the save in the background, if there is one; every rank must call it. Raises as `save` does."""
        if self._background is not None:
            self._background.wait()

    def ready(self) -> bool:
        """Whether `wait` would return, or raise, at once on this rank."""
        return self._background is None or self._background.ready()

    def told(self) -> list[Saved]:
        """The saves committed since it was last asked, on every rank."""
        out, self._done = self._done, []
        return out

    def _known_commits(self) -> set[str]:
        """What lay there when this run first looked, and what it has added; anything more is another run's."""
        if self._known is None:
            self._known = set(self.store.commits())
        return self._known

    def _finish(self, save: "_Save", began: float, written: tuple[str, int], blocked: float | None = None) -> None:
        name, size = written
        self._known_commits().add(name)
        took = time.perf_counter() - began
        self._done.append(
            Saved(
                self.store.address(name),
                save.progress.step,
                took if blocked is None else blocked,
                save.ended - began,
                size,
            )
        )


@dataclasses.dataclass
class _Save:
    """One attempt, from a new directory to its manifest, over the ranks of one group."""

    store: CheckpointStore
    progress: Progress
    job: dict[str, Any]
    data: str
    extras: dict[str, bytes]
    keep_last: int
    abandoned_seconds: float
    ended: float = 0.0

    def run(self, state: State, group: dist.ProcessGroup | None, known: set[str]) -> tuple[str, int]:
        """The attempt's name and bytes. Raises InputError on all ranks alike; nothing is committed then."""
        name = first_rank(lambda: self.store.new_attempt(self.progress.step), group)
        made, files = writer(self.store, name)
        try:
            dcp.save(state, storage_writer=made, planner=SavePlanner(), process_group=group)
        except CheckpointException as error:
            first_rank(lambda: self._discard(name), group)
            raise InputError(
                f"{self.store.address(name)}: cannot be written ({reason(error)}); the checkpoint before it is whole. "
                "Free space or mend the rights, or name another output"
            ) from error
        every: list[dict[str, FileNote]] = [{}] * dist.get_world_size(group)
        dist.all_gather_object(every, files, group=group)
        size = first_rank(lambda: self._commit(name, every, known), group)
        self.ended = time.perf_counter()
        return name, size

    def _discard(self, name: str) -> None:
        """Removes what a failed attempt has written, as far as the store lets it; no rank writes there any more."""
        with suppress(InputError):
            self.store.remove(name)

    def _commit(self, name: str, every: list[dict[str, FileNote]], known: set[str]) -> int:
        """On rank 0: the job's small files, the manifest, and the removal of what is no longer kept."""
        files = {file: told for each in every for file, told in each.items()}
        for file, content in self.extras.items():
            assert file not in files, file
            files[file] = self.store.write(name, file, content)
        others = sorted(set(self.store.commits()) - known)
        if others:
            raise InputError(
                f"{self.store.address(others[-1])}: another run commits to this output; end one of the two, and name "
                "another output for it"
            )
        self.store.check_seen(name, files)
        self.store.commit(name, self.progress, self.job, self.data, files, time.time())
        self.store.prune(self.keep_last, self.abandoned_seconds)
        return sum(told.bytes for told in files.values())
