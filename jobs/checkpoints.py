"""Which checkpoint a command means: its own run's, one that is named, or a daily job's champion."""

from pipeline.registry import Registry
from schemas.errors import InputError
from schemas.events import StorageConfig
from schemas.job import JobConfig

CHAMPION = "champion"


def named_checkpoint(job: JobConfig, given: str | None, key: str) -> str:
    """The address of a checkpoint, or of a folder of them: `given`, or that of the job's own output where that is None.

    See `registered`.
    """
    if given is None:
        return f"{job.output.rstrip('/')}/checkpoints"
    return registered(given, job.data.storage, key)


def registered(given: str, storage: StorageConfig, key: str) -> str:
    """The address itself; of OUTPUT@champion and OUTPUT@NAME, which are the registry's, that of the model's checkpoint.

    Raises InputError, naming the `key`, where there is no such model (`./launch.sh registry OUTPUT` lists them).
    """
    root, at, name = given.rpartition("@")
    if not at or "/" in name:
        return given
    registry = Registry(root, storage)
    try:
        if name != CHAMPION:
            return registry.model(name).checkpoint
        model = registry.champion()
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    if model is None:
        raise InputError(f"{key}: '{root}' has no champion yet; name a checkpoint, or the output of a daily job")
    return model.checkpoint
