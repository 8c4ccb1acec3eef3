"""What the experiments on real logs share: the log, the comparison, trees beside it, the table."""

import argparse
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

Values = dict[str, dict[str, dict[int, float]]]
"""A side's metric by task and seed: AUC, or MSE of a regression task."""


def parser(name: str, doc: str, data: str) -> argparse.ArgumentParser:
    """The command line of one experiment."""
    summary, _, details = doc.partition("\n\n")
    out = argparse.ArgumentParser(
        f"python benchmarks/papers/{name}.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = ROOT.parent / "shared" / "data" / data
    out.add_argument(
        "--data", type=Path, default=default, metavar="DIR", help="the data set as published (%(default)s)"
    )
    out.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each side (%(default)s)")
    out.add_argument("--out", type=Path, default=ROOT / "runs/papers" / name, metavar="DIR", help="(%(default)s)")
    out.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="runs at a time (%(default)s)")
    out.add_argument("--tree-seeds", type=int, default=5, metavar="N", help="fits of LightGBM a task (%(default)s)")
    out.add_argument("--tune", action="store_true", help="train on a part of the training rows, score the rest of them")
    out.add_argument("--quick", action="store_true", help="a smoke run: two sides, one seed, few steps, few rounds")
    out.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting of every side")
    return out


def ingested(name: str, data: Path, log: Path) -> Path:
    """The log at `log`, written from the published data set unless it is there."""
    if not data.is_dir():
        raise SystemExit(f"{data}: no such folder; --data names the published {name} (docs/ingest.md says where from)")
    if not log.exists():
        command(["jobs.ingest", name, "--from", str(data), "--out", str(log)])
    return log


def command(words: Sequence[str]) -> int:
    """Runs `python -m WORDS` of this repository, one thread a process; its exit code, where it did not fail."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    code = subprocess.run([sys.executable, "-m", *words], env=environment, cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(code)
    return code


def compared(name: str, size: int, out: Path, arguments: argparse.Namespace, settings: Sequence[str]) -> Values:
    """Runs `./launch.sh compare` on NAME.yaml, each network of `size` parameters; the metrics of results.parquet.

    The sides are those of NAME.sides.yaml, in a smoke run two of them.
    """
    sides = ["--sides", str(HERE / f"{name}.sides.yaml"), "--baseline", "single_task"]
    if arguments.quick:
        sides = ["--arch", "single_task", "ple"]
    words = ["jobs.compare", str(HERE / f"{name}.yaml"), "--out", str(out), *sides]
    words += ["--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs), "--size", str(size)]
    command([*words, *settings, *arguments.set, "tracking.mode=disabled"])
    return read_results(out / "results.parquet")


def read_results(path: Path) -> Values:
    """Each task's own AUC, or MSE, by side and seed."""
    import pyarrow.parquet as pq

    out: Values = {}
    for row in pq.read_table(path).to_pylist():
        if row["metric"] in ("auc", "mse") and not row["joint"]:
            out.setdefault(row["side"], {}).setdefault(row["task"], {})[row["seed"]] = row["value"]
    return out


def remembered(path: Path, settings: Any, make: Callable[[], Any]) -> Any:
    """What `make` gives, kept in a JSON file under a digest of the settings, so that it is made once."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
    place = path.with_name(f"{path.stem}-{digest}.json")
    if not place.exists():
        made = make()
        draft = place.with_suffix(".draft")
        draft.write_text(json.dumps(made))
        os.replace(draft, place)
    return json.loads(place.read_text())


def forest(
    job: Any, held_out: Callable[[Any], Any], choices: list[dict[str, Any]], arguments: argparse.Namespace, out: Path
) -> dict[str, Any]:
    """LightGBM on the job's columns: by task the settings, the rounds and the metric of each seed."""
    from benchmarks.papers.trees import columns_of, fitted

    seeds, most = min(arguments.seeds, arguments.tree_seeds), 3 if arguments.quick else 1500
    columns = functools.cache(lambda: columns_of(job))
    log = job.model_dump(mode="json", by_alias=True, include={"data", "features"})
    told = {}
    for place, task in enumerate(job.tasks):
        decides = [log, task.model_dump(mode="json"), choices, seeds, most, "rounds by loss"]

        def make(place: int = place) -> dict[str, Any]:
            return fitted(columns(), job, place, held_out(columns()), choices, seeds, most)

        told[task.name] = remembered(out / "trees.json", decides, make)
        print(f"  trees: {task.name}, {told[task.name]['settings']}, {told[task.name]['rounds']} rounds", flush=True)
    return told


def table(values: Values, trees: dict[str, Any], published: dict[str, dict[str, str]]) -> list[list[str]]:
    """Rows of text: a task's metric by side with its interval, the trees', what papers report."""
    from benchmarks.papers.intervals import interval

    sides = list(values)
    tasks = list(values[sides[0]])
    out = [["", *tasks]]
    for side in sides:
        out.append([side, *(_told(*interval(list(values[side][task].values()))) for task in tasks)])
    out.append(["LightGBM, same columns", *(_told(*interval(trees[task]["values"])) for task in tasks)])
    for name, told in published.items():
        out.append([name, *(told.get(task, "") for task in tasks)])
    return out


def gains(values: Values, regression: Sequence[str], baseline: str = "single_task") -> list[list[str]]:
    """Rows of text: each side less the baseline of the same seed, the sign turned for MSE; more is better."""
    from benchmarks.papers.intervals import interval

    tasks = list(values[baseline])
    out = [[f"gain over {baseline}", *tasks]]
    for side in [side for side in values if side != baseline]:
        cells = []
        for task in tasks:
            sign = -1 if task in regression else 1
            own, other = values[side][task], values[baseline][task]
            mean, half = interval([sign * (own[seed] - other[seed]) for seed in own.keys() & other.keys()])
            cells.append(f"{mean:+.4f} +- {half:.4f}{' *' if abs(mean) > half else ''}")
        out.append([side, *cells])
    return out


def show(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of text in columns."""
    first = max(len(row[0]) for row in rows) + 2
    for row in rows:
        print(f"{row[0]:<{first}}" + "".join(f"{cell:>24}" for cell in row[1:]))
    print()


def _told(mean: float, half: float) -> str:
    return f"{mean:.4f} +- {half:.4f}"
