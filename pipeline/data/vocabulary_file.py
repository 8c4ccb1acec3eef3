"""Vocabulary files: Parquet, the values that have a row of a table. No torch.

Column `value`, int64 or string, without nulls and no value twice: its place in the file is its row. Column `count`,
int64: the look-ups counted when the file was written; not read.
"""

import dataclasses
import hashlib
import os
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipeline.data.log_store import LogStore
from pipeline.storage import FAULTS, bounded, filesystem, is_local, patiently, reason
from schemas.errors import InputError
from schemas.events import StorageConfig

VALUE, COUNT = "value", "count"
WRITE_IT = "./launch.sh vocabulary CONFIG.yaml --write DIR writes one"


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The values of a file in its order: int64, or large_string."""

    path: str
    values: pa.Array

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the values in their order, and of nothing else of the file."""
        digest = hashlib.sha256(str(self.values.type).encode())
        if pt.is_integer(self.values.type):
            digest.update(self.values.to_numpy().data)
        else:
            values = pa.concat_arrays([self.values])  # a slice's buffers hold its neighbours too
            offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
            digest.update(np.diff(offsets).data)
            digest.update(memoryview(values.buffers()[2] or b"")[offsets[0] : offsets[-1]])
        return digest.hexdigest()


def signed(values: pa.Array) -> npt.NDArray[np.int64]:
    """Integers of any type as int64: a uint64 of 2^63 or more is the negative number of the same bits."""
    if values.type == pa.uint64():
        return values.to_numpy().view(np.int64)
    return values.cast(pa.int64()).to_numpy()


def exists(url: str) -> bool:
    """Whether there is such a file. Raises InputError where the storage does not say."""
    fs, path = filesystem(url)
    return patiently(lambda: fs.exists(path), StorageConfig(), url)


def read_vocabulary(url: str, strings: bool, storage: StorageConfig | None = None) -> Vocabulary:
    """The checked vocabulary of a file for features of strings or of integers.

    Raises InputError naming file, column and row.
    """
    with _opened(url, storage or StorageConfig()) as file:
        schema = file.schema_arrow
        if schema.names.count(VALUE) != 1:
            raise InputError(f"{url}: a vocabulary has one column '{VALUE}', this file has {', '.join(schema.names)}")
        kind = schema.field(VALUE).type
        kind = kind.value_type if pt.is_dictionary(kind) else kind
        fits = pt.is_string(kind) or pt.is_large_string(kind) if strings else pt.is_integer(kind)
        if not fits:
            wanted = "strings" if strings else "integers"
            raise InputError(f"{url}: column '{VALUE}' holds {kind} where the feature needs {wanted}; name another")
        try:
            column = file.read([VALUE]).column(VALUE)
        except (pa.ArrowException, OSError) as error:
            said = f"{url}: column '{VALUE}' cannot be decoded ({reason(error)}); write the file again"
            raise InputError(said) from error
    if not len(column):
        raise InputError(f"{url}: column '{VALUE}' has no row; {WRITE_IT}")
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise InputError(f"{url}: column '{VALUE}' is null in row {row}; leave nulls out of a vocabulary")
    values = column.cast(pa.large_string()).combine_chunks() if strings else pa.array(signed(column.combine_chunks()))
    _refuse_twice(values, url)
    return Vocabulary(url, values)


def _opened(url: str, storage: StorageConfig) -> pq.ParquetFile:
    fs, path = filesystem(url, storage)
    try:
        content = patiently(lambda: bounded(lambda: fs.cat_file(path), fs, storage), storage, url)
        return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file; mend the path, or write it: {WRITE_IT}") from error
    except pa.ArrowException as error:
        raise InputError(f"{url}: not a whole Parquet file ({reason(error)}); write it again") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({reason(error)}); see whether you may read it") from error


def _refuse_twice(values: pa.Array, url: str) -> None:
    if pc.count_distinct(values).as_py() == len(values):
        return
    order = pc.sort_indices(values)  # stable: of equal values the earlier row comes first
    ordered = values.take(order)
    same_N = pc.equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
    row = int(order.to_numpy()[1:][same_N].min())
    raise InputError(
        f"{url}: column '{VALUE}' holds {values[row].as_py()!r} in row {row}, and in an earlier row; "
        "a value has one row, keep the first"
    )


def entries(values: pa.Array, counts: pa.Array, min_count: int, old: pa.Array | None = None) -> pa.Table:
    """The columns of a vocabulary file of these distinct values.

    Those counted at least `min_count` times, by count falling, then by value rising. The values of `old` come before
    them all, at the rows they have, however often they were counted.
    """
    table = pa.table({VALUE: values, COUNT: counts})
    if old is None:
        old = values[:0]
    place = pc.index_in(old, values)
    kept = pa.table({VALUE: old, COUNT: pc.fill_null(pc.take(counts, place), 0)})
    frequent = pc.and_(pc.greater_equal(counts, min_count), pc.invert(pc.is_in(values, old)))
    new = table.filter(frequent).sort_by([(COUNT, "descending"), (VALUE, "ascending")])
    schema = pa.schema([pa.field(VALUE, values.type, nullable=False), pa.field(COUNT, pa.int64(), nullable=False)])
    return pa.concat_tables([kept.cast(schema), new.cast(schema)])


def write_vocabulary(folder: str, name: str, table: pa.Table) -> str:
    """Writes FOLDER/NAME.parquet, whole or not at all; returns its path. A file that is there is refused."""
    refuse_existing(folder, name)
    try:
        return put_vocabulary(folder, name, table)
    except InputError as error:
        raise InputError(f"--write: {error}") from error


def put_vocabulary(folder: str, name: str, table: pa.Table) -> str:
    """Writes FOLDER/NAME.parquet over whatever is there, whole or not at all, and on the disk; returns its path.

    Raises InputError where the folder cannot be written.
    """
    store = LogStore(folder)

    def fill(sink: Any) -> None:
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        if is_local(store.fs):
            sink.flush()
            os.fsync(sink.fileno())

    try:
        store.write(fill, f"{name}.parquet")
    except FAULTS:
        raise
    except Exception as error:  # every driver has exceptions of its own
        said = f"'{folder}' cannot be written ({reason(error)}); free space, mend the rights, or name another folder"
        raise InputError(said) from error
    return f"{folder.rstrip('/')}/{name}.parquet"


def torn(url: str) -> bool:
    """Whether the file, which is there, is no whole Parquet file of whole pages: what a disk kept of a write cut short.

    Raises InputError where the storage does not give it.
    """
    fs, path = filesystem(url)
    content = patiently(lambda: bounded(lambda: fs.cat_file(path), fs, StorageConfig()), StorageConfig(), url)
    try:
        pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError):
        return True
    return False


def refuse_existing(folder: str, name: str) -> None:
    """Raises InputError where the file is there: a run, or a model to be retrained, may know its rows by it."""
    url = f"{folder.rstrip('/')}/{name}.parquet"
    if exists(url):
        raise InputError(
            f"--write: '{url}' is there already, and a model may know its rows by it; name another folder, and "
            "--extend this one to keep its rows"
        )
