"""Warm daily retraining beside a frozen model and full retraining from scratch, day by day on one log.

    python benchmarks/daily.py                                         # the generated log, 14 days, 3 seeds
    python benchmarks/daily.py --log kuairand --events runs/kuairand/events --out runs/daily-kuairand   # its ten days

The first model trains on --first days. Then, a day at a time:

    daily     `./launch.sh daily`: the champion, warm from the day before, behind the gate
    frozen    the first model, never trained again
    full      from the seed on all days before, as `./launch.sh train`

Each is scored on every row of a day before it has seen any of it: the champion by the daily job itself, the two others
by `./launch.sh score`. Held-out rows are the same for all three, and trained on by none. A seed draws weights and the
order of rows; on the generated log users, items and their drift too. The cost is rows trained and seconds of the
training processes, their start included. --out keeps every process's result; the same command goes on from there. It
gets daily.svg, daily.csv and the table that is printed.
"""

import argparse
import csv
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from pipeline.compare.statistics import estimate  # noqa: E402
from pipeline.daily.ledger import Ledger  # noqa: E402
from pipeline.daily.place import latest  # noqa: E402
from pipeline.report.plots import COLOURS, drawing  # noqa: E402
from pipeline.report.text import aligned  # noqa: E402
from schemas.load import load_tree  # noqa: E402

CONFIGS = {"generated": "jobs/configs/generated.yaml", "kuairand": "jobs/configs/kuairand.yaml"}
SPANS = {"generated": (4, 14), "kuairand": (2, 10)}
STARTS = {"generated": dt.date(2026, 1, 1), "kuairand": dt.date(2022, 4, 25)}
SIDES = ("daily", "frozen", "full")


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/daily.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = out.add_argument
    add("--log", choices=list(CONFIGS), default="generated", help="which log (%(default)s)")
    add("--events", metavar="PATH", help="an ingested log; the generated one is written where it is missing")
    add("--first", type=int, metavar="N", help="days of the first model (4 generated ones, 2 of KuaiRand's)")
    add("--days", type=int, metavar="N", help="days after them (14 generated ones, 10 of KuaiRand's)")
    add("--rows", type=int, default=60_000, metavar="N", help="rows of a generated day (%(default)s)")
    add("--seeds", type=int, default=3, metavar="N", help="(%(default)s)")
    add("--share", type=float, default=0.1, metavar="SHARE", help="held-out users a day (%(default)s)")
    add("--out", metavar="DIR", help="keeps everything, to go on from there; default: a temporary folder")
    add("overrides", nargs="*", metavar="key=value", help="settings of every job")
    return out


