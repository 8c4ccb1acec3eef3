"""What the ids and strings of a job's training days are: how many, how often, on which rows. No torch.

One pass over the columns of the features that look values up, in bounded memory; a line a feature, and one a table
that several features share, its values counted together. The same counts make the vocabulary files.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.manifest import Manifest
from pipeline.data.order import Stretch
from pipeline.data.reader import Lost, read_stretches
from pipeline.data.source import epoch_source
from pipeline.data.value_counts import Occupancy, ValueCounts, distinct_ids, hash64, make_room, uniform_share
from pipeline.data.vocabulary_file import (
    COUNT,
    VALUE,
    entries,
    exists,
    read_vocabulary,
    refuse_existing,
    signed,
    write_vocabulary,
)
from pipeline.data.vocabulary_lookup import Lookup, lookups
from schemas.errors import InputError
from schemas.features import IdListFeature, StringFeature, ValuedFeature
from schemas.job import JobConfig

Int64 = npt.NDArray[np.int64]
TEXT = pa.large_string()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the pass is."""

    rows: int
    total: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Line:
    """What was found in a feature, or in all features of a shared table."""

    name: str
    encoding: str
    """hash, rows (ids are rows) or vocabulary; several where the features of a table differ."""
    rows: int
    lookups: int
    unknown: int
    """Look-ups that are out of vocabulary, nulls included."""
    distinct: int
    exact: bool
    """Whether `distinct` was counted or estimated."""
    shared_values: float
    """Share of the distinct values that lie on a row with another."""
    shared_lookups: float
    """Share of the look-ups on such rows."""
    largest: int | None
    """The largest id, where ids are rows."""

    @property
    def hashed(self) -> bool:
        """Whether values may share rows at all."""
        return "hash" in self.encoding

    @property
    def uniform(self) -> float:
        """Share of the values that a uniform hash would put on another's row, in expectation."""
        return uniform_share(self.distinct, self.rows)


class _Tally:
    """The counts behind one line."""

    def __init__(self, name: str, table: str, rows: int, features: list[ValuedFeature]) -> None:
        self.name, self.table, self.rows = name, table, rows
        self.encodings = sorted({_encoding(f) for f in features})
        self.strings = isinstance(features[0], StringFeature)
        self._kinds = sorted({(_encoding(f), isinstance(f, StringFeature)) for f in features})
        self.counts = ValueCounts(TEXT if self.strings and self.one_encoding else pa.int64())
        self.occupancy = Occupancy(rows) if "hash" in self.encodings else None
        self.lookups = self.unknown = 0
        self.largest: int | None = None

    @property
    def one_encoding(self) -> bool:
        """Whether one value always has one row. Else a value is told apart by its encoding too, through a hash."""
        return len(self._kinds) == 1

    def add(self, found: "_Found", feature: ValuedFeature) -> None:
        """Counts one feature's values of one batch."""
        inside_N = found.row_N < self.rows
        self.lookups += int(found.count_N.sum()) + found.nulls
        self.unknown += int(found.count_N[~inside_N].sum()) + found.nulls
        kind = _encoding(feature), isinstance(feature, StringFeature)
        key_N = found.hash_N ^ np.uint64(self._kinds.index(kind))
        if self.one_encoding:
            self.counts.add(found.values, pa.array(found.count_N), found.hash_N)
        else:
            keys = pa.array(key_N[inside_N].view(np.int64))
            self.counts.add(keys, pa.array(found.count_N[inside_N]), hash64(keys))
        if self.occupancy is not None:
            self.occupancy.add(found.row_N[inside_N], key_N[inside_N], found.count_N[inside_N])
        if kind[0] == "rows" and len(found.values):
            self.largest = max(self.largest or 0, int(pc.max(found.values).as_py()))

    def line(self) -> Line:
        distinct = self.counts.distinct
        shared = self.occupancy.shared_lookups if self.occupancy else 0
        alone = self.occupancy.alone if self.occupancy else distinct
        return Line(
            name=self.name,
            encoding=", ".join(self.encodings),
            rows=self.rows,
            lookups=self.lookups,
            unknown=self.unknown,
            distinct=distinct,
            exact=not self.counts.bits,
            shared_values=max(0.0, 1 - alone / max(distinct, 1)),
            shared_lookups=shared / max(self.lookups, 1),
            largest=self.largest,
        )


