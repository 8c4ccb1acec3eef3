"""Every key that a job logs, in its own record and in wandb, and what it is. No torch.

A key that is there only sometimes says when, in brackets at its end.
"""

import itertools
from collections.abc import Iterator

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


def logged_keys(job: JobConfig) -> dict[str, str]:
    """Key -> what it is, in a line, in an order for reading."""
    out = dict(_tasks(job))
    out |= dict(_network(job))
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
        if evaluated(job):
            yield f"curves/{task.name}/calibration", f"{task.name}: observed by predicted, a table [wandb alone]"
        if evaluated(job) and task.kind == "binary":
            yield f"curves/{task.name}/scores", f"{task.name}: scores by label, a table [wandb alone]"


def _network(job: JobConfig) -> Iterator[tuple[str, str]]:
    for level, gates in enumerate(gates_of(job), 1):
        yield from _level(level, gates)
    tasks = [task.name for task in job.tasks]
    if isinstance(job.model, CrossStitchConfig | SluiceConfig):
        for level, task, other in itertools.product(range(1, len(job.model.bottom_layers) + 1), tasks, tasks):
            yield f"stitches/{level}/{task}/{other}", f"layer {level}: share that {task} takes from {other}"
    for task in tasks:
        yield f"gradients/{task}/norm", f"{task}: norm of its loss's gradient on the shared parameters [shared ones]"
    for a, b in itertools.combinations(tasks, 2):
        yield f"gradients/cosine/{a}~{b}", f"cosine of the gradients of {a} and {b} [shared parameters]"
    if job.balance.measured:
        yield "train/least_gradient_cosine", "the least cosine between the gradients of two tasks [where taken]"
    if isinstance(job.model, SluiceConfig):
        yield "train/penalty", "the orthogonality penalty"
    for feature in job.embedded:
        yield f"embeddings/{feature.name}/norm", f"{feature.name}: mean norm of its pooled embedding"


def _level(level: int, gates: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    every = dict.fromkeys(expert for seen in gates.values() for expert in seen)
    experts = sorted(every, key=lambda expert: expert.startswith("shared."))  # the shared ones last
    for gate, seen in gates.items():
        for expert in seen:
            yield f"gates/{level}/{gate}/{expert}", f"level {level}: weight that gate {gate} gives {expert}"
        words = "spread of its weights, 0 one expert to 1 all alike"
        yield f"gate_entropy/{level}/{gate}", f"level {level}, gate {gate}: {words}"
    for expert in experts:
        yield f"experts/{level}/load/{expert}", f"level {level}: share of all gate weight that {expert} has"
    for a, b in itertools.combinations(experts, 2):
        yield f"experts/{level}/similarity/{a}~{b}", f"level {level}: cosine of the outputs of {a} and {b}"


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
    yield "data/quarantined_rows", "bad rows left out so far"
    yield "data/quarantined_row_groups", "unreadable row groups left out so far"
    yield "data/late_files", "files of the training days that came after the run began"
    yield "data/drifted_files", "files of another schema than most"


def _speed() -> Iterator[tuple[str, str]]:
    yield "train/rows_per_second", "rows trained a second, all ranks together"
    yield "train/data_wait_share", "share of the time that training waited for its next batch"
    yield "data/decode_share", "share of the time that the reader's thread spent reading and encoding"
    yield "train/checkpoint_blocked_seconds", "how long training stood still for a checkpoint"
    yield "train/dense_lr", "learning rate of the dense network"
    yield "memory/rss_gb", "the most memory that any rank has held so far, GB"
    yield "memory/cuda_gb", "the most GPU memory that any rank has held so far, GB"


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
