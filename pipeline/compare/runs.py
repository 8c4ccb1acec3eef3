"""One run: a side and a seed, in a folder of its own, which is bound to its job, its ranks and its rows.

DIR/runs/SIDE/SEED/job.yaml       the job, to be run by hand too
                   run.json       what it is bound to
                   run.log        what it printed, attempt after attempt
                   result.json    the training job's own record, once it has finished
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.files import plan
from pipeline.data.history import attach
from pipeline.data.manifest import HISTORY
from pipeline.data.vocabulary_lookup import fingerprints
from schemas.errors import InputError
from schemas.identity import VOCABULARIES, changes, digest, fingerprint, numeric
from schemas.job import JobConfig

BOUND, LOG, JOB, RESULT = "run.json", "run.log", "job.yaml", "result.json"


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that a job reads, by fingerprint."""

    training: str
    evaluation: str
    vocabularies: dict[str, str]
    history: str = ""
    """Of the statistics of earlier days, where the job looks back."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A side and a seed."""

    side: str
    seed: int
    folder: Path
    job: JobConfig
    """With this run's seed and output."""
    rows: Rows
    ranks: int

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.folder / LOG

    @property
    def words(self) -> str:
        """As it is called in messages."""
        return f"{self.side}, seed {self.seed}"

    def bound(self) -> dict[str, Any]:
        """What its results are bound to."""
        config = self.job.model_dump(mode="json", by_alias=True)
        return {"job": numeric(config), "rows": dataclasses.asdict(self.rows), "ranks": self.ranks}

    def check(self) -> None:
        """Raises InputError where its folder was filled by another job, other rows or another number of ranks."""
        before = _read(self.folder / BOUND)
        if before is None:
            return
        now = json.loads(json.dumps(self.bound()))
        if changed := sorted(key.removeprefix("job.") for key in changes(before, now)):
            raise InputError(
                f"{self.folder}: was run with other settings or rows; {', '.join(changed)} changed. Set them back to "
                f"go on, name another --out, or remove {self.folder.parent} to run the side anew"
            )

    def prepare(self) -> None:
        """Writes its folder but for what the run itself writes; nothing where that is done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.job.model_dump(mode="json", by_alias=True)
        _write(self.folder / JOB, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        _write(self.folder / BOUND, json.dumps(self.bound(), indent=1))

    def result(self) -> dict[str, Any] | None:
        """Its record; None where it has not finished. Raises InputError for a record that is not of this run."""
        record = _read(self.folder / RESULT)
        if record is None:
            return None
        config = self.job.model_dump(mode="json", by_alias=True) | {VOCABULARIES: self.rows.vocabularies}
        wanted = {
            "job": fingerprint(config),
            "training": self.rows.training,
            "evaluation": self.rows.evaluation,
        }
        told = {"fingerprints": wanted, "ranks": self.ranks}
        if changed := changes({key: record.get(key) for key in told}, told):
            raise InputError(
                f"{self.folder / RESULT}: is of another run ({', '.join(sorted(changed))}); remove {self.folder} to "
                "run it anew"
            )
        return record


def parent_of(side: str, out: Path) -> str | None:
    """The checkpoint from which the side's runs in this folder begin; None where none has been started."""
    for path in sorted((out / "runs" / side).glob(f"*/{BOUND}")):
        begun = (_read(path) or {}).get("job", {}).get("warm_start")
        if begun is not None:
            return str(begun["checkpoint"])
    return None


def runs_of(sides: Mapping[str, JobConfig], seeds: Iterable[int], out: Path, ranks: int) -> list[Run]:
    """Every run, seed by seed, so that a comparison cut short has whole seeds.

    Reads the logs' footers, and counts what is missing of the statistics of earlier days, for all runs together.
    Raises InputError for logs that do not fit, sides that are evaluated on unlike rows, and as `Run.check`.
    """
    planned: dict[str, tuple[str, str, str]] = {}
    sides = {name: _sharing(job, out) for name, job in sides.items()}
    rows = {name: _rows(job, planned) for name, job in sides.items()}
    first = next(iter(sides))
    for name in sides:
        if rows[name].evaluation != rows[first].evaluation:
            raise InputError(f"sides '{first}' and '{name}' are evaluated on unlike files; give them one data.eval")
    found = []
    for seed in seeds:
        for name, job in sides.items():
            folder = out / "runs" / name / str(seed)
            tracking = job.tracking.model_copy(update={"group": job.tracking.group or job.name, "folder": None})
            given = {"seed": seed, "output": str(folder), "name": f"{job.name}.{name}.{seed}", "tracking": tracking}
            given["train"] = job.train.model_copy(update={"resume": True})
            found.append(Run(name, seed, folder, job.model_copy(update=given), rows[name], ranks))
    for run in found:
        run.check()
    return found


def _sharing(job: JobConfig, out: Path) -> JobConfig:
    """The job with one folder for all runs' statistics of earlier days, unless it names one."""
    if not job.history or job.data.history.folder is not None:
        return job
    history = job.data.history.model_copy(update={"folder": str(out / "statistics")})
    return job.model_copy(update={"data": job.data.model_copy(update={"history": history})})


def _rows(job: JobConfig, planned: dict[str, tuple[str, str, str]]) -> Rows:
    """What the job reads; `planned` remembers what was looked up for other sides."""
    looks_back = [feature.model_dump(mode="json") for feature in job.history]
    key = json.dumps([job.data.model_dump(mode="json"), sorted(job.columns), looks_back])
    if key not in planned:
        assert job.data.eval is not None
        training, evaluation = plan(job, job.data.train), plan(job, job.data.eval)
        attach(job, [(training, job.data.train), (evaluation, job.data.eval)])
        told = json.dumps(evaluation.origin.get(HISTORY, ""), sort_keys=True).encode()
        history = hashlib.sha256(told).hexdigest() if job.history else ""
        planned[key] = (training.fingerprint, evaluation.fingerprint, history)
    training_rows, evaluation_rows, history = planned[key]
    vocabularies = {feature: digest(told) for feature, told in fingerprints(job).items()}
    return Rows(training_rows, evaluation_rows, vocabularies, history)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove {path.parent} to run it anew") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no record; remove {path.parent} to run it anew")
    return content


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
