"""One job from start to end on one rank: build, resume, train, evaluate, tell."""

import dataclasses
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from pipeline import keys
from pipeline.data.freeze import STORED, Planned, drift_notes, late_files, late_note
from pipeline.data.holdout import drawn_words, evaluation_part
from pipeline.data.manifest import Manifest
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.embedding.sharding import shard
from pipeline.metrics import Metrics
from pipeline.model import RankingModel, network_size
from pipeline.tracking import Tracking
from pipeline.train.agreement import check_agreement, first_rank, sole_writer
from pipeline.train.budget import Budget, left_out_words
from pipeline.train.checkpoint import Checkpoints, Commit, Progress, Saved
from pipeline.train.console import checkpoint_line, evaluation_line, metrics_table, progress_line, size_line
from pipeline.train.dist import Ranks
from pipeline.train.evaluate import evaluate
from pipeline.train.loop import Training
from pipeline.train.migrate import load_parent, opening_lines
from pipeline.train.optim import Optimizers
from pipeline.train.outcome import told_end
from pipeline.train.precision import settled
from pipeline.train.result import result, write_result
from pipeline.train.table_state import set_replica_steps
from pipeline.train.warm_start import LINEAGE, Lineage, Parent, find_parent, lineage_of
from pipeline.train.window import Report
from schemas.errors import InputError
from schemas.identity import MAY_CHANGE, VOCABULARIES, changes, digest, fingerprint, numeric
from schemas.job import JobConfig

START = Progress(step=0, epoch=0, rows_done=0, samples=0)


def run_job(
    job: JobConfig, planned: Planned, evaluation: Manifest | None, ranks: Ranks, attainable: dict[str, float]
) -> None:
    """Trains from the newest checkpoint or from nothing, then evaluates; rank 0 prints and tracks."""
    with sole_writer(job.output):
        _run_job(job, planned, evaluation, ranks, attainable)


def _run_job(
    job: JobConfig, planned: Planned, evaluation: Manifest | None, ranks: Ranks, attainable: dict[str, float]
) -> None:
    training, train = planned.manifest, job.train
    config = job.model_dump(mode="json", by_alias=True) | {VOCABULARIES: fingerprints(job)}
    checkpoints = Checkpoints(
        f"{job.output}/checkpoints", train.keep_last, train.timeout_seconds, train.async_checkpoint
    )
    asked = fingerprint(config)
    commit = checkpoints.newest()
    check_agreement(
        {
            "configuration": {key: value for key, value in config.items() if key not in (*MAY_CHANGE, VOCABULARIES)},
            "list of training files": training.fingerprint,
            "list of evaluation files": evaluation and evaluation.fingerprint,
            "newest checkpoint": commit and (commit.name, commit.progress),
            "list of vocabulary values": config[VOCABULARIES],
        }
    )
    job = settled(job, ranks.device, None if commit is None else commit.job["train"]["precision"])
    config["train"]["precision"] = job.train.precision
    if commit is not None:
        same_job(commit, config, training, job.train.resume)
    parent = None
    if commit is None and job.warm_start is not None:
        parent = first_rank(lambda: find_parent(job, config[VOCABULARIES]))

    size = network_size(job)
    model = RankingModel(job)
    sharded = shard(model, job, ranks.device)
    if job.train.compile:
        model.dense.compile(dynamic=True)
    optimizers = Optimizers(sharded, job)
    budget = Budget(job, training, evaluation)
    loop = Training(job, training, sharded, optimizers, ranks, checkpoints, config, budget)
    loop.extras[STORED] = training.to_bytes()
    start = START if commit is None else commit.progress
    begun = _begin(job, loop, parent) if commit is None else _go_on(loop, commit)
    for log in (budget.training, budget.evaluation):
        log.check_budget(budget.path)  # what planning left out, or a budget that was lowered

    told = {"world_size": ranks.world, "size": dataclasses.asdict(size)}
    tracking = Tracking(job, "train", config | told | begun.tracked, start.samples) if ranks.first else None

    def say(text: str) -> None:
        if ranks.first:
            print(text, flush=True)

    with told_end(tracking):
        lines = [_opening(job, loop, evaluation, ranks, start), size_line(size), *begun.lines, *planned.notes()]
        lines += drift_notes(evaluation) if evaluation else []
        lines += [f"note: {at}: its manifest is cut short; passed over" for at in checkpoints.store.cut_short()]
        say("\n".join(lines + _quarantined(budget)))
        end = start
        if start.step < loop.steps:
            end = loop.run(
                start,
                lambda report: tell_report(report, tracking),
                lambda saved, progress: _tell_saved(saved, progress, say, tracking),
            )
        metrics = None
        if evaluation is not None:
            held = "the held-out rows of " if evaluation_part(job.data) == "held" else ""
            say(f"evaluating on {held}{evaluation.rows:,} rows")
            metrics = evaluate(
                job,
                evaluation,
                sharded,
                ranks,
                lambda rows, speed: say(evaluation_line(rows, evaluation.rows, speed, evaluation_part(job.data))),
                budget,
            )
            budget.write()
            if metrics is not None and tracking is not None:
                tracking.metrics("eval", end.samples, metrics, {})
                tracking.curves("eval", end.samples, metrics.curves)
                say("\n" + metrics_table(metrics, attainable) + "\n")
        loop.pace.measure(ranks)
        if ranks.first:
            told_of = (job, asked, training, evaluation, ranks, end, size, loop.pace, metrics, attainable)
            write_result(job, result(*told_of))
            if tracking is not None and job.tracking.artifacts:
                tracking.artifacts(*_artifacts(job, checkpoints, training, end, begun.tracked))
            _tell_late(job, planned, end, tracking)
    say("\n".join([_closing(checkpoints, tracking), *_quarantined(budget)]))


