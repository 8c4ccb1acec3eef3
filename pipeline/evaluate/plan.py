"""Which rows are scored for an evaluation, and under which configuration. No torch."""

from pipeline.evaluate.rows import check_keys
from pipeline.train.scoring import ToScore
from schemas.errors import InputError
from schemas.evaluate import EvaluateConfig
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.score import ScoreConfig

MODEL = "model"
"""The name under which a model's predictions lie in the output."""
KEY = "evaluate.checkpoint"


def config_of(job: JobConfig) -> EvaluateConfig:
    """The job's `evaluate`. Raises InputError where it says nothing."""
    if job.evaluate is None:
        raise InputError("evaluate: says nothing; give evaluate.out=DIR, and evaluate.checkpoint or evaluate.days")
    return job.evaluate


def scoring_job(job: JobConfig, checkpoint: str) -> JobConfig:
    """The job by which the checkpoint's rows are scored. Raises InputError where no days are named."""
    config = config_of(job)
    days = config.days or job.data.eval
    if days is None:
        raise InputError("evaluate.days: missing, and so is data.eval; name the days, as {from: DAY, to: DAY}")
    return days_job(job, days, MODEL, checkpoint, config.out)


def days_job(job: JobConfig, days: DayRange, name: str, checkpoint: str, out: str) -> JobConfig:
    """The job by which the checkpoint's rows of some days are scored, under a name."""
    data = job.data
    if days != data.eval:
        data = data.model_copy(update={"eval": days, "frozen": data.frozen.model_copy(update={"eval": None})})
    score = ScoreConfig(models={name: checkpoint}, out=out.rstrip("/"), predictions=True)
    return job.model_copy(update={"data": data, "score": score})


def check_columns(job: JobConfig, model: ToScore) -> None:
    """Raises InputError where the log lacks a column that the evaluation goes by."""
    config = config_of(job)
    keys = {"evaluate.user": config.user} | {f"evaluate.slices.{n}": name for n, name in enumerate(config.slices)}
    check_keys(model.job, model.rows, keys)
