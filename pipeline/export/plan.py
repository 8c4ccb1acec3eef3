"""What is exported: a commit, under what, checked before torch is loaded."""

import dataclasses
import datetime
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.predictions import Predictions, read_predictions, scored
from pipeline.train.checkpoint_store import Commit, found_commit
from pipeline.train.scoring import check_vocabularies, manifest_hash
from schemas.errors import InputError
from schemas.identity import VOCABULARIES
from schemas.job import JobConfig
from schemas.load import parse_job, with_overrides

NOT_EXPORTED = (VOCABULARIES, "tracking", "warm_start", "score", "predict", "evaluate", "fuse", "daily")
"""Of a saved configuration, what a bundle does not take."""
KEY = "CHECKPOINT"
ONNX = ("onnx", "onnxscript", "onnxruntime")
"""Packages that write and try model.onnx."""
Method = Literal["platt", "isotonic"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """By what the probabilities are calibrated."""

    method: Method
    predictions: Predictions
    source: str
    """Where these predictions lie."""


@dataclasses.dataclass(frozen=True)
class Export:
    """One export, found and checked."""

    commit: Commit
    manifest_sha256: str
    job: JobConfig
    """As the commit was saved, with its fused score."""
    out: str
    tables: Literal["fp32", "fp16", "int8"]
    aoti: bool
    onnx: bool
    day: datetime.date
    """The statistics of earlier days are those before it."""
    calibration: Calibration | None


def plan_export(
    checkpoint: str,
    out: str,
    tables: Literal["fp32", "fp16", "int8"] = "fp32",
    aoti: bool = False,
    onnx: bool = False,
    as_of: str | None = None,
    calibrate: Method | None = None,
    predictions: str | None = None,
    overrides: Sequence[str] = (),
) -> Export:
    """The checked export. No torch; raises InputError."""
    if "://" in out:
        raise InputError(
            f"--out: '{out}' is a URL, and a bundle is written to a folder; name one, and copy it from there"
        )
    if Path(out).exists():
        raise InputError(f"--out: '{out}' is there already; name another, or remove it")
    lacking = [name for name in ONNX if onnx and importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(f"--onnx needs {', '.join(lacking)}; FULCRUM_EXTRAS=onnx ./launch.sh export installs what is")
    commit = found_commit(checkpoint, KEY)
    job = _job(commit, overrides)
    check_vocabularies(job, KEY, commit)
    sha256 = manifest_hash(commit)
    calibration = None
    if (calibrate is None) != (predictions is None):
        raise InputError(
            "--calibrate METHOD and --predictions SCORES/NAME go together: ./launch.sh score writes such predictions "
            "of this checkpoint"
        )
    if calibrate is not None and predictions is not None:
        calibration = Calibration(calibrate, _predictions(predictions, sha256, job), predictions)
    return Export(commit, sha256, job, out, tables, aoti, onnx, _day(job, as_of), calibration)


def _day(job: JobConfig, as_of: str | None) -> datetime.date:
    last = job.data.train.last
    if as_of is None:
        return last + datetime.timedelta(1)
    if not job.history:
        raise InputError("--as-of: no feature of this model looks at earlier days; leave it out")
    try:
        day = datetime.date.fromisoformat(as_of)
    except ValueError:
        raise InputError(f"--as-of: '{as_of}' is no day; write it as {last}") from None
    if day <= job.data.history_from:
        raise InputError(f"--as-of: {day} has no earlier day: the history begins on {job.data.history_from}")
    return day


MAY_CHANGE = ("data.path", "data.history.folder", "fusion")
"""Of a saved configuration: where things lie, and what is made of the probabilities; the vocabularies' paths too."""


def _job(commit: Commit, overrides: Sequence[str]) -> JobConfig:
    for override in overrides:
        key = override.partition("=")[0]
        vocabulary = key.startswith("features.") and key.endswith(".vocabulary")
        if key not in MAY_CHANGE and not key.startswith("fusion.") and not vocabulary:
            raise InputError(
                f"'{override}': a checkpoint comes with its configuration, of which {', '.join(MAY_CHANGE)} and "
                "features.NAME.vocabulary alone may change"
            )
    saved = with_overrides({key: value for key, value in commit.job.items() if key not in NOT_EXPORTED}, overrides)
    try:
        job = parse_job(saved, commit.path)
    except InputError as error:
        if overrides:
            raise
        said = str(error).split("\n", 1)[0]
        raise InputError(
            f"{KEY}: {commit.path} was saved under a configuration that this version does not read ({said}); export it "
            "with the version that saved it"
        ) from error
    if job.train.precision == "auto":  # evaluated in fp32 under either
        job = job.model_copy(update={"train": job.train.model_copy(update={"precision": "fp32"})})
    return job


def _predictions(place: str, sha256: str, job: JobConfig) -> Predictions:
    url, _, name = place.rstrip("/").rpartition("/")
    told = scored(url or ".", name)
    if told is None:
        raise InputError(f"--predictions: '{place}' is no scored model; name OUT/NAME of a ./launch.sh score")
    if told["manifest_sha256"] != sha256:
        raise InputError(
            f"--predictions: '{place}' holds those of another checkpoint, {told['checkpoint']}; score this one"
        )
    found = read_predictions(url or ".", name)
    if found.tasks != [task.name for task in job.tasks]:
        raise InputError(f"--predictions: '{place}' tells of tasks {found.tasks}, and the checkpoint has others")
    return found
