"""Checksums of decoded columns: equal for the same values in the same order, however they are cut into batches."""

import zlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.types as pt


class ColumnDigests:
    """CRC-32 of every column of the rows fed in so far.

    A column is hashed as streams: the places of its nulls, the lengths of its lists and strings, the bytes of its
    values (those under a null left out). None of them depends on dictionaries, encodings or where a batch ends.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._crc: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._seen: dict[str, int] = defaultdict(int)

    def update(self, batch: pa.RecordBatch) -> None:
        """The next rows."""
        self.rows += batch.num_rows
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            self._feed(name, name, array)

    def unlike(self, other: "ColumnDigests") -> list[str]:
        """The columns in which the two differ."""
        return sorted(name for name in {*self._crc, *other._crc} if self._crc[name] != other._crc[name])

    def _feed(self, column: str, path: str, array: pa.Array) -> None:
        """Hashes the array into `column`, its streams named by `path`."""
        if not len(array):
            return
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pt.is_dictionary(array.type):
            array = array.dictionary_decode()
        base = self._seen[path]
        self._seen[path] += len(array)
        if array.null_count:
            null_N = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            self._add(column, f"{path}/nulls", (null_N + base).tobytes())
            if pt.is_null(array.type):
                return
            array = array.drop_null()
        kind = array.type
        if pt.is_struct(kind):
            for i, field in enumerate(kind):
                self._feed(column, f"{path}/{field.name}", array.field(i))
        elif pt.is_map(kind):
            self._lengths(column, path, array.offsets)
            begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
            self._feed(column, f"{path}/key", array.keys.slice(begin, end - begin))
            self._feed(column, f"{path}/item", array.items.slice(begin, end - begin))
        elif pt.is_list(kind) or pt.is_large_list(kind):
            self._lengths(column, path, array.offsets)
            self._feed(column, f"{path}/element", array.flatten())
        elif pt.is_fixed_size_list(kind):
            self._feed(column, f"{path}/element", array.flatten())
        else:
            self._values(column, path, array)

    def _values(self, column: str, path: str, array: pa.Array) -> None:
        """A leaf without nulls."""
        kind = array.type
        if pt.is_string_view(kind) or pt.is_binary_view(kind):
            array = array.cast(pa.large_binary())
        elif pt.is_string(kind) or pt.is_binary(kind):
            array = array.view(pa.binary())
        elif pt.is_large_string(kind):
            array = array.view(pa.large_binary())
        elif pt.is_boolean(kind):
            array = array.cast(pa.uint8())
        kind = array.type
        data = array.buffers()[-1]
        if pt.is_binary(kind) or pt.is_large_binary(kind):
            wide = np.int64 if pt.is_large_binary(kind) else np.int32
            offsets = np.frombuffer(array.buffers()[1], wide)[array.offset : array.offset + len(array) + 1]
            self._lengths(column, path, offsets)
            begin, end = int(offsets[0]), int(offsets[-1])
        else:
            width = kind.bit_width // 8
            begin, end = array.offset * width, (array.offset + len(array)) * width
        if end > begin:
            self._add(column, f"{path}/values", memoryview(data)[begin:end])

    def _lengths(self, column: str, path: str, offsets: "pa.Array | np.ndarray") -> None:
        self._add(column, f"{path}/lengths", np.diff(np.asarray(offsets)).astype(np.int64).tobytes())

    def _add(self, column: str, stream: str, data: "bytes | memoryview") -> None:
        streams = self._crc[column]
        streams[stream] = zlib.crc32(data, streams[stream])
