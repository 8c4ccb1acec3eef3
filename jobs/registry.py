"""Models of the daily job: list them, look at one, go back to an earlier champion.

    ./launch.sh registry ROOT                                 the champion, models, promotions
    ./launch.sh registry ROOT show 2026-01-08                 all that is known of one; --config: its configuration
    ./launch.sh registry ROOT lineage 2026-01-08              what it was trained on, back to the first model
    ./launch.sh registry ROOT rollback --because TEXT         the champion before this one is champion again
    ./launch.sh registry ROOT rollback 2026-01-05 --because TEXT
    ./launch.sh registry ROOT promote 2026-01-08 --because TEXT   a model that the gate refused, say

ROOT is the daily job's output, or its CONFIG.yaml. No change is made while a day is at work.
"""

import argparse
import json
import sys
from typing import Any

import yaml

from jobs.failure import reported
from pipeline.daily.lease import Lease
from pipeline.records import Records
from pipeline.registry import Model, Promotion, Registry
from pipeline.report.text import aligned
from pipeline.storage import filesystem, reason
from schemas.daily import DailyConfig
from schemas.errors import InputError
from schemas.events import StorageConfig
from schemas.load import load_job

ACTIONS = ("list", "show", "lineage", "rollback", "promote")
PROMOTIONS = 10
"""Promotions that a list ends with."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh registry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("root", metavar="ROOT|CONFIG.yaml", help="output of the daily job, or its configuration")
    add("action", nargs="?", default="list", choices=ACTIONS)
    add("name", nargs="?", metavar="NAME", help="a model: its day, as 2026-01-08")
    add("--because", metavar="TEXT", help="why: kept with the promotion for ever")
    add("--last", type=int, default=20, metavar="N", help="models to list, 0: all (%(default)s)")
    add("--config", action="store_true", help="show: the model's configuration as YAML, and nothing else")
    return out


class Command:
    """One call of the job on one registry."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = arguments
        self.root, self.seconds, storage = arguments.root, float(DailyConfig().lease_seconds), StorageConfig()
        if arguments.root.endswith((".yaml", ".yml")):
            job = load_job(arguments.root)
            self.root, storage = job.output, job.data.storage
            self.seconds = float(job.daily.lease_seconds) if job.daily else self.seconds
        self.root = self.root.rstrip("/")
        self.registry = Registry(self.root, storage)
        if not self.registry.names() and not Records(f"{self.root}/registry/promotions", storage).names():
            raise InputError(
                f"{self.root}: holds no registry ({self.root}/registry is empty or not there); name the output of a "
                "daily job, or its configuration"
            )

    def run(self) -> None:
        """Prints what was asked for."""
        action = self.given.action
        if action == "list":
            self.overview()
        elif action == "show":
            self.show()
        elif action == "lineage":
            self.lineage()
        else:
            self.change()

    def overview(self) -> None:
        """The champion, the latest models, the latest promotions."""
        promotions, models = self.registry.promotions(), self.registry.models()
        champion = promotions[-1].model if promotions else None
        if promotions:
            print(f"champion {champion}, by {_told(promotions[-1])}\n")
        else:
            print("no champion yet\n")
        shown = models[-self.given.last :] if self.given.last > 0 else models
        removed = self.registry.removed()
        tasks = list(dict.fromkeys(task for model in shown for task in model.metrics))
        lines = [["model", "parent", "trained on", "verdict", "weights", *tasks]]
        for model in shown:
            marked = f"{model.name} *" if model.name == champion else model.name
            weights = "removed" if model.name in removed else "kept"
            verdict = self._verdict(model)[0]
            values = [_value(model.metrics.get(task)) for task in tasks]
            lines.append([marked, model.parent or "-", _days(model), verdict, weights, *values])
        print(aligned(lines, words=5))
        if tasks:
            print("* champion; of each task the AUC on its own space, of a regression the mean squared error")
        if len(shown) < len(models):
            print(f"{len(models) - len(shown)} older models are not shown (--last 0)")
        if promotions:
            head = ["promotion", "model", "kind", "at", "because"]
            print(f"\n{aligned([head, *(_line(p) for p in promotions[-PROMOTIONS:])], words=5)}")

    def show(self) -> None:
        """All that is known of one model."""
        model = self.registry.model(self._name())
        if self.given.config:
            print(yaml.safe_dump(model.config, sort_keys=False, allow_unicode=True), end="")
            return
        word, reasons = self._verdict(model)
        weights = "kept" if self.registry.has_weights(model.name) else "removed (daily.retention)"
        told = [p for p in self.registry.promotions() if p.model == model.name]
        rows = {
            "model": model.name,
            "parent": model.parent or "none: it began from the seed",
            "trained on": _days(model),
            "skipped": ", ".join(model.skipped) or "none",
            "checkpoint": model.checkpoint,
            "manifest.json": f"sha256 {model.checkpoint_sha256}",
            "weights": weights,
            "rows": model.manifest,
            "configuration": f"{model.config_fingerprint} (--config prints it)",
            "git": model.git or "unknown",
            "verdict": f"{word}  {model.verdict or ''}".rstrip(),
        }
        for key, value in rows.items():
            print(f"{key:<14} {value}")
        for sentence in reasons:
            print(f"{'':<14} {sentence}")
        for promotion in told:
            print(f"{'champion':<14} by {_told(promotion)}")
        print(f"{'lineage':<14} {' <- '.join(m.name for m in self.registry.lineage(model.name))}")
        if model.metrics:
            print(f"\n{aligned(_metrics(model.metrics))}")

    def lineage(self) -> None:
        """The model, its parent, and so on."""
        line = self.registry.lineage(self._name())
        lines = [["model", "trained on", "skipped", "rows", "git"]]
        for model in line:
            lines.append([model.name, _days(model), ", ".join(model.skipped) or "-", model.manifest, model.git or "-"])
        print(aligned(lines, words=5))
        skipped = sum(len(model.skipped) for model in line)
        print(f"{len(line)} models, {sum(len(model.days) for model in line)} days trained, {skipped} skipped")

    def change(self) -> None:
        """Another champion."""
        action, name, because = self.given.action, self.given.name, self.given.because
        if action == "promote":
            name = self._name()
        if not because or not because.strip():
            raise InputError(f"{action}: say why, for whoever reads it later: --because TEXT")
        with Lease(self.root, self.seconds, f"{action} {name}" if name else action) as lease:
            newest = self.registry.newest()
            lease.check()
            if action == "rollback":
                made = self.registry.rollback(name, because)
            else:
                made = self.registry.promote(name, because, "manual", newest.number if newest else None)
        print(f"champion {made.model}, by {_told(made)}; before: {made.before or 'nobody'}")

    def _name(self) -> str:
        if not self.given.name:
            raise InputError(f"{self.given.action}: name a model; there are {', '.join(self.registry.names())}")
        return str(self.given.name)

    def _verdict(self, model: Model) -> tuple[str, list[str]]:
        """The gate's word, and its reasons; what is wrong with the file where it cannot be read."""
        if model.verdict is None:
            return "none", []
        try:
            fs, path = filesystem(model.verdict)
            content = json.loads(fs.cat_file(path))
            return ("blessed" if content["blessed"] else "refused"), [str(each) for each in content.get("reasons", [])]
        except Exception as error:  # the record of the model is shown all the same
            return "unread", [f"{model.verdict}: cannot be read ({reason(error)})"]


