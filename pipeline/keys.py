"""The key of every number that a run tells, to its own record and to wandb alike; for those who tell and who show.

Levels count from 1, where the inputs come in. An expert is TASK.N, shared.N or expert.N; a gate is a task's, shared,
all, or expert.N of the level above.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from pipeline.measures import BinaryMetrics, RegressionMetrics
from pipeline.model import unfilled_network
from schemas.job import JobConfig

WAIT_SHARE, DECODE_SHARE = "train/data_wait_share", "data/decode_share"
RSS, CUDA = "memory/rss_gb", "memory/cuda_gb"
SPEED, RATE, COSINE, PENALTY = "train/rows_per_second", "train/dense_lr", "train/least_gradient_cosine", "train/penalty"
BLOCKED = "train/checkpoint_blocked_seconds"
QUARANTINED = "data/quarantined_rows", "data/quarantined_row_groups"
LATE, DRIFTED = "data/late_files", "data/drifted_files"
PROMOTED = "daily/promoted"


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key is."""

    what: str
    always: bool = True
    """Whether every run of the job that trains and evaluates to its end tells it."""


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


def curve(split: str, name: str) -> str:
    """Before /calibration, /positives and /negatives: plots of a task, or of its joint probability."""
    return f"curves/{split}/{name.replace(' (joint)', '/joint')}"


def logged_keys(job: JobConfig) -> dict[str, Key]:
    """Every key that a training run of the job may tell."""
    out: dict[str, Key] = {}
    for split in ("train", "eval"):
        out |= _metrics(job, split)
    for task in job.tasks:
        out[f"train/{task.name}/loss"] = Key("mean loss of the window, over the rows the task is trained on", False)
        out[f"train/{task.name}/weight"] = Key("weight of the task's loss")
        out[f"data/funnel_broken/{task.name}"] = Key("rows with label 1 under a parent's 0", False)
    out |= {SPEED: Key("rows trained a second"), RATE: Key("learning rate of the dense network")}
    out |= {COSINE: Key("least cosine between two tasks' gradients, where balancing takes them", False)}
    out |= {PENALTY: Key("what the weights add to the loss", False), BLOCKED: Key("seconds that a checkpoint took")}
    out |= {key: Key("left out by quarantine so far") for key in QUARANTINED}
    out |= {LATE: Key("files that came after the run began", False), DRIFTED: Key("files of another schema", False)}
    out |= {f"data/unknown/{f.name}": Key("share of its ids out of vocabulary") for f in job.embedded}
    out |= {WAIT_SHARE: Key("share of the time that training waited for data, of the rank that waited most")}
    out |= {DECODE_SHARE: Key("share of the time that the reader's thread was at work, mean over ranks")}
    out |= {RSS: Key("most memory that a rank has held, GB"), CUDA: Key("most CUDA memory of a rank, GB", False)}
    if job.tracking.telemetry.every:
        out |= telemetry_keys(job)
    return out


def telemetry_keys(job: JobConfig) -> dict[str, Key]:
    """Those of gates, experts, gradients and embeddings."""
    tasks = [task.name for task in job.tasks]
    out: dict[str, Key] = {}
    experts: dict[int, dict[str, None]] = {}
    for mixture in unfilled_network(job).arch.mixtures(tasks):
        names = [name for name, _ in mixture.experts]
        experts.setdefault(mixture.level, {}).update(dict.fromkeys(names))
        out |= {gate(mixture.level, mixture.gate, name): Key("mean gate weight") for name in names}
        out[gate_entropy(mixture.level, mixture.gate)] = Key("entropy of the gate, 0 one expert, 1 all alike")
    for level, of in experts.items():
        out |= {load(level, name): Key("the expert's share of the level's gate weight") for name in of}
        pairs = itertools.combinations(sorted(of), 2)
        out |= {similarity(level, *pair): Key("cosine of two experts' outputs") for pair in pairs}
    out |= {gradient_norm(task): Key("length of the gradient of the task's own loss", False) for task in tasks}
    pairs = itertools.combinations(tasks, 2)
    out |= {gradient_cosine(*pair): Key("cosine between two tasks' gradients", False) for pair in pairs}
    return out | {embedding_norm(f.name): Key("mean length of the pooled embedding") for f in job.embedded}


def _metrics(job: JobConfig, split: str) -> dict[str, Key]:
    out = {}
    always = split == "train" or job.data.eval is not None
    for task in job.tasks:
        for name, what in _of_task(task.kind == "regression", task.given is not None):
            counted = name.removeprefix("joint_") in ("rows", "positives")
            out[f"{split}/{task.name}/{name}"] = Key(what, always and counted)
    return out


def _of_task(regression: bool, child: bool) -> Iterator[tuple[str, str]]:
    """(metric, what it is of)."""
    kind = RegressionMetrics if regression else BinaryMetrics
    for field in dataclasses.fields(kind):
        yield field.name, "over the task's own space"
        if child and not regression:
            yield f"joint_{field.name}", "of the joint probability, over all exposures"