def _artifacts(
    job: JobConfig, checkpoints: Checkpoints, training: Manifest, end: Progress, more: dict[str, Any]
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Model, address and files, as `Tracking.artifacts` takes them."""
    newest = checkpoints.newest()
    assert newest is not None
    files = {"path": job.data.path, "fingerprint": training.fingerprint, "rows": training.rows}
    days = {"days": [str(day) for day in job.data.train.days()]}
    return {"checkpoint": newest.path, "step": end.step, "samples": end.samples, **more}, newest.path, files | days


@dataclasses.dataclass(frozen=True)
class _Begun:
    """How the run came by its weights."""

    lines: list[str]
    """For the terminal."""
    tracked: dict[str, Any]
    """For wandb's config."""


def _begin(job: JobConfig, loop: Training, parent: Parent | None) -> _Begun:
    """From the parent, or from the seed without one."""
    if parent is None or job.warm_start is None:
        return _Begun([], {})
    migration = load_parent(parent, job, loop.model, loop.optimizers.all)
    migrated = {"changes": {d.name: d.what for d in parent.differences}, **migration.summary()}
    lines = opening_lines(parent, migration, job.warm_start.optimizer)
    return _Begun(lines, _keep(loop, parent.lineage) | {"migration": migrated})


def _go_on(loop: Training, commit: Commit) -> _Begun:
    """From the run's own commit; what it once began from is kept."""
    lines = loop.load(commit)
    lineage = first_rank(lambda: lineage_of(commit))
    if lineage is None:
        return _Begun(lines, {})
    set_replica_steps(loop.optimizers.all, lineage.optimizer_steps + commit.progress.step)
    return _Begun(lines, _keep(loop, lineage))


def _keep(loop: Training, lineage: Lineage) -> dict[str, Any]:
    """Every commit of the run will hold it, and the tasks' weights go on from it; returns it for wandb's config."""
    loop.weights_from = (lineage.weight_steps, lineage.weight_epochs)
    loop.extras[LINEAGE] = lineage.encoded()
    return {"lineage": dataclasses.asdict(lineage)}


def same_job(commit: Commit, config: dict[str, Any], training: Manifest, resume: bool) -> None:
    """Raises InputError where the checkpoint is not one of this very job."""
    if not resume:
        raise InputError(
            f"train.resume: {commit.path} is committed and resume is off; name another output, or remove this one"
        )
    changed = sorted(changes(numeric(_up_to_date(commit.job)), numeric(config)))
    if changed:
        raise InputError(
            f"{commit.path}: saved under another configuration; {', '.join(changed)} changed. "
            "Set them back to go on, or name another output to start anew"
        )
    told, found = (c.get(VOCABULARIES, {}) for c in (commit.job, config))
    for feature in config["features"]:
        before, now = (held.get(feature["name"], "") for held in (told, found))
        if digest(before) != digest(now):
            raise InputError(
                f"{commit.path}: '{feature['vocabulary']}', the vocabulary of feature '{feature['name']}', holds other "
                "values than when the run began, so the table's rows would change their meaning; restore the file to "
                "go on, or name another output to start anew"
            )
    if commit.data != training.fingerprint:
        raise InputError(
            f"{commit.path}: the files of the training days changed since the run began; "
            "restore them to go on, or name another output to start anew"
        )


def _up_to_date(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the defaults of settings younger than it; as it is where it no longer fits."""
    settings = {key: value for key, value in saved.items() if key != VOCABULARIES}
    try:
        return saved | JobConfig.model_validate(settings).model_dump(mode="json", by_alias=True)
    except ValidationError:
        return saved


def _tell_late(job: JobConfig, planned: Planned, end: Progress, tracking: Tracking | None) -> None:
    """Lists the training days once more: what came meanwhile is not lost, but a later run's."""
    late = late_files(job, planned.manifest)
    if late is None:
        print("note: the training days cannot be listed any more; whether files came late is not known", flush=True)
        return
    if late and late != planned.late:
        print(late_note(late, planned.given), flush=True)
    if tracking is not None:
        drifted = planned.manifest.origin.get("drifted", 0)
        values = {keys.LATE: float(len(late)), keys.DRIFTED: float(drifted)}
        tracking.metrics("data", end.samples, Metrics({}, {}), values)


def tell_report(report: Report, tracking: Tracking | None) -> None:
    """A window's progress line, and all of its numbers to the tracked run."""
    print(progress_line(report), flush=True)
    if tracking is not None:
        more = {f"train/{task}/loss": loss for task, loss in report.losses.items()}
        more |= {f"data/unknown/{feature}": share for feature, share in report.unknown.items()}
        more |= {f"data/funnel_broken/{task}": float(rows) for task, rows in report.broken.items()}
        more |= {key: float(count) for key, count in zip(keys.QUARANTINED, report.left_out, strict=True)}
        more |= {f"train/{task}/weight": weight for task, weight in report.weights.items()}
        if report.penalty is not None:
            more[keys.PENALTY] = report.penalty
        if report.cosine is not None:
            more[keys.COSINE] = report.cosine
        more |= {keys.SPEED: report.rows_per_second, keys.RATE: report.dense_lr}
        more |= report.system | report.telemetry
        tracking.metrics("train", report.progress.samples, report.metrics, more)


def _tell_saved(saved: Saved, progress: Progress, say: Callable[[str], None], tracking: Tracking | None) -> None:
    say(checkpoint_line(saved))
    if tracking is not None:
        tracking.values(progress.samples, {keys.BLOCKED: saved.blocked_seconds})


def _opening(job: JobConfig, loop: Training, evaluation: Manifest | None, ranks: Ranks, start: Progress) -> str:
    where = f"{ranks.world} rank{'s' if ranks.world > 1 else ''} ({ranks.device.type}, {job.train.precision})"
    lines = [
        f"{job.name}: {job.model.arch} on {where}, "
        f"{len(job.tasks)} tasks, {loop.rows:,} rows in {loop.steps:,} steps of {job.train.batch_size:,}"
    ]
    if start.step >= loop.steps:
        lines.append(f"trained to its end already, step {start.step}; name another output to train anew")
    if job.data.holdout:
        lines.append(f"held out: {drawn_words(job.data.holdout)}, which keep their places in the steps, untrained")
    apart = evaluation_part(job.data) == "held"
    if job.data.eval is not None and not apart and set(job.data.eval.days()) & set(job.data.train.days()):
        lines.append("note: some evaluation days are training days too; their metrics flatter the model")
    if 0 < start.step < loop.steps:
        done = start.samples + start.held_out(loop.manifest.rows)
        lines.append(f"going on from step {start.step}, {done:,} rows done")
    return "\n".join(lines)


def _quarantined(budget: Budget) -> list[str]:
    """What was left out so far, and where that is written."""
    if not budget.active:
        return []
    told = [(log.split, left_out_words(*log.totals)) for log in (budget.training, budget.evaluation)]
    return [
        f"quarantine  {', '.join(f'{split}: {words}' for split, words in told if words) or 'empty'} ({budget.path})"
    ]


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
