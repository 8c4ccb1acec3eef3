"""The manifest is made once a run: taken from the newest checkpoint, compared with what lies there now. No torch.

Files that came later belong to a later run; a file that vanished or changed ends the run by name.
"""

import dataclasses
import pickle
from collections.abc import Callable, Sequence

from pipeline.data.files import Listed, list_days, origin_of, plan, plan_files
from pipeline.data.history import attach
from pipeline.data.manifest import HISTORY, Manifest, from_bytes
from pipeline.storage import filesystem
from schemas.errors import InputError
from schemas.events import DayRange
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

    def notes(self) -> list[str]:
        """What a person should know of it before it is read."""
        out = [late_note(self.late)] if self.late else []
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
        return pickle.dumps((self.training.manifest.to_bytes(), self.training.late, evaluation))


def plan_from_bytes(data: bytes, job: JobConfig) -> Plan:
    """The plan that `to_bytes` wrote."""
    training, late, evaluation = pickle.loads(data)
    root = filesystem(job.data.path, job.data.storage)[1]
    source = "the plan handed over"
    return Plan(
        Planned(from_bytes(training, root, source), late),
        from_bytes(evaluation, root, source) if evaluation is not None else None,
    )


def plan_job(job: JobConfig, stored: bytes | None, check: Callable[[Manifest], None] = lambda training: None) -> Plan:
    """The training manifest that the newest checkpoint has `stored` or a new one, and the evaluation's.

    With the statistics of earlier days that the job's features need, counted where they are not yet: which may take
    long, so `check` sees the training manifest before.
    """
    training = frozen(job, job.data.train, stored)
    evaluation = plan(job, job.data.eval) if job.data.eval else None
    both = [(training.manifest, job.data.train)]
    both += [(evaluation, job.data.eval)] if evaluation and job.data.eval else []
    check(training.manifest)
    attach(job, both)
    return Plan(training, evaluation)


def frozen(job: JobConfig, days: DayRange, stored: bytes | None) -> Planned:
    """The stored manifest, compared with the folders' listings alone; a new one where nothing is stored.

    Raises InputError for a file of the stored manifest that vanished or changed. Where the job now reads other columns
    than the manifest was checked for, its files are opened again.
    """
    if stored is None:
        return Planned(plan(job, days))
    manifest = from_bytes(stored, filesystem(job.data.path, job.data.storage)[1], f"{job.output}: {STORED}")
    now = origin_of(job, days)
    if manifest.origin["days"] != now["days"]:
        return Planned(plan(job, days))  # another job, which the checkpoint's own check refuses by name
    listed = list_days(job, days)
    lenient = job.data.bad.corrupt == "quarantine"  # whoever reads them leaves them out
    late = compare(manifest, listed, same_place=manifest.origin["path"] == now["path"], lenient=lenient)
    if manifest.origin["columns"] != now["columns"]:
        names = set(manifest.files.column("path").to_pylist())
        again = plan_files(job, days, [file for file in listed if file.path in names])
        left_out = again.origin["left_out"]
        left_out += [told for told in manifest.origin.get("left_out", ()) if told not in left_out]
        if again.fingerprint != manifest.fingerprint:
            raise InputError(
                f"{job.data.path}: files of the training days changed since the run began; restore them, or name "
                "another output to start anew"
            )
        if HISTORY in manifest.origin:
            again.origin[HISTORY] = manifest.origin[HISTORY]
        manifest = again
    return Planned(manifest, tuple(late))


def compare(manifest: Manifest, listed: Sequence[Listed], same_place: bool, lenient: bool = False) -> list[str]:
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
            raise InputError(
                f"{manifest.origin['path']}: {_some(paths)} {what} since the run began; restore what was there, or "
                "name another output to start anew"
            )
    return [path for path in there if path not in _left_out(manifest)]


def late_files(job: JobConfig, manifest: Manifest) -> tuple[str, ...] | None:
    """The files that lie in the training days now and are not in the manifest; None where that cannot be told."""
    known = set(manifest.files.column("path").to_pylist()) | _left_out(manifest)
    try:
        return tuple(file.path for file in list_days(job, job.data.train) if file.path not in known)
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


def late_note(late: Sequence[str]) -> str:
    """What is told of files that came too late."""
    return f"note: {_some(late)} came after the run began; they belong to a later run"


def _some(paths: Sequence[str]) -> str:
    names = ", ".join(paths[:NAMED]) + (", ..." if len(paths) > NAMED else "")
    return f"{len(paths):,} file{'s' if len(paths) > 1 else ''} ({names})"