def _told(promotion: Promotion) -> str:
    return f"{promotion.kind} {promotion.number} of {promotion.at[:19]}Z: {promotion.because}"


def _line(promotion: Promotion) -> list[str]:
    return [str(promotion.number), promotion.model, promotion.kind, f"{promotion.at[:19]}Z", promotion.because]


def _days(model: Model) -> str:
    """Its own days, as 2026-01-05 to 2026-01-08 (3)."""
    days = model.days
    if len(days) < 2:
        return "".join(days) or "nothing"
    return f"{days[0]} to {days[-1]} ({len(days)})"


def _value(task: Any) -> str:
    """The number that a list shows of a task."""
    own = task.get("own") or {} if isinstance(task, dict) else {}
    value = own.get("auc", own.get("mse"))
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _metrics(tasks: dict[str, Any]) -> list[list[str]]:
    """Every number of every task and space, a line each space."""
    spaces = {
        (f"{task} (joint)" if space == "joint" else task): told[space]
        for task, told in tasks.items()
        if isinstance(told, dict)
        for space in ("own", "joint")
        if isinstance(told.get(space), dict)
    }
    names = list(dict.fromkeys(name for told in spaces.values() for name in told))
    return [
        ["task", *names],
        *([space, *(_number(told.get(name)) for name in names)] for space, told in spaces.items()),
    ]


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else "-"


def main(argv: list[str] | None = None) -> None:
    """Runs the command; raises InputError."""
    Command(parser().parse_intermixed_args(sys.argv[1:] if argv is None else argv)).run()


if __name__ == "__main__":
    with reported():
        main()
