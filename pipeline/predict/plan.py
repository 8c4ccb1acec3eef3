"""What a prediction has to do: which model, which files, which of their units are left. No torch.

What is there already, of the same model, settings and input, is passed over: a file, or a unit of one. So the same
command goes on where it was killed, at any number of ranks, and scores each row once.
"""

import dataclasses
import datetime
import hashlib
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.data.history import Index, index_before
from pipeline.data.quarantine import Piece
from pipeline.predict.bad import BadRows
from pipeline.predict.inputs import LOCAL_THREADS, REMOTE_THREADS, InputFile, LeftOut, read_inputs
from pipeline.predict.output import FORMAT, OTHER, ROW, Done, Output, output_columns
from pipeline.storage import filesystem
from pipeline.train.checkpoint_store import Commit, found_commit
from pipeline.train.scoring import check_vocabularies, manifest_hash, model_job
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.predict import PredictConfig

KEY = "predict.checkpoint"
Unit = tuple[int, int, int, int]
"""File, row group, first row in it, row after the last."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A run's work, found and checked."""

    commit: Commit
    manifest_sha256: str
    job: JobConfig
    """The model's own structure, with the settings of this run."""
    files: list[InputFile]
    """All of the input's."""
    about: list[dict[str, Any]]
    """What each file's output says of itself."""
    done: dict[int, int]
    """Files that are there already, and their rows."""
    units: list[Unit]
    """What is left, in order."""
    left_out: list[LeftOut]
    history: Index | None
    """The statistics of earlier days, where the model looks back."""
    bad: list[Piece]
    """Bad rows of what is there already."""
    notes: list[str]
    complete: bool = False
    """Whether a run has come to its end, and nothing is left."""

    @property
    def config(self) -> PredictConfig:
        """The job's `predict`."""
        assert self.job.predict is not None
        return self.job.predict

    @property
    def rows(self) -> int:
        """Rows that are left."""
        return sum(end - begin for _, _, begin, end in self.units)

    @property
    def incomplete(self) -> list[int]:
        """Files that are not there yet."""
        return [at for at in range(len(self.files)) if at not in self.done]

    def fingerprint(self) -> str:
        """To tell whether all ranks do the same."""
        return hashlib.sha256(repr((self.about, self.units, self.manifest_sha256)).encode()).hexdigest()

    def bad_rows(self) -> BadRows:
        """Those found so far."""
        out = BadRows(self.job.data.bad, self.files, self.left_out)
        out.add(self.bad)
        return out

    def kept(self, file: int) -> pa.Schema:
        """The kept columns of a file."""
        return pa.ipc.read_schema(pa.py_buffer(self.files[file].schema))

    def to_bytes(self) -> bytes:
        """For the other ranks."""
        return pickle.dumps(self)


def prediction_from_bytes(data: bytes) -> Prediction:
    """What `to_bytes` wrote."""
    found = pickle.loads(data)
    assert isinstance(found, Prediction)
    return found


def plan_prediction(job: JobConfig, tell: Callable[[str], None] = print) -> Prediction:
    """Everything that the job's `predict` asks for. Raises InputError."""
    config = job.predict
    if config is None:
        raise InputError("predict: says nothing; give predict.input=PATH and predict.out=DIR")
    assert config.checkpoint is not None, "named by the job that calls this"
    commit = found_commit(config.checkpoint, KEY)
    own = model_job(job, KEY, commit, config.out.rstrip("/"))
    check_vocabularies(own, KEY, commit)
    if own.fusion is not None:
        own.fusion.check(own.tasks)
    _check_names(own, config)
    files, left_out = read_inputs(own, config)
    days = sorted({file.day for file in files if file.day is not None})
    history = index_before(own, days[-1], tell) if own.history and days else None
    sha256 = manifest_hash(commit)
    about = [_about(own, config, sha256, file, history) for file in files]
    found = Prediction(commit, sha256, own, files, about, {}, [], left_out, history, [], [])
    return _what_is_left(found)


def _check_names(own: JobConfig, config: PredictConfig) -> None:
    written = [ROW, *output_columns(own)]
    for name in config.keep:
        if name in written:
            raise InputError(
                f"predict.keep: '{name}' is a column that the prediction itself writes; rename it in the input, or do "
                "not keep it"
            )


def _about(
    own: JobConfig, config: PredictConfig, sha256: str, file: InputFile, history: Index | None
) -> dict[str, Any]:
    """What decides every number of the file's output; `input` is told apart from the settings."""
    earlier = None
    if history is not None:
        assert file.day is not None
        earlier = _digest(
            {
                name: {d: e for d, e in days.items() if datetime.date.fromisoformat(d) < file.day}
                for name, days in history.items()
            }
        )
    return {
        "format": FORMAT,
        "checkpoint": sha256,
        "fusion": None if own.fusion is None else own.fusion.model_dump(mode="json"),
        "keep": config.keep,
        "history": earlier,
        "input": {"bytes": file.size, "footer": file.footer.hex(), "version": file.version},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _what_is_left(found: Prediction) -> Prediction:
    output = Output(found.config.out)
    if any(file.path == f"{output.root}/{file.name}" for file in found.files):
        raise InputError(f"predict.out: '{found.config.out}' is the input's own folder; name another")
    _, root = filesystem(found.config.input, found.job.data.storage)
    below = output.root.removeprefix(f"{root.rstrip('/')}/")
    if below != output.root and not any(part[0] in "._" for part in below.split("/")):
        raise InputError(
            f"predict.out: '{found.config.out}' lies in the input, whose next run would score it too; name a folder "
            "beside it"
        )
    with ThreadPoolExecutor(LOCAL_THREADS if output.local else REMOTE_THREADS) as pool:
        there = list(pool.map(output.done, found.files))
    parts = output.parts()
    done: dict[int, int] = {}
    units: list[Unit] = []
    bad: list[Piece] = []
    notes: list[str] = []
    for at, (file, about, old) in enumerate(zip(found.files, found.about, there, strict=True)):
        if old is not None and _same(output, file, about, old, notes):
            done[at] = old.rows
            bad += old.bad
            continue
        for unit in file.units():
            part = output.part(about, file, unit)
            if part in parts:
                bad += output.bad_of_part(part)
            else:
                units.append((at, *unit))
    complete = len(done) == len(found.files) and output.finished(len(found.files))
    found = dataclasses.replace(found, done=done, units=units, bad=bad, notes=notes, complete=complete)
    found.bad_rows().check_budget()
    return found


def _same(output: Output, file: InputFile, about: dict[str, Any], old: Done, notes: list[str]) -> bool:
    """Whether the output is that of this input. Raises InputError where it is of another model or other settings."""
    unlike = [key for key in about if key != "input" and old.about.get(key) != about[key]]
    if unlike:
        what = {"checkpoint": "another checkpoint", "history": "other statistics of earlier days"}
        told = ", ".join(what.get(key, f"another {key}") for key in unlike)
        raise InputError(f"{output.url}/{file.name}: is there already, of {told}; {OTHER}")
    if old.about["input"] != about["input"]:
        notes.append(f"note: {file.name} changed since it was scored; scored again")
        return False
    return True
