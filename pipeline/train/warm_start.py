"""What a new run begins from: another run's commit, found and checked against the new job's structure. No torch.

The parent's address, step and manifest hash stand in `lineage.json` in each of the new run's commits.
"""

import dataclasses
import json
import os

from pipeline.train.checkpoint_store import MANIFEST, CheckpointStore, Commit, found_commit, note
from pipeline.train.migrate_structure import Difference, check_structure
from schemas.identity import VOCABULARIES, entries
from schemas.job import JobConfig

LINEAGE = "lineage.json"


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The commit a run began from."""

    path: str
    """Its directory: a URL, or an absolute path."""
    step: int
    manifest_sha256: str
    """Of its manifest.json, which holds the hash of every other file."""
    optimizer_steps: int
    """Steps that the tables' optimizer state had seen before this run, all ancestors together; 0 without it."""
    weight_steps: int = 0
    """Under `loss_weights: continue`, the steps that t of w0 gamma^t goes on from: all ancestors' since one that
    restarted; else 0. A lineage of an older version, without it, restarted."""
    weight_epochs: int = 0
    """The same in whole epochs, for tasks that decay by epoch."""

    def encoded(self) -> bytes:
        """As it is kept in a commit."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


@dataclasses.dataclass(frozen=True)
class Parent:
    """A commit to begin from, whose structure fits the job but for the differences that the job names."""

    commit: Commit
    differences: list[Difference]
    lineage: Lineage
    listed: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """By table whose vocabulary was extended, first row and last + 1 of the values that it lists anew."""


def find_parent(job: JobConfig, vocabularies: dict[str, str]) -> Parent:
    """The commit that `warm_start.checkpoint` names, checked; `vocabularies`: fingerprints by feature.

    Raises InputError where there is none, and see `check_structure`.
    """
    assert job.warm_start is not None
    commit = found_commit(job.warm_start.checkpoint, "warm_start.checkpoint")
    differences = check_structure(commit.job, job, vocabularies, commit.path)
    before = lineage_of(commit)
    done = commit.progress
    goes_on = job.warm_start.loss_weights == "continue"
    folder, name = commit.path.rsplit("/", 1)
    lineage = Lineage(
        path=commit.path if "://" in commit.path else os.path.abspath(commit.path),
        step=done.step,
        manifest_sha256=note(CheckpointStore(folder).read(name, MANIFEST)).sha256,
        optimizer_steps=done.step + (before.optimizer_steps if before else 0) if job.warm_start.optimizer else 0,
        weight_steps=done.step + (before.weight_steps if before else 0) if goes_on else 0,
        weight_epochs=done.epoch + (before.weight_epochs if before else 0) if goes_on else 0,
    )
    return Parent(commit, differences, lineage, _listed(job, commit.job.get(VOCABULARIES) or {}, vocabularies))


def _listed(job: JobConfig, before: dict[str, str], now: dict[str, str]) -> dict[str, tuple[int, int]]:
    """By table, the rows from the parent's number of values to the job's, which were checked to begin alike."""
    out = {}
    for feature in job.embedded:
        one, other = (entries(told.get(feature.name, "")) for told in (before, now))
        if one is not None and other is not None and one < other:
            out[feature.table_name] = (one, other)
    return out


def check_warm_start(job: JobConfig, vocabularies: dict[str, str]) -> None:
    """Raises InputError as `find_parent` does, for a job that has nothing of its own to go on from."""
    if job.warm_start is not None and CheckpointStore(f"{job.output}/checkpoints").newest() is None:
        find_parent(job, vocabularies)


def lineage_of(commit: Commit) -> Lineage | None:
    """What the commit's own run began from; None where it began from the seed."""
    return Lineage(**json.loads(commit.read(LINEAGE))) if LINEAGE in commit.files else None
