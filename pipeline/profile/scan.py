"""One pass over a log, in bounded memory: everything that its profile is made of. No torch.

Memory holds one batch, a tally a column, the counts of values, and some bytes a day and column. Half of what may be
used is for the counts of values (pipeline/data/value_counts.py), half for the tallies, whose slots become fewer where
there are many columns.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.types as pt

from pipeline.data.checks import Where
from pipeline.data.manifest import Manifest, RowGroup
from pipeline.data.order import Stretch
from pipeline.data.parquet_file import open_parquet
from pipeline.data.quarantine import below_root
from pipeline.data.reader import Lost, read_stretches
from pipeline.data.source import Source, epoch_source
from pipeline.data.value_counts import make_room
from pipeline.data.vocabulary import Progress, Survey
from pipeline.profile import numbers
from pipeline.profile.columns import LENGTHS, Column, ListColumn, NumberColumn, TextColumn, ValueColumn
from pipeline.profile.refused import Refusals
from pipeline.profile.tally import Tally, halves
from pipeline.profile.targets import TargetReader
from pipeline.profile.tasks import TaskSums
from schemas.errors import InputError
from schemas.events import PARTITION_KEY
from schemas.features import IdFeature, IdListFeature, LookingBack, StringFeature
from schemas.job import JobConfig

BITS = 18
"""At most 2^18 slots of ids and strings; numbers have 2^16."""
LEAST_BITS = 11
NOT_USED = "(not used)"


class Scan:
    """What a pass over some days adds up."""

    def __init__(self, job: JobConfig, memory: int) -> None:
        self.job, self._memory = job, memory
        self._read_targets = TargetReader(job)
        self._binary = [task.kind == "binary" for task in job.tasks]
        self._parts, self._made_of = columns_of(job), made_of(job)
        self.sums, self.refusals = TaskSums(job), Refusals(job)
        self.survey = Survey(job, memory // 2) if job.valued else None
        self.columns: dict[tuple[str, str], Column] = {}
        self.bits = self._slot_bits(len(self._parts))
        for (name, kind), used_by in self._parts.items():
            self._watch(name, kind, used_by)
        self.lost: list[str] = []
        self.lost_rows = 0
        self.rows = 0

    def _slot_bits(self, columns: int) -> int:
        tasks = len(self.job.tasks)
        each = {b: Tally.nbytes(tasks, 1 << b) + ValueColumn.nbytes(b) for b in range(LEAST_BITS, BITS + 1)}
        return max((b for b, size in each.items() if columns * size <= self._memory // 2), default=LEAST_BITS)

    def _watch(self, name: str, kind: str, used_by: str) -> None:
        job, bits = self.job, self.bits
        number_bits = min(bits, numbers.BITS)
        made: Column
        if kind == "number":
            made = NumberColumn(name, used_by, Tally(job, 1 << number_bits), number_bits)
        elif kind == "target":
            made = NumberColumn(name, used_by, None, number_bits)
        elif kind == "id":
            made = ValueColumn(name, used_by, Tally(job, 1 << bits), bits)
        elif kind == "string":
            made = TextColumn(name, used_by, Tally(job, 1 << bits), bits)
        elif kind == "list":
            made = ListColumn(name, used_by, Tally(job, LENGTHS + 1))
        elif kind == "bytes":
            made = Column(name, used_by, Tally(job, 1))
        else:
            made = ListColumn(name, used_by) if kind == "weights" else Column(name, used_by)
        self.columns[name, kind] = made

    def run(self, manifest: Manifest, tell: Callable[[Progress], None], unused: bool = False) -> None:
        """One pass over the rows of the manifest; `unused` takes in what the job does not read.

        Raises InputError for a file that vanished or cannot be decoded, unless data.bad.corrupt leaves it out, and
        where nothing is left.
        """
        began = time.perf_counter()
        source = epoch_source(self.job, manifest, 0, shuffle=False)
        source = dataclasses.replace(source, columns=[*dict.fromkeys(name for name, _ in self._parts)])
        for group, first, batch in self._batches(source, manifest, unused):
            self.add(group, first, batch)
            self.rows += batch.num_rows
            tell(Progress(self.rows + self.lost_rows, manifest.rows, time.perf_counter() - began))
        if not self.rows:
            raise InputError(f"{self.job.data.path}: no row of these days could be read; the first: {self.lost[0]}")

    def _batches(
        self, source: Source, manifest: Manifest, unused: bool
    ) -> Iterator[tuple[RowGroup, int, pa.RecordBatch]]:
        for path, groups in itertools.groupby(manifest.groups, lambda group: group.path):
            here = self._with_more(source, path, unused) if unused or self._made_of else source
            for stretch, first, batch in read_stretches(here, [Stretch(group, 0, group.rows) for group in groups]):
                if isinstance(batch, Lost):
                    self.lost_rows += stretch.stop - first
                    self.lost.append(f"{below_root(path)}, row group {stretch.group.index}: {batch.reason}")
                    continue
                part = [batch]
                del batch
                yield stretch.group, first, part.pop()

    def _with_more(self, source: Source, path: str, unused: bool) -> Source:
        """The source with the columns that features of earlier days are made of, or with all that the file has.

        Each is watched from the first file on that has it.
        """
        with open_parquet(source.fs, path) as file:
            schema = file.schema_arrow
        read = set(source.columns)
        names = [name for name in schema.names if name not in read and schema.names.count(name) == 1]
        names = names if unused else [name for name in names if name in self._made_of]
        more = {name: kinds_of(schema.field(name).type) for name in names if name != PARTITION_KEY}
        new = [(name, kind) for name, kinds in more.items() for kind in kinds if (name, kind) not in self.columns]
        self.bits = min(self.bits, self._slot_bits(len(self.columns) + len(new)))  # of those that come now
        for name, kind in new:
            self._watch(name, kind, self._made_of.get(name, NOT_USED))
        columns = source.columns + [name for name, kinds in more.items() if kinds]
        texts = source.texts + [name for name, kinds in more.items() if "string" in kinds]
        return dataclasses.replace(source, columns=columns, texts=texts)

    def add(self, group: RowGroup, first: int, batch: pa.RecordBatch) -> None:
        """Adds rows of a row group from `first` on."""
        file = below_root(group.path)
        day = file[len(PARTITION_KEY) + 1 :].split("/", 1)[0]
        targets = self._read_targets(batch)
        self.sums.add(targets, day, f"{file}, row group {group.index}", first)
        self.refusals.add(batch, targets.trained_TN, Where(group.path, group.index, first))
        half = halves(targets, self.sums.shift_T, self._binary, group.first_row + first)
        names = set(batch.schema.names)
        for (name, kind), column in self.columns.items():
            if name not in names:
                continue  # a column that the job does not read, and not every file has
            if kind == "target":
                task = next(i for i, t in enumerate(self.job.tasks) if t.source == name)
                values = batch.column(name).filter(pa.array(targets.own_TN[task]))
                column.add(values, half, day)
            elif column.used_by != NOT_USED or kind in kinds_of(batch.schema.field(name).type):
                column.add(batch.column(name), half, day)
        if self.survey is not None:
            self.survey.add(batch)
            make_room([tally.counts for tally in self.survey.tallies], self.survey.memory)


def columns_of(job: JobConfig) -> dict[tuple[str, str], str]:
    """(column, how it is looked at) -> who reads it. A column that is read as an id and as a number comes twice."""
    who: dict[tuple[str, str], list[str]] = {}
    for feature in job.features:
        if isinstance(feature, LookingBack):
            continue  # a number or a list of earlier days; the columns it is made of: `made_of`
        kind = "number"
        if isinstance(feature, IdFeature):
            kind = "id"
        elif isinstance(feature, StringFeature):
            kind = "string"
        elif isinstance(feature, IdListFeature):
            kind = "list"
            if feature.weights:
                who.setdefault((feature.weights, "weights"), []).append(feature.name)
        who.setdefault((feature.source, kind), []).append(feature.name)
    for task in job.tasks:
        who.setdefault((task.source, "label"), []).append(f"label of {task.name}")
        if task.kind == "regression":
            who.setdefault((task.source, "target"), []).append(f"label of {task.name}")
        for column, what in ((task.indicator, "indicator"), (task.sample_weight, "sample weight")):
            if column:
                who.setdefault((column, "label"), []).append(f"{what} of {task.name}")
    return {key: ", ".join(dict.fromkeys(names)) for key, names in who.items()}


def made_of(job: JobConfig) -> dict[str, str]:
    """The columns that features of earlier days are made of -> which features. What kind each is, the files say."""
    who: dict[str, list[str]] = {}
    for feature in job.history:
        for column in feature.sources:
            who.setdefault(column, []).append(feature.name)
    return {column: ", ".join(names) for column, names in who.items()}


def kinds_of(kind: pa.DataType) -> tuple[str, ...]:
    """How a column that the job does not read is looked at; empty for one that is not."""
    if pt.is_dictionary(kind):
        return ("string",) if kinds_of(kind.value_type) == ("string",) else ()
    if pt.is_integer(kind):
        return "id", "number"
    if pt.is_boolean(kind):
        return ("id",)
    if pt.is_floating(kind) or pt.is_decimal(kind) or (pt.is_temporal(kind) and not pt.is_interval(kind)):
        return ("number",)
    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind):
        return ("bytes",)  # there or missing is all that one looks at
    if pt.is_string(kind) or pt.is_large_string(kind):
        return ("string",)
    return ("list",) if pt.is_list(kind) or pt.is_large_list(kind) else ()
