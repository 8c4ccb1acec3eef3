"""What the workspace of a job shows: sections of panels over the keys that the job logs. No wandb."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from pipeline.keys import evaluated, joint_tasks, logged_keys
from schemas.job import JobConfig
from schemas.tasks import TaskSpec

Kind = Literal["lines", "shares", "bars", "table", "words"]
"""lines: over the rows trained; shares: the same, stacked; bars: the newest value of each run, a bar a day;
table: a wandb table; words: a text."""
MOST = 12
"""Lines of one panel, at most: more are told apart by nobody."""

WORDS = {
    "auc": "AUC",
    "log_loss": "Log loss",
    "ne": "NE",
    "calibration": "Calibration (mean prediction over mean label)",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R²",
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    kind: Kind
    keys: tuple[str, ...] = ()
    words: str = ""
    """Markdown, of a panel of words."""
    low: float | None = None
    """Lower end of the values' axis; None: as they come."""
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]
    opened: bool = False


def sections(job: JobConfig) -> list[Section]:
    """From top to bottom: how to read it, days, tasks beside each other, each task, gates, data, speed."""
    keys = logged_keys(job)
    out = [Section("How to read this", (Panel("", "words", words=_reading(job)),), opened=True)]
    if job.daily is not None:
        out.append(Section("Days: champion and challenger", tuple(_days(job)), opened=True))
    out.append(Section("Seesaw: who gains, who pays", tuple(_seesaw(job, keys)), opened=True))
    out += [Section(f"Task: {task.name}", tuple(_task(job, task, keys))) for task in job.tasks]
    if network := tuple(_network(keys)):
        out.append(Section("Experts, gates, gradients", network))
    out.append(Section("Data health", tuple(_data(keys)), opened=True))
    out.append(Section("Speed and memory", tuple(_speed(keys))))
    return out


def keys_of(shown: Sequence[Section]) -> list[str]:
    """Every key that a panel refers to, once each."""
    return list(dict.fromkeys(key for section in shown for panel in section.panels for key in panel.keys))


def main_metric(task: TaskSpec) -> str:
    """What a task is read by."""
    return "mse" if task.kind == "regression" else "auc"


def _reading(job: JobConfig) -> str:
    days = """
**A day of retraining** is one run, with the `day` in the table at the left, beside what became of it: `outcome`, `why`.

| outcome | what happened | what to do |
| --- | --- | --- |
| finished | the day's model is champion (`daily/promoted` 1) | nothing |
| refused | the gate found a task that pays; `why` names it, by how much, and who gained | nothing at once: the \
champion stays, and the next day's challenger trains on this day again, unless `daily.refused_days` is `leave_out`. \
Refused day after day: `./launch.sh report OUTPUT` says where to begin |
| failed | the day's log broke its checks, came late, or a step failed; `why` says which | mend what `why` names, and \
run `./launch.sh daily CONFIG.yaml --date DAY` again; later days wait for it |
| stopped | it was told to, and committed | the same command goes on |

A run that has no outcome is at work, or was killed: `./launch.sh runs OUTPUT` says which.
"""
    text = f"""
**{job.name}**: {job.model.arch}, {len(job.tasks)} tasks. Every x axis is `samples`, the rows trained. `train/...` is \
measured on the rows of the last window, before the model trains on them\
{", `eval/...` on the evaluation's rows" if evaluated(job) else ""}.
{days if job.daily is not None else ""}
**Seesaw**: one task's curve rises while another's falls. Look at the tasks' gradients (cosine below 0: they pull \
apart), and at the gates: a task that leans on its own experts has found nothing to share.

The same numbers without a network: `./launch.sh report OUTPUT` and `./launch.sh runs show OUTPUT`.
"""
    return text.strip()


def _days(job: JobConfig) -> Iterator[Panel]:
    yield Panel("Promoted (1) or refused (0), by day", "bars", ("daily/promoted",), low=0, high=1)
    yield Panel("Rows of the day's log", "bars", ("daily/rows",), low=0)
    joint = joint_tasks(job)
    for task in job.tasks:
        for end in ("", "_joint") if task.name in joint else ("",):
            name = f"{task.name}{' (joint)' if end else ''} {_shown(main_metric(task))}"
            field = f"{task.name}/{main_metric(task)}{end}"
            sides = [f"daily/held/{side}/{field}" for side in ("champion", "challenger")]
            yield Panel(f"{name}: both models on the held-out rows, by day", "bars", tuple(sides))
            yield Panel(f"{name}: the champion on each new day", "bars", (f"daily/fresh/champion/{field}",))
        if task.kind == "binary":
            key = f"daily/fresh/champion/{task.name}/calibration"
            yield Panel(f"{task.name}: the champion's calibration on each new day", "bars", (key,))
            for field in ("calibration", "log_loss"):
                sides = [f"daily/held/{side}/{task.name}/{field}" for side in ("champion", "challenger")]
                yield Panel(
                    f"{task.name} {_shown(field)}: both models on the held-out rows, by day", "bars", tuple(sides)
                )


