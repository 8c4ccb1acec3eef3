"""Which models a scoring run loads, each under the structure of its own commit, and the rows they are scored on.

No torch. A model that was scored before, on the same rows and under the same settings, is passed over.
"""

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from pipeline.data.freeze import evaluation_manifest
from pipeline.data.history import attach
from pipeline.data.manifest import HISTORY, Manifest, from_bytes
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.predictions import scored
from pipeline.storage import filesystem
from pipeline.train.checkpoint_store import MANIFEST, CheckpointStore, Commit, found_commit, note
from schemas.errors import InputError
from schemas.identity import VOCABULARIES, digest
from schemas.job import JobConfig
from schemas.score import ScoreConfig

NOT_ITS_OWN = (VOCABULARIES, "tracking", "warm_start", "score", "predict", "evaluate", "fuse", "fusion", "daily")
"""Of a saved configuration, what a scoring does not take from there."""


@dataclasses.dataclass(frozen=True)
class ToScore:
    """One model, and what it is scored on."""

    name: str
    commit: Commit
    manifest_sha256: str
    """Of the commit's manifest.json, which holds the hash of every other file."""
    job: JobConfig
    """The model's own structure, with the data and the settings of the scoring."""
    rows: Manifest

    def fingerprint(self, predictions: bool) -> str:
        """Hash of all that decides what is written."""
        data = self.job.data
        parts = {
            "checkpoint": self.manifest_sha256,
            "rows": self.rows.fingerprint,
            "history": self.rows.origin.get(HISTORY),
            "holdout": data.holdout and data.holdout.model_dump(mode="json"),
            "funnel": data.funnel,
            "bad": data.bad.model_dump(mode="json"),
            "predictions": predictions,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What a run has to do."""

    models: list[ToScore]
    """All that the job names."""
    passed_over: list[str]
    """Models that were scored before."""

    @property
    def todo(self) -> list[ToScore]:
        """The others."""
        return [model for model in self.models if model.name not in self.passed_over]

    def to_bytes(self) -> bytes:
        """For the other ranks."""
        models = [(each.name, each.commit, each.manifest_sha256, each.rows.to_bytes()) for each in self.models]
        return pickle.dumps((models, self.passed_over))


def scoring_from_bytes(data: bytes, job: JobConfig) -> Scoring:
    """What `to_bytes` wrote."""
    told, passed_over = pickle.loads(data)
    root = filesystem(job.data.path, job.data.storage)[1]
    models = [
        ToScore(name, commit, sha256, _own_job(job, name, commit), from_bytes(rows, root, "the rows handed over"))
        for name, commit, sha256, rows in told
    ]
    return Scoring(models, passed_over)


def _key(name: str) -> str:
    return f"score.models.{name}"


def plan_scoring(job: JobConfig, key: Callable[[str], str] = _key) -> Scoring:
    """Every model that the job names, found and checked; `key` is the configuration's that names a model.

    Raises InputError for a checkpoint that is not there, a structure that this version does not read, a vocabulary that
    is not the one it was trained with, and rows that a model cannot read.
    """
    score = score_of(job)
    models: list[ToScore] = []
    passed_over: list[str] = []
    tell: Callable[[str], None] = print
    first: ToScore | None = None
    for name, checkpoint in score.models.items():
        each = _planned(job, name, checkpoint, key(name), tell)
        tell = _silent  # the same rows once more
        first = first or each
        if each.rows.fingerprint != first.rows.fingerprint:
            raise InputError(
                f"{key(name)}: data.bad leaves other files out for it than for '{first.name}', so the two "
                "would be scored on other rows; set data.bad to error, or score them apart"
            )
        models.append(each)
        if _done(score, each):
            passed_over.append(name)
    return Scoring(models, passed_over)


def score_of(job: JobConfig) -> ScoreConfig:
    """The job's `score`. Raises InputError where it, or data.eval, is missing."""
    if job.score is None:
        raise InputError("score: names no model; give score.out=DIR and score.models.NAME=CHECKPOINT")
    if job.data.eval is None:
        raise InputError("data.eval: missing, and its days are what models are scored on; name them")
    return job.score


def model_job(job: JobConfig, key: str, commit: Commit, output: str) -> JobConfig:
    """The job that the commit was saved under, with the data and the settings of this one.

    The days that its history begins with stay its own: they decide what its features mean. Its fused score is this
    job's, where that declares one. Raises InputError, naming the `key` of the configuration, where this version does
    not read what was saved.
    """
    saved = {name: value for name, value in commit.job.items() if name not in NOT_ITS_OWN}
    saved |= {"fusion": commit.job.get("fusion")} if job.fusion is None else {}
    try:
        own = JobConfig.model_validate(saved)
    except (ValidationError, InputError) as error:
        said = str(error).split("\n", 1)[0]
        raise InputError(
            f"{key}: {commit.path} was saved under a configuration that this version does not read "
            f"({said}); score it with the version that saved it"
        ) from error
    history = job.data.history.model_copy(
        update={
            "first": own.data.history_from,
            "folder": job.data.history.folder or f"{job.output.rstrip('/')}/statistics",
        }
    )
    changed: dict[str, Any] = {
        "name": job.name,
        "output": output,
        "data": job.data.model_copy(update={"train": own.data.train, "history": history}),
        "train": job.train.model_copy(update={"precision": own.train.precision}),
        "fusion": job.fusion or own.fusion,
        **{name: getattr(job, name) for name in ("tracking", "score", "predict", "evaluate", "fuse")},
    }
    return own.model_copy(update=changed)


def manifest_hash(commit: Commit) -> str:
    """SHA-256 of the commit's manifest.json, which holds the hash of every other file."""
    folder, attempt = commit.path.rsplit("/", 1)
    return note(CheckpointStore(folder).read(attempt, MANIFEST)).sha256


def _own_job(job: JobConfig, name: str, commit: Commit, key: str = "") -> JobConfig:
    return model_job(job, key or _key(name), commit, f"{score_of(job).out.rstrip('/')}/{name}")


def _planned(job: JobConfig, name: str, checkpoint: str, key: str, tell: Callable[[str], None]) -> ToScore:
    commit = found_commit(checkpoint, key)
    own = _own_job(job, name, commit, key)
    check_vocabularies(own, key, commit)
    rows = evaluation_manifest(own, tell)
    assert rows is not None
    assert own.data.eval is not None
    attach(own, [(rows, own.data.eval)])
    return ToScore(name, commit, manifest_hash(commit), own, rows)


def check_vocabularies(own: JobConfig, key: str, commit: Commit) -> None:
    """Raises InputError where a row of a table would mean another value than in training."""
    try:
        found = fingerprints(own)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    told = commit.job.get(VOCABULARIES) or {}
    for feature in own.valued:
        if feature.vocabulary and digest(told.get(feature.name, "")) != digest(found[feature.name]):
            raise InputError(
                f"{key}: '{feature.vocabulary}', the vocabulary of feature '{feature.name}', holds other "
                f"values than when {commit.path} was saved, so the table's rows would change their meaning; restore "
                "the file"
            )


def _done(score: ScoreConfig, each: ToScore) -> bool:
    """Whether the model's scores are there, of the same rows and settings, with the files they speak of."""
    try:
        told = scored(score.out, each.name)
    except InputError:  # not to be read: written anew
        return False
    if told is None or told.get("fingerprint") != each.fingerprint(score.predictions):
        return False
    fs, folder = filesystem(f"{score.out}/{each.name}")
    files = (told.get("predictions") or {}).get("files", {})
    return all(fs.exists(f"{folder}/{file}") and fs.size(f"{folder}/{file}") == size for file, size in files.items())


def _silent(_: str) -> None:
    """Says nothing."""
