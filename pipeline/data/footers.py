"""The footer of a Parquet file, in one ranged read of its end where that holds it whole. No torch."""

import dataclasses
import hashlib
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest import DIGEST_BYTES
from pipeline.storage import ShortReadError, is_local, reason
from schemas.errors import InputError

TAIL_BYTES = 65_536
"""Read of a file's end while planning: holds the footer of hundreds of column chunks."""
END_BYTES = 8
"""The footer's length and the magic number."""
REMEDY = "write it again"


class BrokenFileError(InputError):
    """A file that is no whole Parquet file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Footer:
    """A parsed footer and what tells it from another."""

    metadata: pq.FileMetaData
    digest: bytes
    length: int
    """Bytes, its length and the magic number included."""
    file_bytes: int
    tail: bytes
    """What was read of the file's end."""


def read_footer(fs: Any, path: str, size: int | None) -> Footer:
    """The footer; `size` is the file's, from a listing, and is asked of the file itself where it is local.

    Raises BrokenFileError for a file that is no whole Parquet file, and whatever the storage raises.
    """
    if is_local(fs):
        with LocalFile(path) as file:
            return footer_of(path, file.read(max(0, file.size - TAIL_BYTES), file.size), file.size, file.read)
    file_bytes = fs.size(path) if size is None else size

    def read(start: int, end: int) -> bytes:
        return remote_range(fs, path, start, end)

    return footer_of(path, read(max(0, file_bytes - TAIL_BYTES), file_bytes), file_bytes, read)


def footer_of(path: str, tail: bytes, file_bytes: int, read: Any) -> Footer:
    """The footer that ends the tail; `read(start, end)` fetches one that is longer than the tail."""
    length = int.from_bytes(tail[-END_BYTES:-4], "little") + END_BYTES
    if file_bytes < END_BYTES + 4 or tail[-4:] != b"PAR1":
        said = "an encrypted footer" if tail[-4:] == b"PARE" else "no Parquet magic number at its end"
        raise BrokenFileError(f"{path}: not a whole Parquet file ({said}); {REMEDY}")
    if length > file_bytes - 4:
        raise BrokenFileError(f"{path}: not a whole Parquet file (a footer longer than the file); {REMEDY}")
    if length > len(tail):
        tail = read(file_bytes - length, file_bytes)
    footer = memoryview(tail)[len(tail) - length :]
    return Footer(parsed(path, footer), digest(footer), length, file_bytes, tail)


def parsed(path: str, footer: memoryview | bytes) -> pq.FileMetaData:
    """The metadata of a whole footer."""
    try:
        return pq.read_metadata(pa.BufferReader(pa.py_buffer(footer)))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BrokenFileError(f"{path}: not a whole Parquet file ({reason(error)}); {REMEDY}") from error


def digest(footer: memoryview | bytes) -> bytes:
    """What tells a footer from another: it holds every chunk's place, size and statistics."""
    return hashlib.blake2b(footer, digest_size=DIGEST_BYTES).digest()


def remote_range(fs: Any, path: str, start: int, end: int) -> bytes:
    """The bytes start .. end; ShortReadError where fewer came."""
    data = fs.cat_file(path, start=start, end=end)
    if len(data) != end - start:
        raise ShortReadError(f"{len(data)} bytes came of the {end - start} from {start} on")
    return data


class LocalFile:
    """A local file, open as long as the block lasts."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self, start: int, end: int) -> bytes:
        """The bytes start .. end; ShortReadError where the file ends before."""
        data = os.pread(self._file, end - start, start)
        while len(data) < end - start:  # a system call reads 2 GiB at most
            more = os.pread(self._file, end - start - len(data), start + len(data))
            if not more:
                raise ShortReadError(f"{len(data)} bytes came of the {end - start} from {start} on")
            data += more
        return data