class Study:
    """One seed's days."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, seed: int) -> None:
        self.arguments, self.folder, self.seed = arguments, folder, seed
        self.start = STARTS[arguments.log]
        self.events = Path(arguments.events) if arguments.events else folder / "events"
        tree = load_tree(str(ROOT / CONFIGS[arguments.log]), arguments.overrides)
        tree["seed"], tree["output"] = seed, str(folder / "daily")
        tree["tracking"] = {"mode": "disabled"}
        tree["data"] |= {"path": str(self.events), "holdout": {"share": arguments.share}}
        tree["data"]["train"] = {"from": str(self.start), "to": str(self.start)}
        tree["data"].pop("eval", None)
        tree["daily"] = (tree.get("daily") or {}) | {
            "retention": {"champions": 1000}
        }  # the first model is scored to the end
        self.tree = tree

    def day(self, number: int) -> dt.date:
        """The day of this number, from 0."""
        return self.start + dt.timedelta(number)

    def run(self) -> None:
        """Every day of the three sides, whatever is done already left alone."""
        a = self.arguments
        if not a.events:
            self._do(
                "generate",
                [
                    "-m",
                    "jobs.generate",
                    "--out",
                    str(self.events),
                    "--seed",
                    str(self.seed),
                    "--days",
                    str(a.first + a.days),
                    "--rows-per-day",
                    str(a.rows),
                    "--start",
                    str(self.start),
                ],
            )
        for number in range(a.first - 1, a.first + a.days):
            self.daily(number)
            if number >= a.first:
                self.full(number)
                self.score(number)
            print(f"seed {self.seed}  {self.day(number)} done", flush=True)

    def daily(self, number: int) -> None:
        """The day by its own command."""
        config = self._config("daily", self.tree)
        self._do(
            f"daily-{number}",
            ["-m", "jobs.daily", "--nproc-per-node", "1", config, "--date", str(self.day(number))],
            (0, 3),
        )

    def full(self, number: int) -> None:
        """From the seed on all days before `number`."""
        data = self.tree["data"] | {"train": {"from": str(self.start), "to": str(self.day(number - 1))}}
        tree = {k: v for k, v in self.tree.items() if k != "daily"} | {
            "output": str(self.folder / f"full/{number}"),
            "data": data,
        }
        self._do(
            f"full-{number}",
            ["-m", "jobs.launch", "train", "--nproc-per-node", "1", self._config(f"full-{number}", tree)],
        )

    def score(self, number: int) -> None:
        """The frozen and the fully retrained model on the day's rows, all of them."""
        first = Ledger(str(self.folder / "daily"), self.day(self.arguments.first - 1), 1).done()["train"]["checkpoint"]
        day = {"from": str(self.day(number)), "to": str(self.day(number))}
        holdout = self.tree["data"]["holdout"] | {"eval": "all"}
        data = self.tree["data"] | {"train": day, "eval": day, "holdout": holdout}
        models = {"frozen": first, "full": str(self.folder / f"full/{number}/checkpoints")}
        tree = {k: v for k, v in self.tree.items() if k != "daily"} | {
            "output": str(self.folder / "scored"),
            "data": data,
        }
        tree["score"] = {"models": models, "out": str(self.folder / f"scored/{number}"), "predictions": False}
        self._do(
            f"score-{number}",
            ["-m", "jobs.launch", "score", "--nproc-per-node", "1", self._config(f"score-{number}", tree)],
        )

    def rows_of(self) -> list[dict[str, Any]]:
        """A row a side, day and metric."""
        out = []
        for number in range(self.arguments.first, self.arguments.first + self.arguments.days):
            done = Ledger(
                str(self.folder / "daily"),
                self.day(number),
                latest(str(self.folder / "daily"), self.day(number)).attempt,
            ).done()
            before = Ledger(str(self.folder / "daily"), self.day(number - 1), 1).done()
            told = {"daily": done["score"]["tasks"]}
            for side in ("frozen", "full"):
                told[side] = json.loads((self.folder / f"scored/{number}/{side}.json").read_text())["tasks"]
            cost = {
                "daily": (before["train"]["samples"], before["train"]["seconds"]),
                "frozen": (0, 0.0),
                "full": (
                    json.loads((self.folder / f"full/{number}/result.json").read_text())["samples"],
                    self._took(f"full-{number}"),
                ),
            }
            for side, tasks in told.items():
                for task, spaces in tasks.items():
                    for space in ("own", "joint"):
                        if space in spaces:
                            m = spaces[space]
                            out.append(
                                {
                                    "seed": self.seed,
                                    "day": str(self.day(number)),
                                    "side": side,
                                    "task": task,
                                    "space": space,
                                    "auc": m.get("auc"),
                                    "log_loss": m.get("log_loss"),
                                    "mse": m.get("mse"),
                                    "rows_trained": cost[side][0],
                                    "train_seconds": cost[side][1],
                                    "promoted": done["promote"]["promoted"],
                                }
                            )
        return out

    def _config(self, name: str, tree: dict[str, Any]) -> str:
        import yaml

        path = self.folder / "jobs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return str(path)

    def _took(self, name: str) -> float:
        return json.loads((self.folder / "took" / f"{name}.json").read_text())

    def _do(self, name: str, words: list[str], codes: tuple[int, ...] = (0,)) -> None:
        """Runs a command once."""
        mark, log = self.folder / "took" / f"{name}.json", self.folder / "logs" / f"{name}.log"
        if mark.exists():
            return
        for path in (mark, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        with log.open("w") as out:
            code = subprocess.run([sys.executable, *words], env=env, stdout=out, stderr=subprocess.STDOUT).returncode
        if code not in codes:
            sys.exit(f"{name} ended with exit code {code}:\n{log.read_text()[-3000:]}")
        mark.write_text(json.dumps(time.monotonic() - began))


def means(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By task, space and side: the AUC (or MSE) of each seed, the mean of its days, and the same day by day."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        value = row["mse"] if row["auc"] is None else row["auc"]
        if value is None:
            continue
        at = found.setdefault(
            (row["task"], row["space"], row["side"]), {"seed": {}, "day": {}, "mse": row["auc"] is None}
        )
        at["seed"].setdefault(row["seed"], []).append(value)
        at["day"].setdefault(row["day"], []).append(value)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over the days of each side, and daily's difference to the others, paired by seed."""
    found = means(rows)
    lines = [["task", "daily", "frozen", "full", "daily - frozen", "daily - full"]]
    for task, space in dict.fromkeys((t, s) for t, s, _ in found):
        each = {side: {seed: sum(v) / len(v) for seed, v in found[task, space, side]["seed"].items()} for side in SIDES}
        line = [task + " (joint)" * (space == "joint") + ", MSE" * found[task, space, "daily"]["mse"]]
        line += [f"{sum(each[side].values()) / len(each[side]):.4f}" for side in SIDES]
        for other in ("frozen", "full"):
            paired = [each["daily"][seed] - each[other][seed] for seed in each["daily"]]
            line.append(f"{paired[0]:+.4f}" if len(paired) < 2 else _interval(paired))
        lines.append(line)
    cost = {
        side: [(r["rows_trained"], r["train_seconds"]) for r in rows if r["side"] == side and r["space"] == "own"]
        for side in SIDES
    }
    lines.append(["rows trained a day", *(f"{sum(c[0] for c in cost[s]) / len(cost[s]):,.0f}" for s in SIDES), "", ""])
    lines.append(
        ["seconds of training a day", *(f"{sum(c[1] for c in cost[s]) / len(cost[s]):.1f}" for s in SIDES), "", ""]
    )
    return aligned(lines)


def _interval(paired: list[float]) -> str:
    told = estimate(paired)
    assert told.half is not None, "of several seeds"
    return f"{told.mean:+.4f} +- {told.half:.4f}"


def plot(rows: list[dict[str, Any]]) -> str:
    """The first task's and the last joint task's AUC by day, and the rows trained."""
    found = means(rows)
    wanted = [key for key in dict.fromkeys((t, s) for t, s, _ in found) if not found[(*key, "daily")]["mse"]]
    shown = [wanted[0], next((k for k in reversed(wanted) if k[1] == "own"), wanted[-1])]
    with drawing("AUC on each new day, and rows trained for it", 10.5, 3.4, columns=3) as (drawn, axes):
        for axis, key in zip(axes, shown, strict=False):
            for colour, side in zip(COLOURS, SIDES, strict=False):
                by_day = found[(*key, side)]["day"]
                axis.plot(
                    range(1, len(by_day) + 1),
                    [sum(v) / len(v) for v in by_day.values()],
                    color=colour,
                    marker="o",
                    ms=3,
                    label=side,
                )
            axis.set_title(key[0] + " (joint)" * (key[1] == "joint"), fontsize=10)
            axis.set_xlabel("day after the first model")
            axis.set_ylabel("AUC before training on the day")
        axes[0].legend()
        for colour, side in zip(COLOURS, SIDES, strict=False):
            by_day: dict[str, list[float]] = {}
            for row in rows:
                if row["side"] == side and (row["task"], row["space"]) == shown[0]:
                    by_day.setdefault(row["day"], []).append(row["rows_trained"])
            axes[2].plot(
                range(1, len(by_day) + 1), [sum(v) / len(v) for v in by_day.values()], color=colour, marker="o", ms=3
            )
        axes[2].set_title("cost", fontsize=10)
        axes[2].set_ylabel("rows trained for the day's model")
        axes[2].set_xlabel("day after the first model")
    return drawn.svg


def main() -> None:
    arguments = parser().parse_args()
    first, days = SPANS[arguments.log]
    arguments.first, arguments.days = arguments.first or first, arguments.days or days
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.out or scratch)
        rows: list[dict[str, Any]] = []
        for seed in range(arguments.seeds):
            study = Study(arguments, out / f"seed-{seed}", seed)
            study.run()
            rows += study.rows_of()
        (out / "daily.svg").write_text(plot(rows) + "\n", encoding="utf-8")
        with (out / "daily.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(machine())
        print(table(rows))
        refused = sorted({(r["seed"], r["day"]) for r in rows if not r["promoted"]})
        print(f"\nrefused by the gate: {len(refused)} of {arguments.seeds * arguments.days} days {refused or ''}")


if __name__ == "__main__":
    main()
