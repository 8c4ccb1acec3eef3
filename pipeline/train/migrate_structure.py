"""The structure of two jobs compared: what a warm start must be told by name, and what it cannot migrate. No torch.

Structure is what decides which weights there are and what they mean: tables, features, tasks, model, the kind of the
tables' optimizer. Whatever is not declared here as free or as migrated is refused, settings of later versions included.
"""

import dataclasses
from typing import Any

from pydantic import ValidationError

from pipeline.data.vocabulary_lookup import extends
from schemas.errors import InputError
from schemas.features import DenseFeature, EmbeddedFeature, FeatureSpec, IdFeature, ListFeature, StringFeature
from schemas.identity import MAY_CHANGE, VOCABULARIES, digest, entries
from schemas.job import JobConfig
from schemas.model import SCALED
from schemas.strict import nearest

FREE = (*MAY_CHANGE, "seed", "data", "train", "warm_start", "dense_optimizer")
"""Settings of the job that are no structure."""
FREE_WITH_STATE = ("balance",)
"""Free as well, but a checkpoint's own is kept, since it says what was learnt there: that comes along where it fits."""
FREE_IN_TABLE = ("sharding", "init_scale")
FREE_IN_TASK = ("weight", "decay", "decay_per", "sample_weight")
FREE_IN_MODEL = ("dropout",)
FREE_IN_OPTIMIZER = ("lr", "eps")
VOUCHED = (
    *("column", "weights", "missing", "label", "clip", "indicator", "space"),
    *("columns", "days", "smoothing", "default", "by", "last"),
)
"""Where a feature or label is read, and on which rows: the weights stay as they are, and the user vouches that they
mean the same, or are to be trained on to mean the other."""
ANOTHER_NAME = "declare it under another name, which starts anew, and remove this one"
EXTEND = "./launch.sh vocabulary CONFIG.yaml --write NEW --extend OLD"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference of structure."""

    name: str
    """As `changes` names it."""
    what: str
    """new, removed, or the old value and the new one."""
    refused: str = ""
    """Why it cannot be migrated, and the remedy; empty where it can."""
    named: bool = True
    """Whether `changes` must name it: what only adds to a vocabulary goes without saying."""


def saved_job(saved: dict[str, Any], new: JobConfig, where: str) -> JobConfig:
    """The new job with the structure of a checkpoint's configuration: what is free is not asked of the old one.

    Raises InputError where another version of the program saved it, whose structure this one does not know.
    """
    known = JobConfig.model_fields.keys()
    free = new.model_dump(mode="json", by_alias=True, include=set(FREE))
    try:
        return JobConfig.model_validate({key: value for key, value in saved.items() if key in known} | free)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(
            f"warm_start.checkpoint: {where} was saved by another version of this program, whose configuration is not "
            f"valid here ({key}: {error.errors()[0]['msg']}); start anew, or from a checkpoint of this version"
        ) from error


def check_structure(
    saved: dict[str, Any], new: JobConfig, new_vocabularies: dict[str, str], where: str
) -> list[Difference]:
    """The differences between a checkpoint's configuration and the job that begins from it, all of them named there.

    `where` names the checkpoint; `new_vocabularies` are the fingerprints of the job's vocabularies, by feature.

    Raises InputError for those that `changes` does not name, with the lines to write; for names of what did not
    change; and for those that cannot be migrated.
    """
    assert new.warm_start is not None
    found = differences(saved_job(saved, new, where), new, saved.get(VOCABULARIES) or {}, new_vocabularies)
    names = [difference.name for difference in found]
    told = new.warm_start.changes
    complaints = [
        f"  {difference.name}: {difference.what}; {difference.refused}" for difference in found if difference.refused
    ]
    if complaints:
        complaints.insert(0, "these differences cannot be migrated:")
    stale = [name for name in told if name not in names]
    if stale:
        hints = [f"  {name}: {nearest(name, names) if names else 'nothing did'}" for name in stale]
        complaints += ["`changes` names what did not change:", *hints]
    able = [difference for difference in found if not difference.refused]
    unnamed = [difference for difference in able if difference.named and difference.name not in told]
    if unnamed:
        complaints += ["`changes` does not name:", *(f"  {d.name}: {d.what}" for d in unnamed)]
    if unnamed or stale:
        names = [d.name for d in able if d.named or d.name in told]
        complaints += ["write under warm_start", f"  changes: [{', '.join(names)}]"]
    if complaints:
        raise InputError(f"warm_start: the job does not fit {where}\n" + "\n".join(complaints))
    return found


def differences(
    old: JobConfig, new: JobConfig, old_vocabularies: dict[str, str], new_vocabularies: dict[str, str]
) -> list[Difference]:
    """Every difference of structure, in the order tables, features, tasks, model, optimizer, the rest."""
    out = _tables(old, new)
    out += _features(old, new, old_vocabularies, new_vocabularies)
    out += _tasks(old, new)
    out += _model(old, new)
    out += _optimizer(old, new)
    for key in JobConfig.model_fields:
        structure = ("tables", "features", "tasks", "space", "model", "embedding_optimizer")
        compared = key in (*FREE, *FREE_WITH_STATE, *structure)
        if not compared and getattr(old, key) != getattr(new, key):
            out.append(Difference(key, "changed", "set it back"))
    return out


def hashed(feature: EmbeddedFeature) -> bool:
    """Whether a value's row goes with the number of the table's rows."""
    if getattr(feature, "vocabulary", None):
        return False
    return isinstance(feature, StringFeature) or (isinstance(feature, IdFeature | ListFeature) and feature.hash)


def _came_and_went(kind: str, old: list[str], new: list[str]) -> list[Difference]:
    came = [Difference(f"{kind}.{name}", "new") for name in new if name not in old]
    return came + [Difference(f"{kind}.{name}", "removed") for name in old if name not in new]


def _tables(old: JobConfig, new: JobConfig) -> list[Difference]:
    out = _came_and_went("tables", list(old.tables), list(new.tables))
    for name in old.tables.keys() & new.tables.keys():
        before, after = old.tables[name].model_dump(), new.tables[name].model_dump()
        for field in sorted(after):
            if field in FREE_IN_TABLE or before[field] == after[field]:
                continue
            refused = f"set it back, or {ANOTHER_NAME}"
            if field in ("rows", "dim") and after[field] > before[field]:
                refused = _moved(old, new, name) if field == "rows" else ""
            elif field in ("rows", "dim"):
                refused = f"a table never shrinks; {refused}"
            out.append(Difference(f"tables.{name}.{field}", f"{before[field]} -> {after[field]}", refused))
    return sorted(out, key=lambda difference: difference.name)


def _moved(old: JobConfig, new: JobConfig, table: str) -> str:
    """Why the table cannot have more rows: a hash spreads the ids of a feature anew."""
    there = {f.name for f in old.embedded if f.table_name == table}
    moved = [f.name for f in new.embedded if f.table_name == table and f.name in there and hashed(f)]
    if not moved:
        return ""
    return (
        f"every id of {', '.join(moved)} would move, since its row is its hash modulo the table's rows; set it back, "
        "or point the feature, under another name, into a new table"
    )


def _features(
    old: JobConfig, new: JobConfig, old_vocabularies: dict[str, str], new_vocabularies: dict[str, str]
) -> list[Difference]:
    before, after = ({f.name: f for f in job.features} for job in (old, new))
    out = _came_and_went("features", list(before), list(after))
    for name in (name for name in after if name in before):
        if before[name].kind != after[name].kind:
            what = f"{before[name].kind} -> {after[name].kind}"
            out.append(Difference(f"features.{name}.kind", what, ANOTHER_NAME))
            continue
        out += _fields(f"features.{name}", _feature(before[name]), _feature(after[name]), ())
        if name in old_vocabularies and name in new_vocabularies:
            out += _values(new, name, old_vocabularies[name], new_vocabularies[name])
    return out


def _values(new: JobConfig, feature: str, before: str, after: str) -> list[Difference]:
    """How the values of a feature's vocabulary differ, told by fingerprints; the new file is read where they do."""
    if digest(before) == digest(after):
        return []
    name, one, other = f"features.{feature}.vocabulary", entries(before), entries(after)
    if one is None or other is None:
        refused = (
            "its rows would change their meaning; restore the file (where it was extended: an older version saved the "
            f"checkpoint and did not say how many values it had, so go on from one of this version), or {ANOTHER_NAME}"
        )
        return [Difference(name, "other values", refused)]
    if extends(new, feature, before):
        return [Difference(name, f"extended by {other - one:,} values, {one:,} -> {other:,}", named=False)]
    refused = f"its rows would change their meaning; restore the file, or extend it ({EXTEND}), or {ANOTHER_NAME}"
    return [Difference(name, f"other values ({one:,} -> {other:,})", refused)]


