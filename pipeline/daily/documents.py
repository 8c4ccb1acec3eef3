"""The jobs that a day's torchrun steps run: the daily YAML with the day's own days, files, champion and output."""

import datetime
from typing import Any

import yaml

from pipeline.daily.place import DAY_MANIFEST, TRAIN_MANIFEST, Place
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.registry import Model
from pipeline.train.checkpoint_store import CheckpointStore, Commit
from pipeline.train.migrate_structure import differences, saved_job
from schemas.errors import InputError
from schemas.events import DayRange, HoldoutConfig
from schemas.identity import VOCABULARIES
from schemas.job import JobConfig


def settled(job: JobConfig) -> JobConfig:
    """The daily job with what daily retraining needs of `data`: held-out rows, and one history for all days."""
    history = job.data.history.model_copy(
        update={
            "first": job.data.history_from,
            "folder": job.data.history.folder or f"{job.output}/statistics",
        }
    )
    holdout = job.data.holdout or HoldoutConfig()
    return job.model_copy(
        update={"data": job.data.model_copy(update={"history": history, "holdout": holdout, "eval": None})}
    )


def commit_of(model: Model) -> Commit:
    """The model's committed checkpoint. Raises InputError where it is gone."""
    folder, name = model.checkpoint.rsplit("/", 1)
    commit = CheckpointStore(folder).at(name)
    if commit is None:
        raise InputError(
            f"{model.checkpoint}: the checkpoint of model {model.name} is gone; restore it, or roll back to another "
            "champion"
        )
    return commit


def with_vocabularies(job: JobConfig, paths: dict[str, str]) -> JobConfig:
    """The job with its features' vocabularies, by table."""
    grown = {
        feature.name: feature.model_copy(update={"vocabulary": paths[feature.table_name]})
        for feature in job.valued
        if feature.vocabulary and feature.table_name in paths
    }
    return job.model_copy(update={"features": [grown.get(feature.name, feature) for feature in job.features]})


def vocabularies_of(config: dict[str, Any]) -> dict[str, str]:
    """Paths of a saved configuration's vocabularies, by table."""
    found = [f for f in config.get("features", []) if f.get("vocabulary")]
    return {f.get("table") or f["name"]: f["vocabulary"] for f in found}


def day_group(job: JobConfig, day: datetime.date) -> str:
    """wandb's group of all runs of one day."""
    return f"{job.tracking.group or job.name} {day}"


def day_job(job: JobConfig, place: Place, name: str, output: str) -> JobConfig:
    """The job of one torchrun step; its wandb run stands in the day's group."""
    remote = "://" in output
    folder = job.tracking.folder or (f"runs/{job.name}/{place.key}" if remote else None)
    tracking = job.tracking.model_copy(update={"group": day_group(job, place.day), "folder": folder})
    train = job.train.model_copy(update={"resume": True})
    given = {"name": name, "output": output, "tracking": tracking, "train": train, "daily": None, "warm_start": None}
    return job.model_copy(update=given)


def training_job(job: JobConfig, place: Place, first: datetime.date, champion: Model | None) -> JobConfig:
    """The challenger's training: from the champion where there is one, on the frozen manifest.

    Raises InputError where the structure differs in what `daily.changes` does not name.
    """
    assert job.daily is not None
    out = day_job(job, place, f"{job.name}.{place.key}", place.url("challenger"))
    days = DayRange(**{"from": first, "to": place.day})
    frozen = job.data.frozen.model_copy(update={"train": place.url(TRAIN_MANIFEST), "eval": None})
    out = out.model_copy(update={"data": job.data.model_copy(update={"train": days, "eval": None, "frozen": frozen})})
    if champion is None:
        return out
    return out.model_copy(update={"warm_start": _warm_start(job, out, champion)})


def _warm_start(job: JobConfig, new: JobConfig, champion: Model) -> Any:
    from schemas.warm_start import WarmStartConfig

    assert job.daily is not None
    commit = commit_of(champion)
    old = saved_job(commit.job, new, commit.path)
    found = differences(old, new, commit.job.get(VOCABULARIES) or {}, fingerprints(new))
    return WarmStartConfig(
        checkpoint=commit.path,
        changes=[difference.name for difference in found if difference.name in job.daily.changes],
        optimizer=job.daily.optimizer,
        loss_weights=job.daily.loss_weights,
    )


def scoring_job(
    job: JobConfig, place: Place, models: dict[str, str], folder: str, held: bool, predictions: bool
) -> JobConfig:
    """Models scored on the day's frozen rows: all of them, or the held-out ones alone."""
    from schemas.score import ScoreConfig

    assert job.data.holdout is not None
    days = DayRange(**{"from": place.day, "to": place.day})
    holdout = job.data.holdout.model_copy(update={"eval": "held" if held else "all"})
    frozen = job.data.frozen.model_copy(update={"train": None, "eval": place.url(DAY_MANIFEST)})
    data = job.data.model_copy(update={"train": days, "eval": days, "frozen": frozen, "holdout": holdout})
    out = day_job(job, place, f"{job.name}.{place.key}.{folder}", place.url(folder))
    score = ScoreConfig(models=models, out=place.url(folder), predictions=predictions)
    return out.model_copy(update={"data": data, "score": score})


def to_yaml(job: JobConfig) -> bytes:
    """The whole job, as a YAML that can be run by hand."""
    return yaml.safe_dump(job.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True).encode()
