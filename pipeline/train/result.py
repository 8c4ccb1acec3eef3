"""OUTPUT/result.json: what a finished run came to, for programs. Written whole, or not at all, by the first rank."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from pipeline.data.manifest import Manifest
from pipeline.metrics import Metrics
from pipeline.model import NetworkSize
from pipeline.storage import filesystem, is_local, reason
from pipeline.train.checkpoint import Progress
from pipeline.train.dist import Ranks
from pipeline.train.pace import Pace
from schemas.errors import InputError
from schemas.job import JobConfig

RESULT = "result.json"
FORMAT = 1


def result(
    job: JobConfig,
    fingerprint: str,
    training: Manifest,
    evaluation: Manifest | None,
    ranks: Ranks,
    end: Progress,
    size: NetworkSize,
    pace: Pace,
    metrics: Metrics | None,
    attainable: dict[str, float],
) -> dict[str, Any]:
    """Everything in plain data; `fingerprint` is that of the job, with `precision` as it was asked for."""
    out = {
        "format": FORMAT,
        "name": job.name,
        "arch": job.model.arch,
        "space": job.space,
        "seed": job.seed,
        "step": end.step,
        "samples": end.samples,
        "held_out": end.held_out(training.rows),
        "ranks": ranks.world,
        "device": ranks.device.type,
        "precision": job.train.precision,
        "fingerprints": {
            "job": fingerprint,
            "training": training.fingerprint,
            "evaluation": None if evaluation is None else evaluation.fingerprint,
        },
        "rows_per_second": pace.rows_per_second,
    }
    tasks = {} if metrics is None else task_results(job, metrics, attainable)
    return out | pace.values() | dataclasses.asdict(size) | {"tasks": tasks}


def task_results(job: JobConfig, metrics: Metrics, attainable: dict[str, float]) -> dict[str, Any]:
    """Every value of the closing table by task, unrounded; a value that is not defined is null."""
    out: dict[str, Any] = {}
    for task in job.tasks:
        own = metrics.regression.get(task.name) or metrics.own[task.name]
        told: dict[str, Any] = {"kind": task.kind, "own": dataclasses.asdict(own)}
        if task.name in attainable:
            told["own"]["attainable_auc"] = attainable[task.name]
        if task.name in metrics.joint:
            told["joint"] = dataclasses.asdict(metrics.joint[task.name])
            if (row := f"{task.name} (joint)") in attainable:
                told["joint"]["attainable_auc"] = attainable[row]
        out[task.name] = told
    return out


def write_result(job: JobConfig, content: dict[str, Any]) -> None:
    """Writes it to the job's output, a folder or a URL. Raises InputError where that is not possible."""
    remedy = "training is done and committed: mend the output, and the same command evaluates again and writes it"
    write_whole(f"{job.output.rstrip('/')}/{RESULT}", json.dumps(content, indent=1) + "\n", remedy)


def write_whole(url: str, text: str, remedy: str) -> None:
    """Writes a small file whole or not at all. Raises InputError with the remedy where that is not possible."""
    fs, path = filesystem(url)
    try:
        if is_local(fs):
            place = Path(path)
            draft = place.with_name(f".{place.name}.draft")
            draft.write_text(text)
            os.replace(draft, place)
        else:
            fs.pipe_file(path, text.encode())
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(f"{url}: cannot be written ({reason(error)}); {remedy}") from error
