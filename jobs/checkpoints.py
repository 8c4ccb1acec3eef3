"""Which checkpoint a command means: its own run's, one that is named, or a daily job's champion."""

from pipeline.registry import Registry
from schemas.errors import InputError
from schemas.job import JobConfig

CHAMPION = "champion"


def named_checkpoint(job: JobConfig, given: str | None, key: str) -> str:
    """The address of a checkpoint, or of a folder of them: `given`, or that of the job's own output where that is None.

    OUTPUT@champion and OUTPUT@NAME are the registry's (`./launch.sh registry OUTPUT`). Raises InputError, naming the
    `key`, where there is no such model.
    """
    if given is None:
        return f"{job.output.rstrip('/')}/checkpoints"
    root, at, name = given.rpartition("@")
    if not at or "/" in name:
        return given
    registry = Registry(root, job.data.storage)
    try:
        if name != CHAMPION:
            return registry.model(name).checkpoint
        model = registry.champion()
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    if model is None:
        raise InputError(f"{key}: '{root}' has no champion yet; name a checkpoint, or the output of a daily job")
    return model.checkpoint
