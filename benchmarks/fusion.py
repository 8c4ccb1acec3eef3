"""Fusion weights tuned on one day beside equal weights, on the next day: the generated log, and KuaiRand-Pure.

    python benchmarks/fusion.py [--out DIR] [--seeds N] [--rows-per-day N] [--kuairand FOLDER]

For each seed a model is trained on the days before day D, `./launch.sh fuse` tunes on day D, and both weights order
users' lists of day D + 1. Weights, floors and objective are declared before day D + 1 is looked at:

    generated   a log a seed, three days trained; NDCG@10 of order, click at most .01 below equal weights
    kuairand    published files in FOLDER (docs/ingest.md), ten days trained, a seed a model; GAUC of long_view, click
                at most .01 below

Printed: the objective on day D + 1 under equal and under tuned weights, seed by seed, with the interval over lists, and
the mean difference with its 95 % interval over seeds. What has been run in DIR is not run again.
The claim: tuned weights are ahead on each log, on the mean over seeds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.papers.intervals import interval  # noqa: E402

TERMS = {"generated": ("click", "cart", "fav", "order"), "kuairand": ("click", "long_view", "like", "profile_enter")}
OBJECTIVE = {"generated": ("order", "ndcg"), "kuairand": ("long_view", "gauc")}


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/fusion.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--out", type=Path, metavar="DIR", help="where logs, models and reports stay (a temporary folder)")
    out.add_argument("--seeds", type=int, default=3, metavar="N", help="models of each log (%(default)s)")
    out.add_argument(
        "--rows-per-day", type=int, default=280_000, metavar="N", help="of the generated log (%(default)s)"
    )
    out.add_argument(
        "--kuairand", type=Path, metavar="FOLDER", help="KuaiRand-Pure's files; without it that log is left out"
    )
    out.add_argument("--set", nargs="*", default=[], metavar="key=value", help="further settings of the trained models")
    return out


def main() -> int:
    arguments = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="fusion-benchmark-") as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        passed = []
        for log in ["generated"] + (["kuairand"] if arguments.kuairand else []):
            found = [of_seed(log, seed, out, arguments) for seed in range(arguments.seeds)]
            passed.append(told(log, found))
    return 0 if all(passed) else 1


def of_seed(log: str, seed: int, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """fuse.json of one seed."""
    place = out / f"{log}-{seed}"
    report = place / "fused" / "fuse.json"
    if not report.exists():
        words = generated(seed, place, arguments) if log == "generated" else kuairand(seed, out, arguments)
        config = str(ROOT / f"jobs/configs/{log}.yaml")
        settings = [*words, f"seed={seed}", f"output={place / 'model'}", "tracking.mode=disabled", *arguments.set]
        command(["jobs.launch", "train", "--nproc-per-node", "2", config, *settings])
        task, measure = OBJECTIVE[log]
        terms = ", ".join(f"{{task: {name}}}" for name in TERMS[log])
        more = [f"fuse.out={place / 'fused'}", f"fuse.objective={{task: {task}, measure: {measure}}}"]
        more += [f"fusion={{terms: [{terms}]}}", "fuse.floors.click.at_most_below=0.01"]
        command(["jobs.launch", "fuse", "--nproc-per-node", "2", config, *settings, *more, *days(log)])
    return json.loads(report.read_text())


def generated(seed: int, place: Path, arguments: argparse.Namespace) -> list[str]:
    """The log of a seed, and what the model is trained on."""
    log = place / "events"
    rows = ["--rows-per-day", str(arguments.rows_per_day)]
    command(["jobs.generate", "--out", str(log), "--seed", str(seed), *rows])
    return [f"data.path={log}", "data.train.to=2026-01-03", "data.eval=null"]


def kuairand(seed: int, out: Path, arguments: argparse.Namespace) -> list[str]:
    """The log, the same for all seeds."""
    log = out / "kuairand-events"
    if not log.exists():
        command(["jobs.ingest", "kuairand", "--from", str(arguments.kuairand), "--out", str(log)])
    return [f"data.path={log}", "data.train.to=2022-05-04", "data.eval=null"]


def days(log: str) -> list[str]:
    first, second = ("2026-01-04", "2026-01-05") if log == "generated" else ("2022-05-05", "2022-05-06")
    return [f"fuse.days={{from: {first}, to: {first}}}", f"fuse.check={{from: {second}, to: {second}}}"]


def command(words: list[str]) -> None:
    """Runs `python -m WORDS` of this repository; its output is shown where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", *words], env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def told(log: str, found: list[dict[str, Any]]) -> bool:
    """Prints a log's seeds; whether the claim holds."""
    task, measure = OBJECTIVE[log]
    print(f"\n{log}: {measure} of {task} on day D + 1, {found[0]['days'][1]}")
    print("seed   equal   tuned  difference        95% over lists   click lost   weights")
    differences = []
    for seed, each in enumerate(found):
        lines = {line["task"]: line for line in each["check"]}
        own, click = lines[task], lines["click"]
        between = own["difference"]
        differences.append(between["value"])
        weights = ", ".join(f"{w:.2f} {name}" for name, w in each["chosen"]["weights"].items())
        print(
            f"{seed:>4}  {own['equal']:.4f}  {own['tuned']:.4f}  {between['value']:+10.4f}  "
            f"{between['low']:+9.4f} to {between['high']:+.4f}  {click['equal'] - click['tuned']:+11.4f}   {weights}"
        )
    mean = sum(differences) / len(differences)
    half = f" +- {interval(differences)[1]:.4f}" if len(differences) > 1 else ""
    passed = mean > 0
    print(f"{'PASS' if passed else 'FAIL'}  tuned ahead of equal weights on day D + 1: {mean:+.4f}{half} over seeds")
    return passed


if __name__ == "__main__":
    sys.exit(main())
