"""Every key that a job tells, to its own record and to wandb alike, and what it is. No torch.

A key that is there only sometimes says when, in brackets at its end. Levels count from 1, where the inputs come in; an
expert is TASK.N, shared.N or expert.N; a gate is a task's, shared, all, or expert.N of the level above.
"""

import itertools
from collections.abc import Iterable, Iterator

from schemas.job import JobConfig
from schemas.model import (
    CGCConfig,
    CrossStitchConfig,
    MLMMoEConfig,
    MMoEConfig,
    MoEConfig,
    PLEConfig,
    SluiceConfig,
)

WAIT_SHARE, DECODE_SHARE = "train/data_wait_share", "data/decode_share"
RSS, CUDA = "memory/rss_gb", "memory/cuda_gb"
SPEED, RATE, BLOCKED = "train/rows_per_second", "train/dense_lr", "train/checkpoint_blocked_seconds"
COSINE, PENALTY = "train/least_gradient_cosine", "train/penalty"
QUARANTINED = "data/quarantined_rows", "data/quarantined_row_groups"
LATE, DRIFTED = "data/late_files", "data/drifted_files"
BINARY = {
    "rows": "rows in the task's space",
    "positives": "of them with label 1",
    "auc": "area under the ROC curve [both classes]",
    "auc_low": "lower end of its 95 % interval [two rows of either class]",
    "auc_high": "upper end of its 95 % interval [two rows of either class]",
    "log_loss": "mean log loss [rows]",
    "ne": "log loss over the entropy of the base rate [both classes]",
    "calibration": "mean prediction over mean label [positives]",
}
"""Field of a probability's metrics -> what it is."""
REGRESSION = {
    "rows": "rows in the task's space",
    "mse": "mean squared error [rows]",
    "mse_low": "lower end of its 95 % interval [two rows]",
    "mse_high": "upper end of its 95 % interval [two rows]",
    "mae": "mean absolute error [rows]",
    "r2": "1 - MSE over the variance of the labels [labels that differ]",
}
DAILY = ("auc", "log_loss", "calibration")
"""What daily retraining logs of a probability; of a number, its mse."""


def gate(level: int, name: str, expert: str) -> str:
    """The mean weight that a gate gives an expert."""
    return f"gates/{level}/{name}/{expert}"


def gate_entropy(level: int, name: str) -> str:
    """How evenly a gate mixes."""
    return f"gate_entropy/{level}/{name}"


def load(level: int, expert: str) -> str:
    """An expert's share of all the weight of its level."""
    return f"experts/{level}/load/{expert}"


def similarity(level: int, one: str, other: str) -> str:
    """How alike two experts' outputs are."""
    return f"experts/{level}/similarity/{one}~{other}"


def shared_last(experts: Iterable[str]) -> list[str]:
    """Experts of a level in the order that their pairs are told."""
    return sorted(experts, key=lambda expert: expert.startswith("shared."))


def stitch(level: int, task: str, other: str) -> str:
    """What a task takes of another's layer."""
    return f"stitches/{level}/{task}/{other}"


def gradient_norm(task: str) -> str:
    """Of the task's own loss, on the shared dense parameters."""
    return f"gradients/{task}/norm"


def gradient_cosine(one: str, other: str) -> str:
    """Between two tasks' gradients there."""
    return f"gradients/cosine/{one}~{other}"


def embedding_norm(feature: str) -> str:
    """Mean length of the feature's pooled embedding."""
    return f"embeddings/{feature}/norm"


def of_rank(rank: int, key: str) -> str:
    """A number of one rank."""
    return f"ranks/{rank}/{key}"


def curve(split: str, name: str, kind: str) -> str:
    """A wandb table of a task, or of its joint probability `TASK (joint)`, in the split eval or eval/MODEL."""
    task, joint = name.removesuffix(" (joint)"), "joint_" * name.endswith(" (joint)")
    return "/".join(["curves", *split.split("/")[1:], task, f"{joint}{kind}"])


def sometimes(words: str) -> bool:
    """Whether a key with these words is there only sometimes."""
    return words.endswith("]")


def logged_keys(job: JobConfig) -> dict[str, str]:
    """Key -> what it is, in a line, in an order for reading."""
    out = dict(_tasks(job))
    if job.tracking.telemetry.every:
        out |= telemetry_keys(job)
    out |= dict(_balance(job))
    out |= dict(_data(job))
    out |= dict(_speed())
    return out | (dict(_daily(job)) if job.daily is not None else {})


def joint_tasks(job: JobConfig) -> list[str]:
    """Tasks with a joint probability over all exposures."""
    return [task.name for task, link in zip(job.tasks, job.links, strict=True) if link is not None]


def evaluated(job: JobConfig) -> bool:
    """Whether its trainings end with an evaluation; days of retraining are judged on held-out rows instead."""
    return job.data.eval is not None and job.daily is None


def _tasks(job: JobConfig) -> Iterator[tuple[str, str]]:
    joint = joint_tasks(job)
    for task in job.tasks:
        fields = REGRESSION if task.kind == "regression" else BINARY
        for split in ("train", "eval") if evaluated(job) else ("train",):
            when = "" if split == "train" else " of the evaluation"
            for field, words in fields.items():
                yield f"{split}/{task.name}/{field}", f"{task.name}{when}: {words}"
            if task.name in joint:
                for field, words in BINARY.items():
                    what = f"{task.name} as a joint probability over all exposures{when}: {words}"
                    yield f"{split}/{task.name}/joint_{field}", what
        yield f"train/{task.name}/loss", f"{task.name}: its own loss per row of its space [rows]"
        yield f"train/{task.name}/weight", f"{task.name}: weight of its loss"
        for name in (task.name, *([f"{task.name} (joint)"] if task.name in joint else [])) if evaluated(job) else ():
            yield curve("eval", name, "calibration"), f"{name}: observed by predicted, a table [wandb alone]"
            if task.kind == "binary":
                yield curve("eval", name, "scores"), f"{name}: scores by label, a table [wandb alone]"


