"""Models scored one after another on the rows of data.eval, exactly as training evaluates: metrics, and each row."""

import gc
import json
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from pipeline.data.holdout import evaluation_part
from pipeline.data.manifest import Manifest
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.embedding.sharding import shard
from pipeline.metrics import Metrics
from pipeline.model import RankingModel
from pipeline.predictions import FORMAT
from pipeline.storage import filesystem, reason
from pipeline.tracking import Tracking
from pipeline.train.agreement import check_agreement, first_rank, sole_writer, together
from pipeline.train.budget import Budget, left_out_words
from pipeline.train.console import evaluation_line, metrics_table
from pipeline.train.dist import Ranks
from pipeline.train.evaluate import evaluate
from pipeline.train.outcome import told_end
from pipeline.train.prediction_files import PredictionFile
from pipeline.train.restore import load_model
from pipeline.train.result import task_results, write_whole
from pipeline.train.scoring import Scoring, ToScore, score_of
from schemas.errors import InputError
from schemas.identity import MAY_CHANGE
from schemas.job import JobConfig
from schemas.score import ScoreConfig


def run_scoring(
    job: JobConfig, scoring: Scoring, ranks: Ranks, attainable: dict[str, dict[str, float]], table: bool = True
) -> None:
    """Scores every model; rank 0 prints. Every rank must call it; raises Stopped on all of them, as `evaluate` does.

    `attainable` holds each model's best attainable AUCs; without `table` the metrics are written and not printed.
    """
    score = score_of(job)

    def say(text: str) -> None:
        if ranks.first:
            print(text, flush=True)

    with sole_writer(score.out, "score.out"):
        tracking = Tracking(job, "eval", {"models": score.models}) if ranks.first else None
        with told_end(tracking):
            for each in scoring.todo:
                metrics = _score(each, score, ranks, attainable.get(each.name, {}), say, table)
                if metrics is not None and tracking is not None:
                    tracking.metrics(f"eval/{each.name}", each.commit.progress.samples, metrics, {})
                    tracking.curves(f"eval/{each.name}", each.commit.progress.samples, metrics.curves)
                gc.collect()  # the model's tables, before the next one's


def _score(
    each: ToScore,
    score: ScoreConfig,
    ranks: Ranks,
    attainable: dict[str, float],
    say: Callable[[str], None],
    table: bool,
) -> Metrics | None:
    """One model; its metrics on rank 0."""
    job, rows, commit = each.job, each.rows, each.commit
    out, predictions = score.out, score.predictions
    settings = job.model_dump(mode="json", by_alias=True)
    check_agreement(
        {
            "configuration": {key: value for key, value in settings.items() if key not in MAY_CHANGE},
            "list of evaluation files": rows.fingerprint,
            "list of vocabulary values": fingerprints(job),
        }
    )
    held = "the held-out rows of " if evaluation_part(job.data) == "held" else ""
    where = f"{ranks.world} rank{'s' if ranks.world > 1 else ''} ({ranks.device.type})"
    say(f"{each.name}: {job.model.arch} of step {commit.progress.step:,} ({commit.path}) on {where}")
    sharded = shard(RankingModel(job), job, ranks.device)
    load_model(commit, sharded)
    budget = Budget(job, Manifest([], ""), rows)
    budget.evaluation.check_budget(budget.path)  # what planning left out
    attempt = first_rank(lambda: _begin(out, each.name))
    say(f"evaluating on {held}{rows.rows:,} rows")
    writing = PredictionFile(job.output, ranks.rank, job, attempt) if predictions else None
    with writing or nullcontext():
        metrics = evaluate(
            job,
            rows,
            sharded,
            ranks,
            lambda done, speed: say(evaluation_line(done, rows.rows, speed, evaluation_part(job.data))),
            budget,
            None if writing is None else writing.add,
        )
        written = None if writing is None else _written(writing, attempt)
    budget.write()
    if metrics is not None:
        if table:
            say(f"\n{metrics_table(metrics, attainable)}\n")
        if words := left_out_words(*budget.evaluation.totals):
            say(f"quarantine  {words} ({budget.path})")
    first_rank(lambda: _tell(each, out, predictions, written, budget, metrics, attainable))
    say(f"scored      {out}/{each.name}.json")
    return metrics


def _begin(out: str, name: str) -> str:
    """Removes what an earlier attempt has left, its .json first; the name of this attempt."""
    fs, folder = filesystem(f"{out}/{name}")
    try:
        if fs.exists(f"{folder}.json"):
            fs.rm_file(f"{folder}.json")
        fs.invalidate_cache()
        for path in fs.ls(folder, detail=False) if fs.exists(folder) else []:
            if path.rsplit("/", 1)[-1].lstrip(".").startswith("rank-"):
                fs.rm_file(path)
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(
            f"{out}/{name}: what an earlier scoring left there cannot be removed ({reason(error)}); mend the rights, "
            "or name another score.out"
        ) from error
    return secrets.token_hex(8)


def _written(writing: PredictionFile, attempt: str) -> dict[str, Any]:
    """All ranks' files, complete; every rank must call it."""
    import torch.distributed as dist

    mine = together(writing.close)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, (mine, writing.rows))
    files = {name: size for told, _ in every for name, size in told.items()}
    return {"attempt": attempt, "rows": sum(rows for _, rows in every), "files": files}


def _tell(
    each: ToScore,
    out: str,
    predictions: bool,
    written: dict[str, Any] | None,
    budget: Budget,
    metrics: Metrics | None,
    attainable: dict[str, float],
) -> None:
    """On rank 0: NAME.json, whole, after all that it speaks of."""
    assert metrics is not None
    holdout = each.job.data.holdout
    rows, groups = budget.evaluation.totals
    content = {
        "format": FORMAT,
        "model": each.name,
        "checkpoint": each.commit.path,
        "manifest_sha256": each.manifest_sha256,
        "step": each.commit.progress.step,
        "samples": each.commit.progress.samples,
        "rows": each.rows.fingerprint,
        "held": holdout.share if holdout and holdout.eval == "held" else None,
        "fingerprint": each.fingerprint(predictions),
        "precision": each.job.train.precision,
        "quarantined": {"rows": rows, "row_groups": groups},
        "predictions": written,
        "tasks": task_results(each.job, metrics, attainable),
    }
    write_whole(
        f"{out}/{each.name}.json",
        json.dumps(content, indent=1) + "\n",
        "mend it, and the same command scores the model again",
    )
