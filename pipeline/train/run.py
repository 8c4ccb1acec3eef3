"""One job from start to end on one rank: build, resume, train, evaluate, tell."""

from pathlib import Path
from typing import Any

from pipeline.data.files import Manifest
from pipeline.embedding.sharding import shard
from pipeline.model import RankingModel
from pipeline.tracking import Tracking
from pipeline.train.agreement import check_agreement, sole_writer
from pipeline.train.checkpoint import Checkpoints, Commit, Progress, load_training
from pipeline.train.console import evaluation_line, metrics_table, progress_line
from pipeline.train.dist import Ranks
from pipeline.train.loop import Report, Training, evaluate
from pipeline.train.optim import Optimizers
from schemas.errors import InputError
from schemas.job import JobConfig

START = Progress(step=0, epoch=0, rows_done=0, samples=0)
MAY_CHANGE = ("output", "tracking", "name")
"""Settings a resumed job may change: they do not touch the numbers."""
MAY_CHANGE_IN_TRAIN = ("log_every", "checkpoint_every", "keep_last", "resume", "timeout_seconds")


def run_job(
    job: JobConfig, training: Manifest, evaluation: Manifest | None, ranks: Ranks, attainable: dict[str, float]
) -> None:
    """Trains from the newest checkpoint or from nothing, then evaluates; rank 0 prints and tracks."""
    config = job.model_dump(mode="json", by_alias=True)
    with sole_writer(Path(job.output)):
        _run_job(job, config, training, evaluation, ranks, attainable)


def _run_job(
    job: JobConfig,
    config: dict[str, Any],
    training: Manifest,
    evaluation: Manifest | None,
    ranks: Ranks,
    attainable: dict[str, float],
) -> None:
    checkpoints = Checkpoints(Path(job.output) / "checkpoints", job.train.keep_last)
    commit = checkpoints.newest()
    check_agreement(
        {
            "configuration": {key: value for key, value in config.items() if key not in MAY_CHANGE},
            "list of training files": training.fingerprint,
            "list of evaluation files": evaluation and evaluation.fingerprint,
            "newest checkpoint": commit and commit.progress,
        }
    )
    if commit is not None:
        same_job(commit, config, training, job.train.resume)

    model = RankingModel(job)
    sharded = shard(model, job, ranks.device)
    if job.train.compile:
        model.dense.compile(dynamic=True)
    optimizers = Optimizers(sharded, job)
    loop = Training(job, training, sharded, optimizers, ranks, checkpoints, config)
    start = START
    if commit is not None:
        load_training(commit, sharded, optimizers.all)
        start = commit.progress

    tracking = Tracking(job, "train", config | {"world_size": ranks.world}) if ranks.first else None

    def say(text: str) -> None:
        if ranks.first:
            print(text, flush=True)

    failed = True
    try:
        say(_opening(job, loop, evaluation, ranks, start))
        end = loop.run(start, lambda report: _tell(report, tracking)) if start.step < loop.steps else start
        if evaluation is not None:
            say(f"evaluating on {evaluation.rows:,} rows")
            metrics = evaluate(
                job, evaluation, sharded, ranks, lambda rows, speed: say(evaluation_line(rows, evaluation.rows, speed))
            )
            if metrics is not None and tracking is not None:
                tracking.metrics("eval", end.samples, metrics, {})
                say("\n" + metrics_table(metrics, attainable) + "\n")
        failed = False
    finally:
        if tracking is not None:
            tracking.finish(failed)
    say(_closing(checkpoints, tracking))


def same_job(commit: Commit, config: dict[str, Any], training: Manifest, resume: bool) -> None:
    """Raises InputError where the checkpoint is not one of this very job."""
    if not resume:
        raise InputError(
            f"train.resume: {commit.path} is committed and resume is off; name another output, or remove this one"
        )
    changed = sorted(_changes(_numeric(commit.job), _numeric(config)))
    if changed:
        raise InputError(
            f"{commit.path}: saved under another configuration; {', '.join(changed)} changed. "
            "Set them back to go on, or name another output to start anew"
        )
    if commit.data != training.fingerprint:
        raise InputError(
            f"{commit.path}: the files of the training days changed since the run began; "
            "restore them to go on, or name another output to start anew"
        )


def _numeric(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the numbers."""
    out = {key: value for key, value in config.items() if key not in MAY_CHANGE}
    out["train"] = {key: value for key, value in config["train"].items() if key not in MAY_CHANGE_IN_TRAIN}
    # where the log lies and how far to read ahead do not matter: its fingerprint is compared
    out["data"] = {k: v for k, v in config["data"].items() if k not in ("path", "prefetch_batches", "eval")}
    return out


def _changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [c for key in keys for c in _changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if old == new else [path]


def _tell(report: Report, tracking: Tracking | None) -> None:
    print(progress_line(report), flush=True)
    if tracking is not None:
        more = {f"train/{task}/loss": loss for task, loss in report.losses.items()}
        more |= {f"data/unknown/{feature}": share for feature, share in report.unknown.items()}
        more |= {f"data/funnel_broken/{task}": float(rows) for task, rows in report.broken.items()}
        more |= {"train/rows_per_second": report.rows_per_second, "train/dense_lr": report.dense_lr}
        tracking.metrics("train", report.progress.samples, report.metrics, more)


def _opening(job: JobConfig, loop: Training, evaluation: Manifest | None, ranks: Ranks, start: Progress) -> str:
    lines = [
        f"{job.name}: {job.model.arch} on {ranks.world} rank{'s' if ranks.world > 1 else ''} ({ranks.device.type}), "
        f"{len(job.tasks)} tasks, {loop.rows:,} rows in {loop.steps:,} steps of {job.train.batch_size:,}"
    ]
    if start.step >= loop.steps:
        lines.append(f"trained to its end already, step {start.step}; name another output to train anew")
    if job.data.eval is not None and set(job.data.eval.days()) & set(job.data.train.days()):
        lines.append("note: some evaluation days are training days too; their metrics flatter the model")
    if 0 < start.step < loop.steps:
        lines.append(f"going on from step {start.step}, {start.samples:,} rows done")
    return "\n".join(lines)


def _closing(checkpoints: Checkpoints, tracking: Tracking | None) -> str:
    newest = checkpoints.newest()
    lines = [f"checkpoint  {newest.path if newest else 'none'}"]
    if tracking is not None and tracking.folder is not None:
        lines.append(f"wandb run   {tracking.url or tracking.folder}")
        if tracking.mode == "offline":
            lines.append(
                f"            look at it: wandb leet {tracking.folder}    upload it: wandb sync {tracking.folder}"
            )
    return "\n".join(lines)
