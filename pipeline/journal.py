"""A run's own record, whatever becomes of wandb: all that it told, a line each, in the order it was told. No torch.

    FOLDER/journal/0001-train.jsonl
        {"line": "begin", "format": 1, "job": ..., "job_type": ..., "samples": ..., "about": {...}}
        {"line": "values", "samples": ..., "values": {"train/click/auc": 0.71, ...}}
        {"line": "curves", "samples": ..., "split": "eval", "curves": {...}}
        {"line": "alert", "title": ..., "text": ..., "level": ...}
        {"line": "end", "outcome": "finished", "why": ""}

One file an attempt, numbered. Every line has the `time` in seconds since 1970. An attempt that was killed has no end,
and perhaps a last line that was cut short, which is passed over.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from schemas.errors import InputError, redacted

FOLDER = "journal"
FORMAT = 1
Outcome = Literal["finished", "refused", "stopped", "failed"]
"""refused: by the gate; stopped: told to, and committed."""
Line = dict[str, Any]


class Journal:
    """The record of one attempt, while it is written. Raises OSError where it cannot be."""

    def __init__(self, folder: Path, job: str, job_type: str, samples: int, about: dict[str, Any]) -> None:
        """`samples` rows were trained before it; `about` is its configuration and whatever else there is to say."""
        self.path = _next_file(folder / FOLDER, job_type)
        begin = {"format": FORMAT, "job": job, "job_type": job_type, "samples": samples, "about": about}
        self._write("begin", begin)

    def values(self, samples: int, values: dict[str, float]) -> None:
        """Numbers by key, as of `samples` rows trained."""
        told = {key: value if math.isfinite(value) else str(value) for key, value in values.items()}  # JSON has no inf
        self._write("values", {"samples": samples, "values": told})

    def curves(self, samples: int, split: str, curves: dict[str, Any]) -> None:
        """Calibration and score histograms of a split, in plain data."""
        self._write("curves", {"samples": samples, "split": split, "curves": curves})

    def alert(self, title: str, text: str, level: str) -> None:
        """What people were told."""
        self._write("alert", {"title": redacted(title), "text": redacted(text), "level": level})

    def end(self, outcome: Outcome, why: str = "") -> None:
        """The last line."""
        self._write("end", {"outcome": outcome, "why": redacted(why)})

    def _write(self, kind: str, told: Line) -> None:
        line = json.dumps({"line": kind, "time": time.time(), **told})
        with self.path.open("a", encoding="utf-8") as file:  # anew each time: nothing is left open where a run breaks
            file.write(line + "\n")


@dataclass
class Attempt:
    """One record, read."""

    path: Path
    job: str
    job_type: str
    began: float
    """Seconds since 1970, as every time here."""
    samples: int
    """Rows trained before it."""
    about: dict[str, Any]
    points: list[tuple[float, int, dict[str, float]]] = field(default_factory=list)
    """(time, rows trained, values by key), in order."""
    curves: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    """(rows trained, split, curves), in order."""
    alerts: list[Line] = field(default_factory=list)
    outcome: Outcome | None = None
    """None: it is at work, or was killed."""
    why: str = ""
    last: float = 0.0
    """When it told something last."""


def attempts(folder: Path) -> list[Attempt]:
    """The attempts recorded under FOLDER/journal, in order; none where there is no such folder.

    Raises InputError for a record that is none, or of a later format.
    """
    return [found for path in _files(folder / FOLDER) if (found := _read(path)) is not None]


def newest(folder: Path) -> str:
    """Name of the last attempt's file, begun or whole; empty where there is none."""
    return max(_files(folder / FOLDER), key=_number).name if _files(folder / FOLDER) else ""


def series(tried: list[Attempt]) -> dict[str, list[tuple[int, float]]]:
    """Key -> (rows trained, value), over attempts that went on from one another.

    What an attempt told after the commit from which the next one went on was trained anew: the later attempt's stands.
    """
    out: dict[str, list[tuple[int, float]]] = {}
    for attempt in tried:
        for points in out.values():
            while points and points[-1][0] > attempt.samples:
                points.pop()
        for _, samples, values in attempt.points:
            for key, value in values.items():
                points = out.setdefault(key, [])
                if points and points[-1][0] == samples:
                    points.pop()  # told twice, as by an attempt that evaluated only
                points.append((samples, value))
    return {key: points for key, points in out.items() if points}


def _next_file(folder: Path, job_type: str) -> Path:
    """An empty file of the next number."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        last = max((_number(path) for path in _files(folder)), default=0)
        path = folder / f"{last + 1:04d}-{job_type}.jsonl"
        try:
            path.open("x").close()
        except FileExistsError:  # another process took the number
            continue
        return path


def _files(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("*-*.jsonl") if p.name.split("-", 1)[0].isdigit()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split("-", 1)[0])


def _read(path: Path) -> Attempt | None:
    try:
        return _attempt(path)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not as it was written ({error!r}); restore it, or move it away to go on") from error


def _attempt(path: Path) -> Attempt | None:
    lines = list(_lines(path))
    if not lines:
        return None  # killed before its first line was whole
    begin = lines[0]
    if begin.get("line") != "begin" or begin.get("format") != FORMAT:
        raise InputError(f"{path}: no record of a run, or one of a later version of Fulcrum; move it away to go on")
    out = Attempt(path, begin["job"], begin["job_type"], begin["time"], begin["samples"], begin["about"])
    for line in lines:
        out.last = line["time"]
        match line["line"]:
            case "values":
                values = {key: float(value) for key, value in line["values"].items()}
                out.points.append((line["time"], line["samples"], values))
            case "curves":
                out.curves.append((line["samples"], line["split"], line["curves"]))
            case "alert":
                out.alerts.append(line)
            case "end":
                out.outcome, out.why = line["outcome"], line["why"]
    return out


def _lines(path: Path) -> Iterator[Line]:
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, _ = text.rpartition("\n")  # what follows the last newline was cut short
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        try:
            told = json.loads(line)
        except json.JSONDecodeError:
            raise InputError(
                f"{path}, line {number}: not as it was written; restore it, or move the file away"
            ) from None
        yield told