@dataclasses.dataclass(frozen=True)
class _Found:
    """The distinct values of a feature in one batch."""

    values: pa.Array
    """int64 or large_string, without nulls."""
    count_N: Int64
    hash_N: npt.NDArray[np.uint64]
    row_N: Int64
    nulls: int


class Survey:
    """Counts of a job's values over a manifest."""

    def __init__(self, job: JobConfig, memory: int, declared: bool = True) -> None:
        """`memory`: bytes for the counts. `declared`: look up the job's own vocabularies, which must be there."""
        self.job, self.memory = job, memory
        if not job.valued:
            raise InputError("features: none is an id, a list of ids or a string; there is no value to count")
        self._lookups: dict[str, Lookup] = lookups(job) if declared else {}
        self._by_feature: dict[str, list[_Tally]] = {}
        self.tallies: list[_Tally] = []
        self.whole: dict[str, _Tally] = {}
        """By table, the counts that its vocabulary is made of."""
        for table, spec in job.tables.items():
            features = [f for f in job.valued if f.table_name == table]
            own = [_Tally(f.name, table, spec.rows, [f]) for f in features]
            together = [_Tally(f"table {table}", table, spec.rows, features)] if len(features) > 1 else []
            self._by_feature |= {f.name: [tally, *together] for f, tally in zip(features, own, strict=True)}
            self.tallies += own + together
            if all(tally.one_encoding for tally in together) and len(features) == _users(job, table):
                self.whole[table] = (own + together)[-1]

    def count(self, manifest: Manifest, tell: Callable[[Progress], None], lenient: bool = False) -> None:
        """One pass over the rows of the manifest; `lenient` passes over those that cannot be decoded."""
        began, rows = time.perf_counter(), 0
        counts = [tally.counts for tally in self.tallies]
        for batch in _batches(self.job, manifest, lenient):
            self.add(batch)
            make_room(counts, self.memory)
            rows += batch.num_rows
            tell(Progress(rows, manifest.rows, time.perf_counter() - began))

    def add(self, batch: pa.RecordBatch) -> None:
        """Counts the values of one batch."""
        for feature in self.job.valued:
            found = self._found(feature, batch.column(feature.source))
            for tally in self._by_feature[feature.name]:
                tally.add(found, feature)

    def lines(self) -> list[Line]:
        """What was found, features in the order of their tables, each shared table's line after its features'."""
        return [tally.line() for tally in self.tallies]

    def _found(self, feature: ValuedFeature, column: pa.Array) -> _Found:
        if isinstance(feature, IdListFeature):
            column = column.flatten()
        whole = len(column)
        if isinstance(feature, StringFeature):
            column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            index, count_N = np.unique(column.indices.drop_null().to_numpy(), return_counts=True)
            values = column.dictionary.take(pa.array(index)).cast(TEXT)
        else:
            values, count_N = distinct_ids(signed(column.drop_null()))
        nulls = whole - int(count_N.sum())
        hash_N = hash64(values)
        return _Found(values, count_N, hash_N, self._rows(feature, values, hash_N), nulls)

    def _rows(self, feature: ValuedFeature, values: pa.Array, hash_N: npt.NDArray[np.uint64]) -> Int64:
        """As the encoder does it."""
        rows = self.job.tables[feature.table_name].rows
        if feature.name in self._lookups:
            given = values if isinstance(feature, StringFeature) else values.to_numpy()
            return self._lookups[feature.name](given)
        if feature.vocabulary:  # yet to be written: which rows it gives is not known, but none is out of it
            return np.zeros(len(values), np.int64)
        if _encoding(feature) == "hash":
            return (hash_N % np.uint64(rows)).view(np.int64)
        return np.minimum(values.to_numpy().view(np.uint64), np.uint64(rows)).view(np.int64)


