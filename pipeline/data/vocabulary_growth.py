"""Vocabularies that grow: each table's own, with the new values of some days behind it. No torch.

An old value keeps its row. A grown file lies in a folder of its own, whole, and never changes: a model knows its rows
by it.
"""

import dataclasses
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.files import plan
from pipeline.data.manifest import Manifest
from pipeline.data.vocabulary import Progress, Survey
from pipeline.data.vocabulary_file import (
    COUNT,
    VALUE,
    Vocabulary,
    entries,
    exists,
    put_vocabulary,
    read_vocabulary,
    torn,
)
from pipeline.data.vocabulary_lookup import vocabulary_of
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig

MEMORY = 2 << 30
"""Bytes for the counts."""


@dataclasses.dataclass(frozen=True)
class Grown:
    """A table's vocabulary after some days."""

    path: str
    """The grown file; the old one where nothing was new, or where no room was left."""
    before: int
    """Entries of the old file."""
    after: int
    no_room: int
    """New values that were counted often enough and did not fit into the table's rows."""
    unknown: float
    """Share of the look-ups that are out of vocabulary all the same, nulls included; 0 where there was none."""


def grow(
    job: JobConfig,
    days: DayRange,
    manifest: Manifest | None,
    folder: str,
    min_count: int,
    tell: Callable[[Progress], None],
) -> dict[str, Grown]:
    """Extends the vocabulary of each table that has one by the values looked up `min_count` times in the manifest.

    The most frequent come first, equal ones by value, as far as the table's rows go. Writes FOLDER/TABLE.parquet, a
    path or an fsspec URL, where a table has new values, and no file where it has none. Called again with the same rows
    it finds its own files, and writes again those that were torn. `manifest`: what to count; None plans the days.

    Raises InputError for a vocabulary that cannot be read, for values that do not fit into memory, and for a file in
    the folder that holds other values.
    """
    # a table's features have one vocabulary or none, so that each of these tables is counted whole
    features = [f for f in job.valued if f.vocabulary]
    if not features:
        return {}
    old = {f.table_name: vocabulary_of(job, f) for f in {f.table_name: f for f in features}.values()}
    tables = {name: spec for name, spec in job.tables.items() if name in old}
    survey = Survey(job.model_copy(update={"features": features, "tables": tables}), MEMORY, declared=False)
    lenient = job.data.bad.corrupt == "quarantine"  # the run that trains on them leaves them out, and counts them
    survey.count(plan(job, days) if manifest is None else manifest, tell, lenient)
    for table, tally in survey.whole.items():
        if tally.counts.bits:
            raise InputError(
                f"tables.{table}: its about {tally.counts.distinct:,} values of {days.first} to {days.last} do not fit "
                f"into the {MEMORY >> 20:,} MiB of their counts, and growing needs the count of each; count fewer days"
            )
    return {table: _grow(survey, table, old[table], folder, min_count) for table in survey.whole}


def _grow(survey: Survey, table: str, known: Vocabulary, folder: str, min_count: int) -> Grown:
    old, path = known.values, known.path
    tally, rows = survey.whole[table], survey.job.tables[table].rows
    counted = tally.counts.table()
    values, counts = (counted[name].combine_chunks() for name in (VALUE, COUNT))
    found = entries(values, counts, min_count, old)
    kept = found[:rows]
    if kept.num_rows > len(old):
        path = _written(folder, table, kept, tally.strings)
    return Grown(
        path=path,
        before=len(old),
        after=kept.num_rows,
        no_room=found.num_rows - kept.num_rows,
        unknown=(tally.lookups - pc.sum(kept[COUNT]).as_py()) / max(tally.lookups, 1),
    )


def _written(folder: str, table: str, kept: pa.Table, strings: bool) -> str:
    """The file's path; written unless it is there already, whole."""
    path = f"{folder.rstrip('/')}/{table}.parquet"
    if exists(path) and not torn(path):
        if not read_vocabulary(path, strings).values.equals(kept[VALUE].combine_chunks()):
            raise InputError(
                f"{path}: holds other values than these days now give, and a model may know its rows by it; remove it "
                "if no run has begun with it, or name another folder"
            )
        return path
    return put_vocabulary(folder, table, kept)