def _feature(feature: FeatureSpec) -> dict[str, Any]:
    """The feature's settings, spelt out; of a vocabulary its presence, since where it lies does not matter."""
    out = feature.model_dump() | {"column": feature.source}
    if not isinstance(feature, DenseFeature):
        out["table"] = feature.table_name
    if "vocabulary" in out:
        out["vocabulary"] = bool(out["vocabulary"])
    return out


def _tasks(old: JobConfig, new: JobConfig) -> list[Difference]:
    before, after = ({task.name: _task(job, place) for place, task in enumerate(job.tasks)} for job in (old, new))
    out = _came_and_went("tasks", list(before), list(after))
    for name in (name for name in after if name in before):
        out += _fields(f"tasks.{name}", before[name], after[name], FREE_IN_TASK)
    return out


def _task(job: JobConfig, place: int) -> dict[str, Any]:
    """The task's settings, spelt out."""
    return job.tasks[place].model_dump() | {"label": job.tasks[place].source, "space": job.spaces[place]}


def _fields(path: str, before: dict[str, Any], after: dict[str, Any], free: tuple[str, ...]) -> list[Difference]:
    """The fields that differ, `free` ones left out; those that only say what is read need be vouched for alone."""
    out = []
    for field in sorted(after):
        one, other = before[field], after[field]
        if one != other and field not in free:
            vouched = field in VOUCHED and (field != "weights" or (one is not None and other is not None))
            refused = "" if vouched else f"set it back, or {ANOTHER_NAME}"
            out.append(Difference(f"{path}.{field}", f"{one} -> {other}", refused))
    return out


