"""A comparison from start to end: sizes, runs, results, reports."""

import dataclasses
import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.compare.comparison import Comparison
from pipeline.compare.page import comparison_page
from pipeline.compare.processes import STOPPED, Failure, Processes
from pipeline.compare.results import write_results
from pipeline.compare.runs import Run, runs_of
from pipeline.compare.terminal import terminal_report
from pipeline.model import NetworkSize, network_size
from pipeline.report.text import aligned
from schemas.errors import InputError
from schemas.job import JobConfig

FAILED = 1
"""Exit code of a comparison of which runs failed."""


def campaign(sides: Mapping[str, JobConfig], baseline: str, seeds: int, out: Path, jobs: int, ranks: int) -> int:
    """Runs what has not finished, writes and prints the reports; the exit code. Raises InputError."""
    devices = _devices(jobs, ranks)
    sizes = _sizes(sides)
    job = sides[baseline]
    numbers = list(range(job.seed, job.seed + seeds))
    runs = runs_of(sides, numbers, out, ranks)
    _say(_opening(job, sides, sizes, numbers))
    records = {(run.side, run.seed): record for run in runs if (record := run.result()) is not None}
    todo = [run for run in runs if (run.side, run.seed) not in records]
    if records:
        _say(f"{len(records)} of {len(runs)} runs have finished before")

    def summary(run: Run) -> str:
        record = run.result()
        if record is None:
            raise InputError(f"{run.folder}: the run ended well and left no result.json; see {run.log}")
        records[run.side, run.seed] = record
        return _summary(record)

    processes = Processes(jobs, ranks, devices, _say)
    failures = processes.run(todo, len(records), summary)
    c = Comparison(job.name, list(sides), baseline, numbers, records, _missing(runs, records, failures), _about(job))
    _report(c, out)
    if processes.stopped_by:
        _say("stopped; the same command goes on from there")
        return STOPPED
    return FAILED if c.missing else 0


def _report(c: Comparison, out: Path) -> None:
    if not c.records:
        return
    ordered = dataclasses.replace(c, records=_ordered(c))
    _say(f"\n{terminal_report(ordered)}\n")
    try:
        written = write_results(ordered.table, out)
        comparison_page(ordered).write(out / "report.html")
    except OSError as error:
        raise InputError(
            f"{out}: the reports cannot be written ({error.strerror or error}); the runs are kept: make room, and the "
            "same command writes them"
        ) from error
    _say(f"report   {out / 'report.html'}\nresults  {'  '.join(map(str, written))}")


def _ordered(c: Comparison) -> dict[tuple[str, int], Any]:
    """The records in the order of sides and seeds, in whatever order they finished."""
    keys = [(side, seed) for side in c.sides for seed in c.seeds]
    return {key: c.records[key] for key in keys if key in c.records}


def _missing(
    runs: Sequence[Run], records: Mapping[Any, Any], failures: Sequence[Failure]
) -> list[tuple[str, int, str]]:
    why = {(failure.run.side, failure.run.seed): failure.why for failure in failures}
    keys = [(run.side, run.seed) for run in runs]
    return [(*key, why.get(key, "not started")) for key in keys if key not in records]


def _sizes(sides: Mapping[str, JobConfig]) -> dict[str, NetworkSize]:
    out = {}
    for name, job in sides.items():
        try:
            out[name] = network_size(job)
        except InputError as error:
            raise InputError(f"side '{name}': {error}") from error
    return out


def _opening(job: JobConfig, sides: Mapping[str, JobConfig], sizes: Mapping[str, NetworkSize], seeds: list[int]) -> str:
    lines = [["side", "architecture", "space", "dense parameters", "FLOPs a row", "layers"]]
    for name, side in sides.items():
        widths = ", ".join(f"{key} {value}" for key, value in sizes[name].widths.items())
        size = sizes[name]
        numbers = [f"{size.dense_parameters:,}", f"{size.flops_per_row:,}"]
        lines.append([name, side.model.arch, side.space, *numbers, widths])
    return f"{job.name}: {len(sides)} sides, seeds {seeds[0]} to {seeds[-1]}\n\n{aligned(lines)}\n"


def _about(job: JobConfig) -> list[tuple[str, str]]:
    days, held = job.data.train, job.data.eval
    assert held is not None
    return [
        ("log", f"{job.data.path}, trained on {days.first} to {days.last}, evaluated on {held.first} to {held.last}")
    ]


def _summary(record: Mapping[str, Any]) -> str:
    """Speed and each task's main metric."""
    speed = record["rows_per_second"]
    parts = [f"{speed:,.0f} rows/s"] if speed else []
    for name, form in (("auc", ".4f"), ("mse", ".4g")):
        told = {task: t["own"][name] for task, t in record["tasks"].items() if t["own"].get(name) is not None}
        if told:
            parts.append(f"{name.upper()} " + " ".join(f"{task} {format(v, form)}" for task, v in told.items()))
    return ", ".join(parts)


def _devices(jobs: int, ranks: int) -> list[str]:
    """The GPUs, to be shared out; none on a CPU. Raises InputError where there are too few."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        listed = [device.strip() for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        # CUDA sees none from the first on that is none, such as -1
        found = list(itertools.takewhile(lambda device: device and not device.startswith("-"), listed))
    else:
        try:
            told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            told = ""
        found = [str(i) for i, _ in enumerate(line for line in told.splitlines() if line.startswith("GPU"))]
    if found and jobs * ranks > len(found):
        raise InputError(
            f"--jobs {jobs} x --ranks {ranks}: take {jobs * ranks} GPUs, and {len(found)} are visible; lower one"
        )
    return found


def _say(text: str) -> None:
    print(text, flush=True)