@dataclasses.dataclass(frozen=True)
class Written:
    """One vocabulary file."""

    table: str
    path: str
    entries: int
    kept: int | None
    """Of them, entries of the extended file, at their old rows; None where no file was extended."""
    values: int
    """Distinct values that were counted."""
    unknown: float
    """Share of the look-ups that are out of vocabulary with it."""


class Writer:
    """Writes a vocabulary a table; what can be refused is refused before a row is counted."""

    def __init__(self, survey: Survey, folder: str, min_count: int, max_rows: int | None, extend: str | None) -> None:
        self.survey, self.folder, self.min_count, self.max_rows = survey, folder, min_count, max_rows
        self.left_out = sorted(survey.job.tables.keys() - survey.whole.keys())
        """Tables whose features have no common values: buckets, or ids beside strings, or hashed beside plain."""
        self._old: dict[str, pa.Array] = {}
        for table, tally in survey.whole.items():
            refuse_existing(folder, table)
            path = f"{(extend or '').rstrip('/')}/{table}.parquet"
            if extend and exists(path):
                self._old[table] = read_vocabulary(path, tally.strings).values
                if max_rows is not None and len(self._old[table]) > max_rows:
                    raise InputError(
                        f"--max-rows: {max_rows:,} rows for the {len(self._old[table]):,} that '{path}' has already; "
                        "a vocabulary that is extended loses none"
                    )
        if extend and not self._old:
            raise InputError(f"--extend: '{extend}' holds none of {', '.join(f'{t}.parquet' for t in survey.whole)}")

    def write(self) -> list[Written]:
        """The files, once the survey has counted. Raises InputError where not every value could be counted."""
        for table, tally in self.survey.whole.items():
            if tally.counts.bits:
                raise InputError(
                    f"--write: the about {tally.counts.distinct:,} values of table '{table}' do not fit into --memory, "
                    "and a vocabulary needs the count of each; raise it, or count fewer days with data.train"
                )
        return [self._write(table, tally) for table, tally in self.survey.whole.items()]

    def _write(self, table: str, tally: _Tally) -> Written:
        counted, old = tally.counts.table(), self._old.get(table)
        values, counts = (counted[name].combine_chunks() for name in (VALUE, COUNT))
        found = entries(values, counts, self.min_count, old)[: self.max_rows]
        if not found.num_rows:
            raise InputError(
                f"--min-count: no value of table '{table}' occurs {self.min_count:,} times; lower it, or leave the "
                f"table out of the configuration. Files written before it: {self.folder}"
            )
        covered = pc.sum(found[COUNT]).as_py()
        return Written(
            table=table,
            path=write_vocabulary(self.folder, table, found),
            entries=found.num_rows,
            kept=None if old is None else len(old),
            values=counted.num_rows,
            unknown=1 - covered / max(tally.lookups, 1),
        )


def _users(job: JobConfig, table: str) -> int:
    return sum(f.table_name == table for f in job.embedded)


def _encoding(feature: ValuedFeature) -> str:
    if feature.vocabulary:
        return "vocabulary"
    return "hash" if isinstance(feature, StringFeature) or feature.hash else "rows"


def _batches(job: JobConfig, manifest: Manifest, lenient: bool) -> Iterator[pa.RecordBatch]:
    """The manifest's rows, the columns of the features alone."""
    columns = list(dict.fromkeys(f.source for f in job.valued))
    source = dataclasses.replace(epoch_source(job, manifest, 0, shuffle=False), columns=columns, lenient=lenient)
    for _, _, batch in read_stretches(source, [Stretch(group, 0, group.rows) for group in manifest.groups]):
        if not isinstance(batch, Lost):
            yield batch
