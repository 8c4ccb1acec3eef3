"""Committed checkpoints: a new directory each, every file written before the manifest that makes it count.

    CHECKPOINTS/step-00000200/*.distcp, .metadata     torch.distributed.checkpoint: model and optimizers
    CHECKPOINTS/step-00000200/manifest.json           written last: progress, config, every file's size and hash

A directory without a manifest was torn by a crash: it is never read, and it is removed before its step is saved
again. Nothing is ever written into a committed directory, because a save killed half-way would leave old and new
weights side by side.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torchrec.optim.keyed import CombinedOptimizer

from schemas.errors import InputError

MANIFEST = "manifest.json"
READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: all it needs, beside the weights, to go on."""

    step: int
    """Training steps done."""
    epoch: int
    """Epoch of the next row."""
    rows_done: int
    """Rows of that epoch done, over all ranks: the next row of its global order."""
    samples: int
    """Rows trained in all."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """A committed checkpoint."""

    path: Path
    progress: Progress
    job: dict[str, Any]
    """The job's configuration as it was."""
    data: str
    """Fingerprint of the training data's manifest."""


class Checkpoints:
    """The checkpoints of one run, under one folder that all ranks see."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def newest(self) -> Commit | None:
        """The newest committed checkpoint, or None. Every rank may call it: it only reads."""
        found = _committed(self.folder)
        return _read_manifest(found[-1]) if found else None

    def save(
        self, model: nn.Module, optimizer: CombinedOptimizer, progress: Progress, job: dict[str, Any], data: str
    ) -> Path:
        """Writes and commits a checkpoint; every rank must call it. Returns its directory."""
        path = self.folder / f"step-{progress.step:08d}"
        with _first_rank_prepares():
            if dist.get_rank() == 0:
                if (path / MANIFEST).exists():
                    raise InputError(f"{path} is committed already; a checkpoint is never written over")
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
        try:
            with _quiet():
                dcp.save(_state(model, optimizer), checkpoint_id=path)
        except CheckpointException as error:
            raise InputError(
                f"{path}: cannot be written ({_reason(error)}); the checkpoint before it is whole. Free space or name "
                "another output"
            ) from error
        with _first_rank_prepares():
            if dist.get_rank() == 0:
                _commit(path, {"progress": dataclasses.asdict(progress), "job": job, "data": data})
                self._prune()
        return path

    def _prune(self) -> None:
        whole = _committed(self.folder)
        for old in whole[: -self.keep_last]:
            (old / MANIFEST).unlink()  # first: a removal cut short leaves nothing that looks whole
        for old in self.folder.glob("step-*"):
            if old < whole[-1] and not (old / MANIFEST).exists():
                shutil.rmtree(old)  # those, and what crashes have torn


def load_training(commit: Commit, model: nn.Module, optimizer: CombinedOptimizer) -> None:
    """Loads weights and optimizer state in place; every rank must call it.

    Raises InputError where files changed since the commit, or the model or plan is not the one saved.
    """
    _verify(commit)
    state = _state(model, optimizer)
    _read(commit, state)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    # the fused Adam counts its steps outside its state
    optimizer.set_optimizer_step(commit.progress.step)


def load_model(commit: Commit, model: nn.Module) -> None:
    """Loads the weights alone in place, under any sharding plan and number of ranks; every rank must call it."""
    _verify(commit)
    state = {"model": model.state_dict()}
    _read(commit, state)
    model.load_state_dict(state["model"])


def _state(model: nn.Module, optimizer: CombinedOptimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _read(commit: Commit, state: dict[str, Any]) -> None:
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=commit.path)
    except CheckpointException as error:
        raise InputError(
            f"{commit.path}: does not fit this model, optimizer or sharding plan ({_reason(error)}); "
            "go on with the configuration it was saved under, or name another output"
        ) from error


def _reason(error: CheckpointException) -> str:
    """The first rank's own words, one line of them."""
    first = next(iter(error.failures.values()), None)
    cause = first[0] if isinstance(first, tuple) else first
    return str(cause or error).split("\n", 1)[0]


def _committed(folder: Path) -> list[Path]:
    """Committed directories, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{MANIFEST}"))


def _commit(path: Path, content: dict[str, Any]) -> None:
    """Writes the manifest so that it appears whole or not at all, and survives a power cut once it has."""
    content["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": _hash(file)} for file in sorted(path.iterdir())
    }
    draft = path / (MANIFEST + ".draft")
    with draft.open("w") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(path / MANIFEST)
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_manifest(path: Path) -> Commit:
    content = json.loads((path / MANIFEST).read_text())
    return Commit(path, Progress(**content["progress"]), content["job"], content["data"])


def _verify(commit: Commit) -> None:
    """Rank 0 compares every file with the manifest; all ranks raise alike."""
    with _first_rank_prepares():
        if dist.get_rank() == 0:
            files = json.loads((commit.path / MANIFEST).read_text())["files"]
            for name, told in files.items():
                file = commit.path / name
                if not file.exists() or file.stat().st_size != told["bytes"] or _hash(file) != told["sha256"]:
                    raise InputError(
                        f"{file}: missing, cut short or changed since it was committed; restore it, or remove "
                        f"{commit.path} to go on from the checkpoint before"
                    )


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _first_rank_prepares() -> Iterator[None]:
    """What rank 0 does inside is done before any rank goes on; its failure is every rank's."""
    failure: list[str | None] = [None]
    caught: Exception | None = None
    try:
        yield
    except (InputError, OSError) as error:
        caught, failure = error, [str(error)]
    dist.broadcast_object_list(failure, src=0)
    if caught is not None:
        raise caught if isinstance(caught, InputError) else InputError(f"a checkpoint: {caught}") from caught
    if failure[0] is not None:
        raise InputError(f"rank 0 failed: {failure[0]}")


@contextmanager
def _quiet() -> Iterator[None]:
    """DCP warns of deprecations inside itself on every call, TorchRec of every replicated table."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
        yield