def _seesaw(job: JobConfig, keys: dict[str, str]) -> Iterator[Panel]:
    for metric in dict.fromkeys(main_metric(task) for task in job.tasks):
        own = [task.name for task in job.tasks if main_metric(task) == metric]
        for split, where in _splits(job).items():
            told = [f"{split}/{task}/{metric}" for task in own]
            yield from _lines(f"{_shown(metric)} of every task, {where}", told)
    for split, where in _splits(job).items():
        yield from _lines(
            f"AUC over all exposures (joint), {where}", [f"{split}/{task}/joint_auc" for task in joint_tasks(job)]
        )
    yield from _lines("Cosine of two tasks' gradients; below 0 they pull apart", _below(keys, "gradients/cosine/"))
    yield from _lines("Norm of each task's gradient", [key for key in _below(keys, "gradients/") if "/norm" in key])
    yield from _lines("The least cosine of two tasks' gradients", _below(keys, "train/least_gradient_cosine"))
    yield from _lines("Weight of each task's loss", [f"train/{task.name}/weight" for task in job.tasks])


def _task(job: JobConfig, task: TaskSpec, keys: dict[str, str]) -> Iterator[Panel]:
    name, binary = task.name, task.kind == "binary"

    def both(field: str) -> tuple[str, ...]:
        return tuple(f"{split}/{name}/{field}" for split in _splits(job))

    for field in ("auc", "log_loss", "ne", "calibration") if binary else ("mse", "mae", "r2"):
        yield Panel(_shown(field), "lines", both(field))
    main = main_metric(task)
    yield Panel(f"{_shown(main)}: its 95 % interval", "lines", (*both(f"{main}_low"), *both(f"{main}_high")))
    for field in ("auc", "ne", "calibration") if name in joint_tasks(job) else ():
        yield Panel(f"{_shown(field)} over all exposures (joint)", "lines", both(f"joint_{field}"))
    yield Panel("Its own loss", "lines", (f"train/{name}/loss",))
    rows = (f"train/{name}/rows", *((f"train/{name}/positives",) if binary else ()))
    yield Panel("Rows of its space in a window, and positives", "lines", rows, low=0)
    for key in _below(keys, f"curves/{name}/"):
        yield Panel(f"{key.rpartition('/')[2].capitalize()} of the evaluation", "table", (key,))


def _splits(job: JobConfig) -> dict[str, str]:
    """What is measured, and its words."""
    return {"train": "training"} | ({"eval": "the evaluation"} if evaluated(job) else {})


def _network(keys: dict[str, str]) -> Iterator[Panel]:
    gates = _grouped(_below(keys, "gates/"))
    for gate, told in gates.items():
        _, level, name = gate.split("/")
        yield Panel(f"Level {level}: where gate {name} looks", "shares", tuple(told), low=0, high=1)
    yield from _lines("Spread of each gate: 0 one expert, 1 all alike", _below(keys, "gate_entropy/"))
    for level in dict.fromkeys(key.split("/")[1] for key in _below(keys, "experts/")):
        load = tuple(_below(keys, f"experts/{level}/load/"))
        yield Panel(f"Level {level}: share of all gate weight", "shares", load, low=0, high=1)
        yield from _lines(f"Level {level}: likeness of two experts", _below(keys, f"experts/{level}/similarity/"))
    for name, told in _grouped(_below(keys, "stitches/")).items():
        _, layer, task = name.split("/")
        yield Panel(f"Layer {layer}: where {task} takes from", "shares", tuple(told), low=0, high=1)
    yield from _lines("Orthogonality penalty", _below(keys, "train/penalty"))


def _data(keys: dict[str, str]) -> Iterator[Panel]:
    yield from _lines("Ids out of vocabulary, share by feature", _below(keys, "data/unknown/"))
    yield from _lines("Rows with the label 1 and the parent's 0", _below(keys, "data/funnel_broken/"))
    told = _below(keys, "data/quarantined_row")
    yield from _lines("Left out so far: bad rows, unreadable row groups", told)
    yield from _lines("Files that came late, or of another schema", ["data/late_files", "data/drifted_files"])
    yield from _lines("Norm of each feature's embedding", _below(keys, "embeddings/"))


def _speed(keys: dict[str, str]) -> Iterator[Panel]:
    yield Panel("Rows a second, all ranks", "lines", ("train/rows_per_second",), low=0)
    shares = ("train/data_wait_share", "data/decode_share")
    yield Panel("Share of time: training waits; the reader decodes", "lines", shares, low=0, high=1)
    yield Panel("Memory of the largest rank, GB", "lines", tuple(_below(keys, "memory/")), low=0)
    yield Panel("Training stands still for a checkpoint, s", "lines", ("train/checkpoint_blocked_seconds",), low=0)
    yield Panel("Learning rate of the dense network", "lines", ("train/dense_lr",))


def _lines(title: str, keys: Sequence[str]) -> Iterator[Panel]:
    """Lines in as many panels as they need; none for none."""
    parts = [tuple(keys[at : at + MOST]) for at in range(0, len(keys), MOST)]
    for number, part in enumerate(parts, 1):
        yield Panel(title + (f" ({number} of {len(parts)})" if len(parts) > 1 else ""), "lines", part)


def _below(keys: dict[str, str], begin: str) -> list[str]:
    return [key for key in keys if key.startswith(begin)]


def _grouped(keys: Sequence[str]) -> dict[str, list[str]]:
    """By all but their last part."""
    out: dict[str, list[str]] = {}
    for key in keys:
        out.setdefault(key.rpartition("/")[0], []).append(key)
    return out


def _shown(field: str) -> str:
    return WORDS[field]