def telemetry_keys(job: JobConfig) -> dict[str, str]:
    """Those of gates, experts, gradients and embeddings."""
    return dict(_network(job))


def _network(job: JobConfig) -> Iterator[tuple[str, str]]:
    for level, gates in enumerate(gates_of(job), 1):
        yield from _level(level, gates)
    tasks = [task.name for task in job.tasks]
    if isinstance(job.model, CrossStitchConfig | SluiceConfig):
        for level, task, other in itertools.product(range(1, len(job.model.bottom_layers) + 1), tasks, tasks):
            yield stitch(level, task, other), f"layer {level}: share that {task} takes from {other}"
    for task in tasks:
        yield gradient_norm(task), f"{task}: norm of its loss's gradient on the shared parameters [shared ones]"
    for a, b in itertools.combinations(tasks, 2):
        yield gradient_cosine(a, b), f"cosine of the gradients of {a} and {b} [shared parameters]"
    for feature in job.embedded:
        yield embedding_norm(feature.name), f"{feature.name}: mean norm of its pooled embedding"


def _balance(job: JobConfig) -> Iterator[tuple[str, str]]:
    if job.balance.measured:
        yield COSINE, "the least cosine between the gradients of two tasks [where taken]"
    if isinstance(job.model, SluiceConfig):
        yield PENALTY, "the orthogonality penalty"


def _level(level: int, gates: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    every = dict.fromkeys(expert for seen in gates.values() for expert in seen)
    experts = shared_last(every)
    for name, seen in gates.items():
        for expert in seen:
            yield gate(level, name, expert), f"level {level}: weight that gate {name} gives {expert}"
        words = "spread of its weights, 0 one expert to 1 all alike"
        yield gate_entropy(level, name), f"level {level}, gate {name}: {words}"
    for expert in experts:
        yield load(level, expert), f"level {level}: share of all gate weight that {expert} has"
    for a, b in itertools.combinations(experts, 2):
        yield similarity(level, a, b), f"level {level}: cosine of the outputs of {a} and {b}"


def gates_of(job: JobConfig) -> list[dict[str, list[str]]]:
    """A level each: gate -> the experts that it mixes; empty for an architecture without gates."""
    tasks, model = [task.name for task in job.tasks], job.model
    if isinstance(model, CGCConfig | PLEConfig):
        counts = model.by_task(tasks)["task_experts"]
        own = {task: [f"{task}.{n}" for n in range(counts[task])] for task in tasks}
        shared = [f"shared.{n}" for n in range(model.shared_experts)]
        last = {task: [*own[task], *shared] for task in tasks}
        every = {"shared": [*(expert for task in tasks for expert in own[task]), *shared]} if shared else {}
        return [last | every] * ((model.levels if isinstance(model, PLEConfig) else 1) - 1) + [last]
    if not isinstance(model, MoEConfig | MMoEConfig | MLMMoEConfig):
        return []
    experts = [f"expert.{n}" for n in range(model.experts)]
    gates = ["all"] if isinstance(model, MoEConfig) else tasks
    levels = model.levels if isinstance(model, MLMMoEConfig) else 1
    return [dict.fromkeys(experts, experts)] * (levels - 1) + [dict.fromkeys(gates, experts)]


def _data(job: JobConfig) -> Iterator[tuple[str, str]]:
    for feature in job.embedded:
        yield f"data/unknown/{feature.name}", f"{feature.name}: share of its ids that are out of vocabulary"
    for task in job.tasks:
        if task.given is not None:
            words = f"rows with {task.name} 1 and its parent 0, in the window [such rows]"
            yield f"data/funnel_broken/{task.name}", words
    yield QUARANTINED[0], "bad rows left out so far"
    yield QUARANTINED[1], "unreadable row groups left out so far"
    yield LATE, "files of the training days that came after the run began"
    yield DRIFTED, "files of another schema than most"


def _speed() -> Iterator[tuple[str, str]]:
    yield SPEED, "rows trained a second, all ranks together"
    yield WAIT_SHARE, "share of the time that training waited for its next batch"
    yield DECODE_SHARE, "share of the time that the reader's thread spent reading and encoding"
    yield BLOCKED, "how long training stood still for a checkpoint"
    yield RATE, "learning rate of the dense network"
    yield RSS, "the most memory that any rank has held so far, GB"
    yield CUDA, "the most GPU memory that any rank has held so far, GB [a GPU]"


def _daily(job: JobConfig) -> Iterator[tuple[str, str]]:
    yield "daily/promoted", "1: the day's model became champion; 0: the gate refused it"
    yield "daily/rows", "rows of the day's log"
    joint = joint_tasks(job)
    sides = {
        "fresh/champion": "the champion on the new day, before anything trained on it [a champion]",
        "held/champion": "the champion on the held-out rows [a champion]",
        "held/challenger": "the challenger on the held-out rows",
    }
    for side, words in sides.items():
        for task in job.tasks:
            for metric in ("mse",) if task.kind == "regression" else DAILY:
                yield f"daily/{side}/{task.name}/{metric}", f"{task.name} {metric}: {words}"
                if task.name in joint:
                    yield f"daily/{side}/{task.name}/{metric}_joint", f"{task.name} (joint) {metric}: {words}"