def _model(old: JobConfig, new: JobConfig) -> list[Difference]:
    before, after = old.model.model_dump(), new.model.model_dump()
    refused = "its weights have no place in the other network; set it back, or start anew"
    if before["arch"] != after["arch"]:
        return [Difference("model.arch", f"{before['arch']} -> {after['arch']}", refused)]
    tasks = [[task.name for task in job.tasks] for job in (old, new)]
    for model, job, names in zip((before, after), (old, new), tasks, strict=True):
        for field, told in job.model.by_task(names).items():  # of the tasks that both have
            model[field] = {task: value for task, value in told.items() if task in tasks[0] and task in tasks[1]}
    if before["match_parameters"] or after["match_parameters"]:  # the widths are found, and compared in migrate_plan
        for model in (before, after):
            model |= dict.fromkeys(("match_parameters", *(k for k in model if k in SCALED)))
    return [
        Difference(f"model.{field}", f"{before[field]} -> {after[field]}", refused)
        for field in after
        if field not in FREE_IN_MODEL and before[field] != after[field]
    ]


def _optimizer(old: JobConfig, new: JobConfig) -> list[Difference]:
    """The kind of the tables' optimizer, where its state is to be taken along."""
    if new.warm_start is not None and not new.warm_start.optimizer:
        return []
    before, after = old.embedding_optimizer.model_dump(), new.embedding_optimizer.model_dump()
    refused = "the state of one does not fit the other; set it back, or take the weights alone: optimizer: false"
    return [
        Difference(f"embedding_optimizer.{field}", f"{before[field]} -> {after[field]}", refused)
        for field in after
        if field not in FREE_IN_OPTIMIZER and before[field] != after[field]
    ]
