"""Runs as they are recorded: the journal of their attempts, and result.json. No torch, no network but the output's own.

A folder holds the attempts of one training, or of several where days of retraining share a `tracking.folder`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline.journal import Attempt, attempts, series
from pipeline.storage import bounded, filesystem, reason
from schemas.errors import InputError
from schemas.events import StorageConfig
from schemas.job import JobConfig

RESULT = "result.json"
"""As pipeline.train.result writes it, which brings torch along."""
Series = list[tuple[int, float]]


@dataclasses.dataclass
class Run:
    """One training: all its attempts, and what they came to."""

    name: str
    folder: str
    tried: list[Attempt]
    values: dict[str, Series]
    """Key -> (rows trained, value)."""
    result: dict[str, Any] | None
    label: str = ""
    """What it is called beside others."""

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.tried[-1] if self.tried else None

    @property
    def about(self) -> dict[str, Any]:
        """Its configuration and whatever else the newest attempt told of itself."""
        return self.tried[-1].about if self.tried else {}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration alone."""
        keys = {field.alias or name for name, field in JobConfig.model_fields.items()}
        return {key: value for key, value in self.about.items() if key in keys}

    @property
    def kinds(self) -> dict[str, str]:
        """Task -> binary or regression."""
        if self.about.get("tasks"):
            return {task["name"]: task.get("kind", "binary") for task in self.about["tasks"]}
        return {name: told["kind"] for name, told in (self.result or {}).get("tasks", {}).items()}

    @property
    def samples(self) -> int:
        """Rows trained, as far as told."""
        told = [points[-1][0] for points in self.values.values()] + [a.samples for a in self.tried]
        return max([*told, (self.result or {}).get("samples", 0)], default=0)

    @property
    def began_at(self) -> list[int]:
        """Rows trained where attempts after the first went on."""
        return sorted({attempt.samples for attempt in self.tried[1:] if attempt.samples})

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.last.outcome == "finished" if self.last is not None else self.result is not None

    def of(self, *parts: str) -> Series:
        """The series of one key; empty where it was never told."""
        return self.values.get("/".join(parts), [])

    def below(self, *parts: str) -> dict[str, Series]:
        """What follows the prefix in each of its keys -> series."""
        prefix = "/".join(parts) + "/"
        return {key.removeprefix(prefix): points for key, points in self.values.items() if key.startswith(prefix)}

    def curves(self) -> tuple[int, str, dict[str, Any]] | None:
        """The newest calibration curves and score histograms: (rows trained, split, by row of the closing table)."""
        found = [told for attempt in self.tried for told in attempt.curves]
        return found[-1] if found else None

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Row of the closing table, as `order (joint)` -> the evaluation's metrics; empty without one."""
        if self.result is not None and self.result.get("tasks") and self.result.get("samples") == self.samples:
            rows = {name: told["own"] for name, told in self.result["tasks"].items()}
            return rows | {f"{n} (joint)": t["joint"] for n, t in self.result["tasks"].items() if "joint" in t}
        rows, trained = {}, max((points[-1][0] for points in self.below("train").values()), default=0)
        for task in self.kinds:
            told = {key: points[-1][1] for key, points in self.below("eval", task).items() if points[-1][0] >= trained}
            own = {key: value for key, value in told.items() if not key.startswith("joint_")}
            joint = {key.removeprefix("joint_"): value for key, value in told.items() if key.startswith("joint_")}
            rows |= ({task: own} if own else {}) | ({f"{task} (joint)": joint} if joint else {})
        own_first = [name for name in rows if not name.endswith(" (joint)")]
        return {name: rows[name] for name in [*own_first, *(n for n in rows if n not in own_first)]}

    def rows_of_training(self) -> list[str]:
        """The rows of the closing table that training tells a metric of: tasks, then joint probabilities."""
        joint = [f"{task} (joint)" for task in self.kinds if self.of("train", task, "joint_auc")]
        return [*self.kinds, *joint]


def runs_at(place: str) -> list[Run]:
    """The trainings recorded in a folder, or whose output is this folder or URL; none where there is no record.

    Raises InputError for a record that is damaged.
    """
    place = place.rstrip("/") or "/"
    folder, result = place, read_json(f"{place}/{RESULT}")
    if "://" in place:
        folder = f"runs/{result['name']}" if result else ""
    tried = [one for one in attempts(Path(folder)) if "tasks" in one.about] if folder else []
    names = list(dict.fromkeys(one.job for one in tried))
    if result is not None and result.get("name") not in names and len(names) <= 1 and not tried:
        return [Run(result["name"], place, [], {}, result, result["name"])]
    out = []
    for name in names:
        own = [one for one in tried if one.job == name]
        # of an attempt that came to its end: what an earlier one, or another run, left there tells nothing of this
        told = _result(name, place, own[-1].about, result) if own[-1].outcome == "finished" else None
        out.append(Run(name, place, own, series(own), told, name))
    return out


def _result(name: str, place: str, about: dict[str, Any], here: dict[str, Any] | None) -> dict[str, Any] | None:
    """The run's result: beside its record, or in its output."""
    output = str(about.get("output", ""))
    for found in (here, read_json(f"{output.rstrip('/')}/{RESULT}") if output else None):
        if found is not None and found.get("name") == name:
            return found
    return None


def read_json(url: str) -> dict[str, Any] | None:
    """A small JSON file; None where there is none. Raises InputError where it is none."""
    fs, path = filesystem(url)
    try:
        fs.invalidate_cache()
        found = json.loads(bounded(lambda: fs.cat_file(path), fs, StorageConfig()))
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")
        return found
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except Exception as error:  # every driver has exceptions of its own; and what was cut short is no JSON
        raise InputError(f"{url}: cannot be read ({reason(error)}); restore it, or remove it to go on") from error
