"""Rows that are judged by themselves as well: new users, tail items, tenants. No torch.

Shapes: N held-out rows.
"""

import datetime
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.files import plan
from pipeline.data.manifest import Manifest
from pipeline.data.order import Stretch
from pipeline.data.value_counts import ValueCounts, hash64
from pipeline.gate.rows import KEY, Int64, arrow_of_rows, columns_of, stretches_of
from pipeline.storage import bounded, filesystem, patiently
from schemas.daily import GateConfig, SliceSpec
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, SUCCESS_MARKER, DayRange
from schemas.job import JobConfig

Mask = npt.NDArray[np.bool_]


def slice_masks(
    job: JobConfig,
    gate: GateConfig,
    manifest: Manifest,
    day: datetime.date,
    row_N: Int64,
    tell: Callable[[str], None] = print,
) -> dict[str, Mask]:
    """A mask of the held-out rows for each slice of the gate, [N]; `row_N` are rows of the manifest, ascending.

    A null value is in no slice. `tell` is told of earlier days that are missing; their users count as new. Raises
    InputError for a column that is missing or of another type, naming the slice and the file.
    """
    out: dict[str, Mask] = {}
    for spec in gate.slices:
        key = _key(spec)
        values = arrow_of_rows(job, manifest, spec.column, row_N, key)
        if spec.new_days is not None:
            known = _earlier(job, spec, spec.new_days, day, pc.unique(values.drop_null()), key, tell)
            out[spec.name] = _mask(pc.and_kleene(values.is_valid(), pc.invert(pc.is_in(values, value_set=known))))
            continue
        counted = _counted(job, manifest, spec.column, key)
        if spec.tail is not None:
            out[spec.name] = _mask(pc.is_in(values, value_set=_tail(counted, spec.tail)))
        else:
            assert spec.values is not None
            frequent = counted.sort_by([("count", "descending"), ("value", "ascending")]).column("value")
            for value in frequent[: spec.values]:
                out[f"{spec.name}={value.as_py()}"] = _mask(pc.equal(values, value))
    return out


def check_slices(job: JobConfig, gate: GateConfig, manifest: Manifest) -> None:
    """Raises InputError for a slice whose column the manifest's first file lacks, or has of a type no slice is of.

    To be called before anything is trained: `slice_masks` would say so after it.
    """
    for spec in gate.slices:
        for group in manifest.groups[:1]:
            for _ in columns_of(job, [Stretch(group, 0, 1)], spec.column, _key(spec), _lenient(job)):
                break


def _key(spec: SliceSpec) -> str:
    return f"{KEY}.slices.{spec.name}.column"


def _lenient(job: JobConfig) -> bool:
    return job.data.bad.corrupt == "quarantine"


def _mask(found: pa.Array) -> Mask:
    return pc.fill_null(found, False).to_numpy(zero_copy_only=False)


def _counted(job: JobConfig, manifest: Manifest, column: str, key: str) -> pa.Table:
    """How often each value comes among all rows of the manifest. It takes memory for its distinct values."""
    counts: ValueCounts | None = None
    for _, _, values in columns_of(job, stretches_of(manifest), column, key, _lenient(job)):
        found = pc.value_counts(values.drop_null())
        counts = counts or ValueCounts(values.type)
        distinct = found.field("values")
        counts.add(distinct, found.field("counts"), hash64(distinct))
    table = counts.table() if counts else ValueCounts(pa.int64()).table()
    return table.rename_columns(["value", "count"])


def _tail(counted: pa.Table, share: float) -> pa.Array:
    """The least exposed values that together make up at most this share of the rows; of equals the smaller first."""
    rising = counted.sort_by([("count", "ascending"), ("value", "ascending")])
    upto = np.cumsum(rising.column("count").to_numpy())
    many = int(np.searchsorted(upto, share * (upto[-1] if len(upto) else 0), side="right"))
    return rising.column("value").combine_chunks()[:many]


def _earlier(
    job: JobConfig,
    spec: SliceSpec,
    days: int,
    day: datetime.date,
    wanted: pa.Array,
    key: str,
    tell: Callable[[str], None],
) -> pa.Array:
    """Which of the wanted values occurred in so many days before this one."""
    # the column alone is read: what else the job reads may have come into the log later
    bare = job.model_copy(update={"features": [], "tasks": []})
    known: list[pa.Array] = []
    missing = []
    for back in range(1, days + 1):
        earlier = day - datetime.timedelta(back)
        if not _there(job, earlier):
            missing.append(earlier)
            continue
        if not len(wanted):
            continue
        manifest = plan(bare, DayRange.model_validate({"from": earlier, "to": earlier}))
        for _, _, values in columns_of(bare, stretches_of(manifest), spec.column, key, _lenient(job)):
            if values.type != wanted.type:
                raise InputError(
                    f"{key}: column '{spec.column}' holds {values.type} on {earlier}, {wanted.type} on {day}; write "
                    "the days with one type"
                )
            seen = pc.is_in(wanted, value_set=pc.unique(values))
            known.append(wanted.filter(seen))
            wanted = wanted.filter(pc.invert(seen))
            if not len(wanted):
                break
    if missing:
        told = ", ".join(str(each) for each in sorted(missing))
        tell(f"slice {spec.name}: of {days} earlier days {len(missing)} are missing, and passed over: {told}")
    return pa.concat_arrays(known) if known else wanted[:0]


def _there(job: JobConfig, day: datetime.date) -> bool:
    """Whether the day's partition is complete and holds a file."""
    fs, root = filesystem(job.data.path, job.data.storage)
    folder = f"{root}/{PARTITION_KEY}={day}"
    fs.invalidate_cache(folder)
    try:
        look = functools.partial(fs.ls, folder, detail=False)
        names = patiently(lambda: bounded(look, fs, job.data.storage), job.data.storage, folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    files = {name.rstrip("/").rsplit("/", 1)[-1] for name in names}
    return any(name.endswith(".parquet") for name in files) and (
        not job.data.require_success or SUCCESS_MARKER in files
    )
