"""The manifest is made once a run: taken from the newest checkpoint, compared with what lies there now. No torch.

Files that came later belong to a later run; a file that vanished or changed ends the run by name. A manifest that was
frozen before the run, and is named in data.frozen, is compared in the same way.
"""

import dataclasses
import datetime
import pickle
from collections.abc import Callable, Sequence

from pipeline.data.files import Listed, list_days, origin_of, plan, plan_files
from pipeline.data.history import attach
from pipeline.data.history_statistics import statistics_of
from pipeline.data.manifest import HISTORY, Manifest, from_bytes
from pipeline.storage import filesystem, patiently, reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, DayRange
from schemas.job import JobConfig

STORED = "data.manifest"
"""The manifest's name within a checkpoint."""
NAMED = 3
"""Files that a message names."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a run reads, and what lies beside it."""

    manifest: Manifest
    late: tuple[str, ...] = ()
    """Files of the days that came after the manifest was frozen, below the log's root."""
    given: str = ""
    """The key of the configuration that names the manifest; empty for one that the run itself froze."""

    def notes(self) -> list[str]:
        """What a person should know of it before it is read."""
        out = [late_note(self.late, self.given)] if self.late else []
        origin = self.manifest.origin
        out += drift_notes(self.manifest)
        if origin.get("without"):
            out.append(
                f"note: {origin['without']} of {origin['looked_at']} files looked at (the first of each day) carry no "
                f"page checksums, such as {origin['bare'][0]}: damage in their pages cannot be seen; write them with "
                "write_page_checksum"
            )
        return out


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a job reads."""

    training: Planned
    evaluation: Manifest | None

    def to_bytes(self) -> bytes:
        """For the other ranks."""
        evaluation = self.evaluation and self.evaluation.to_bytes()
        training = self.training
        return pickle.dumps((training.manifest.to_bytes(), training.late, training.given, evaluation))


def plan_from_bytes(data: bytes, job: JobConfig) -> Plan:
    """The plan that `to_bytes` wrote."""
    training, late, given, evaluation = pickle.loads(data)
    root = filesystem(job.data.path, job.data.storage)[1]
    source = "the plan handed over"
    return Plan(
        Planned(from_bytes(training, root, source), late, given),
        from_bytes(evaluation, root, source) if evaluation is not None else None,
    )


def plan_job(job: JobConfig, stored: bytes | None, check: Callable[[Manifest], None] = lambda training: None) -> Plan:
    """The training manifest, `stored` in the newest checkpoint, named in data.frozen or new, and the evaluation's.

    With the statistics of earlier days that the job's features need, counted where they are not yet: which may take
    long, so `check` sees the training manifest before.
    """
    training = _training(job, stored)
    evaluation = evaluation_manifest(job)
    both = [(training.manifest, job.data.train)]
    both += [(evaluation, job.data.eval)] if evaluation and job.data.eval else []
    check(training.manifest)
    attach(job, both)
    return Plan(training, evaluation)


def _training(job: JobConfig, stored: bytes | None) -> Planned:
    """The manifest in the checkpoint wins over the one that data.frozen names, and must be it."""
    url = job.data.frozen.train
    if url is None:
        return frozen(job, job.data.train, stored)
    told = _read(job, "data.frozen.train", url)
    planned = frozen(job, job.data.train, told, "data.frozen.train")
    if stored is None:
        return planned
    begun = frozen(job, job.data.train, stored)
    if begun.manifest.fingerprint != planned.manifest.fingerprint:
        raise InputError(
            f"data.frozen.train: '{url}' is not the manifest that the run in '{job.output}' began with; name that one, "
            "or another output to start anew"
        )
    return dataclasses.replace(begun, given=planned.given)


def evaluation_manifest(job: JobConfig, tell: Callable[[str], None] = print) -> Manifest | None:
    """What the evaluation reads: the manifest that data.frozen names, or a new one; None without data.eval."""
    if job.data.eval is None:
        return None
    if job.data.frozen.eval is None:
        return plan(job, job.data.eval)
    planned = frozen(job, job.data.eval, _read(job, "data.frozen.eval", job.data.frozen.eval), "data.frozen.eval")
    if planned.late:
        tell(late_note(planned.late, planned.given))
    return planned.manifest


def _read(job: JobConfig, key: str, url: str) -> bytes:
    """The file that the key names."""
    fs, path = filesystem(url, job.data.storage)
    try:
        return patiently(lambda: fs.cat_file(path), job.data.storage, f"{key}: '{url}'")
    except OSError as error:
        raise InputError(f"{key}: '{url}' cannot be read ({reason(error)}); name a frozen manifest") from error


def frozen(job: JobConfig, days: DayRange, stored: bytes | None, given: str = "") -> Planned:
    """The stored manifest, compared with the folders' listings alone; a new one where nothing is stored.

    Raises InputError for a file of the stored manifest that vanished or changed. Where the job now reads other columns
    than the manifest was checked for, its files are opened again. `given` is the key of the configuration that names
    the manifest, for one that is not a checkpoint's own: it must be of these very days.
    """
    if stored is None:
        return Planned(plan(job, days))
    manifest = _restored(job, stored, given)
    now = origin_of(job, days)
    if manifest.origin["days"] != now["days"]:
        if given:
            raise InputError(
                f"{given}: frozen of the days {' to '.join(manifest.origin['days'])}, and the job reads "
                f"{' to '.join(now['days'])}; name the manifest of these days, or freeze them"
            )
        return Planned(plan(job, days))  # another job, which the checkpoint's own check refuses by name
    listed = list_days(job, days, _days_without(manifest, days))
    lenient = job.data.bad.corrupt == "quarantine"  # whoever reads them leaves them out
    late = compare(manifest, listed, manifest.origin["path"] == now["path"], lenient, given)
    if manifest.origin["columns"] != now["columns"]:
        manifest = _opened_again(job, days, manifest, listed, given)
    return Planned(manifest, tuple(late), given)


def _restored(job: JobConfig, stored: bytes, given: str) -> Manifest:
    root = filesystem(job.data.path, job.data.storage)[1]
    if not given:
        return from_bytes(stored, root, f"{job.output}: {STORED}")
    try:
        manifest = from_bytes(stored, root, given)
    except InputError as error:
        raise InputError(f"{given}: no whole manifest; freeze the days again") from error
    counted = manifest.origin.get(HISTORY, {})
    if any(statistic.name not in counted for statistic in statistics_of(job)):
        manifest.origin.pop(HISTORY, None)  # frozen for another job: what this one looks back on is counted anew
    return manifest


def _days_without(manifest: Manifest, days: DayRange) -> set[datetime.date]:
    """The days of which the manifest holds no file: whether the log has them does not matter."""
    names = {path.split("/", 1)[0] for path in manifest.files.column("path").to_pylist()}
    return {day for day in days.days() if f"{PARTITION_KEY}={day}" not in names}


def _opened_again(job: JobConfig, days: DayRange, manifest: Manifest, listed: Sequence[Listed], given: str) -> Manifest:
    """The manifest, its files checked for the columns that the job reads now."""
    names = set(manifest.files.column("path").to_pylist())
    again = plan_files(job, days, [file for file in listed if file.path in names])
    left_out = again.origin["left_out"]
    left_out += [told for told in manifest.origin.get("left_out", ()) if told not in left_out]
    if again.fingerprint != manifest.fingerprint:
        raise InputError(f"{job.data.path}: files of the days changed {_since(given)}")
    if HISTORY in manifest.origin:
        again.origin[HISTORY] = manifest.origin[HISTORY]
    return again


def _since(given: str) -> str:
    """Since when, and the remedy."""
    if given:
        return f"since {given} was frozen; restore what was there, or freeze the days again"
    return "since the run began; restore what was there, or name another output to start anew"


def compare(
    manifest: Manifest, listed: Sequence[Listed], same_place: bool, lenient: bool = False, given: str = ""
) -> list[str]:
    """The files that are listed and not in the manifest.

    Raises InputError where one of the manifest is not listed, or with another size or ETag, unless `lenient`; ETags
    are compared where the log lies in the `same_place`.
    """
    there = {file.path: file for file in listed}
    files = manifest.files
    gone, other = [], []
    columns = [files.column(name).to_pylist() for name in ("path", "bytes", "etag")]
    for path, size, etag in zip(*columns, strict=True):
        file = there.pop(path, None)
        if file is None:
            gone.append(path)
        elif file.bytes != size or (same_place and etag and file.etag and file.etag != etag):
            other.append(path)
    for paths, what in ((gone, "vanished"), (other, "changed")):
        if paths and not lenient:
            raise InputError(f"{manifest.origin['path']}: {_some(paths)} {what} {_since(given)}")
    return [path for path in there if path not in _left_out(manifest)]


def late_files(job: JobConfig, manifest: Manifest) -> tuple[str, ...] | None:
    """The files that lie in the training days now and are not in the manifest; None where that cannot be told."""
    known = set(manifest.files.column("path").to_pylist()) | _left_out(manifest)
    try:
        listed = list_days(job, job.data.train, _days_without(manifest, job.data.train))
        return tuple(file.path for file in listed if file.path not in known)
    except (InputError, OSError):  # the training is done: nothing that happens to the log can undo it
        return None


def _left_out(manifest: Manifest) -> set[str]:
    return {told["file"] for told in manifest.origin.get("left_out", ())}


def drift_notes(manifest: Manifest) -> list[str]:
    """What is told of files that the job can read and that differ from most."""
    drifted = manifest.origin.get("drifted", 0)
    if not drifted:
        return []
    files = "file has" if drifted == 1 else "files have"
    return [f"note: {drifted:,} {files} another schema than most, such as {manifest.origin['drift'][0]}"]


def late_note(late: Sequence[str], given: str = "") -> str:
    """What is told of files that came too late; `given` as in `frozen`."""
    if given:
        return f"note: {_some(late)} of the days, not in the manifest that {given} names; not read"
    return f"note: {_some(late)} came after the run began; they belong to a later run"


def _some(paths: Sequence[str]) -> str:
    names = ", ".join(paths[:NAMED]) + (", ..." if len(paths) > NAMED else "")
    return f"{len(paths):,} file{'s' if len(paths) > 1 else ''} ({names})"
