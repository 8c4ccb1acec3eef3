"""What is tuned, on the predictions of which days. No torch."""

from pipeline.evaluate.plan import days_job
from pipeline.evaluate.rows import check_keys
from pipeline.train.scoring import ToScore
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.fuse import FuseConfig
from schemas.fusion import FusionConfig, FusionTerm
from schemas.job import JobConfig

KEY = "fuse.checkpoint"
TUNE, CHECK = "tune", "check"
"""The names under which the predictions of either days lie in the output."""


def config_of(job: JobConfig) -> FuseConfig:
    """The job's `fuse`. Raises InputError where it says nothing."""
    if job.fuse is None:
        raise InputError("fuse: says nothing; give fuse.out=DIR and fuse.objective.task=TASK")
    return job.fuse


def scoring_jobs(job: JobConfig, checkpoint: str) -> list[JobConfig]:
    """The jobs by which the rows are scored: of the days tuned on, and of the later ones, where they are named."""
    config = config_of(job)
    days = config.days or job.data.eval
    if days is None:
        raise InputError("fuse.days: missing, and so is data.eval; name the days, as {from: DAY, to: DAY}")
    both: list[tuple[str, DayRange]] = [(TUNE, days)]
    if config.check is not None:
        if config.check.first <= days.last:
            raise InputError(
                f"fuse.check: begins on {config.check.first}, and the weights are tuned on days up to {days.last}; "
                "name later days"
            )
        both.append((CHECK, config.check))
    return [days_job(job, each, name, checkpoint, config.out) for name, each in both]


def check_model(job: JobConfig, models: list[ToScore]) -> None:
    """Raises InputError where what is tuned does not fit the model's tasks, or the log lacks a column of it."""
    config = config_of(job)
    own = models[0].job
    config.check_tasks(own.tasks)
    fusion = fusion_of(own)
    for model in models:
        check_keys(model.job, model.rows, {"fuse.by": config.by})
        if fusion.factor is not None:
            check_keys(model.job, model.rows, {"fusion.factor.column": fusion.factor.column}, numbers=True)


def fusion_of(own: JobConfig) -> FusionConfig:
    """What is tuned: the declared fused score, or a factor for each binary task."""
    if own.fusion is None:
        return FusionConfig(terms=[FusionTerm(task=task.name) for task in own.tasks if task.kind == "binary"])
    own.fusion.check(own.tasks)
    return own.fusion
