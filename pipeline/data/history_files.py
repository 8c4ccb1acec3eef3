"""A day's statistics as Parquet files, one a statistic: written whole or not at all, and checked when they are read.

    FOLDER/dt=DAY/HASH.parquet     key int64 rising, count int64, sum float64; or the last values of each key:
                                   key int64 rising, value int64

HASH is of the statistic's declaration and of the day's manifest: a day whose files changed, or a statistic that is
declared otherwise, has another file, and what an earlier run was made of stays. No torch.
"""

import dataclasses
import hashlib
import io
import json
import os
import secrets
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.history_statistics import DayLists, DayStatistic, DaySums, Statistic
from pipeline.storage import bounded, filesystem, is_local, patiently, reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, StorageConfig

FORMAT = 1
"""Of the files and of what their numbers mean."""
ABOUT = b"fulcrum"
KEY = pa.field("key", pa.int64(), nullable=False)
SUMS = pa.schema([KEY, pa.field("count", pa.int64(), nullable=False), pa.field("sum", pa.float64(), nullable=False)])
LISTS = pa.schema([KEY, pa.field("value", pa.int64(), nullable=False)])


def name_of(statistic: Statistic, day: str, manifest: str) -> str:
    """The file's name below the folder; `manifest` is the fingerprint of the day's."""
    told = json.dumps([FORMAT, statistic.declaration, manifest])
    return f"{PARTITION_KEY}={day}/{hashlib.sha256(told.encode()).hexdigest()[:32]}.parquet"


def _parts(found: DayStatistic) -> list[npt.NDArray[Any]]:
    """The columns of the file."""
    return [getattr(found, field.name) for field in dataclasses.fields(found)]


def entries_of(found: DayStatistic) -> int:
    """How many rows the file has."""
    return len(_parts(found)[0])


def digest_of(found: DayStatistic) -> str:
    """Hash of the numbers, and of nothing else of the file."""
    digest = hashlib.sha256()
    for part in _parts(found):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


class HistoryFiles:
    """A folder of them, or a URL."""

    def __init__(self, folder: str, storage: StorageConfig, key: str = "data.history.folder") -> None:
        """`key` names the setting that the folder comes from, for messages."""
        self.folder, self._key = folder.rstrip("/"), key
        self._fs, self._root = filesystem(self.folder, storage)
        self._storage = storage

    def exists(self, name: str) -> bool:
        """Whether the file is there. Raises InputError where the storage does not say."""
        look = lambda: self._fs.exists(f"{self._root}/{name}")  # noqa: E731
        return patiently(lambda: bounded(look, self._fs, self._storage), self._storage, f"{self.folder}/{name}")

    def write(self, name: str, statistic: Statistic, found: DayStatistic) -> str:
        """Writes the file, unless somebody else has meanwhile: it would hold the same. Returns its digest."""
        digest = digest_of(found)
        about = {"format": FORMAT, "declaration": statistic.declaration, "digest": digest}
        table = pa.table(_parts(found), LISTS if statistic.values else SUMS).replace_schema_metadata(
            {ABOUT: json.dumps(about)}
        )
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd", write_page_checksum=True)
        path = f"{self._root}/{name}"
        try:
            if not is_local(self._fs):  # an object shows when its upload ends
                self._fs.pipe_file(path, out.getvalue())
                return digest
            os.makedirs(os.path.dirname(path), exist_ok=True)
            hidden = f"{os.path.dirname(path)}/.{secrets.token_hex(8)}"  # nodes that count the same day at a time
            try:
                with open(hidden, "wb") as file:
                    file.write(out.getvalue())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(hidden, path)
            finally:
                if os.path.exists(hidden):
                    os.unlink(hidden)
        except OSError as error:
            raise InputError(
                f"{self._key}: '{self.folder}' cannot be written ({reason(error)}); name another folder"
            ) from error
        return digest

    def read(self, name: str, statistic: Statistic, frozen: bool = False) -> tuple[DayStatistic, str]:
        """The numbers and their digest. Raises InputError for a file that is missing, damaged or another's.

        `frozen` where the digest is known and decides: a resume may have another policy of bad data, which is part of
        the declaration.
        """
        where, mend = f"{self.folder}/{name}", "remove it, and it is counted anew"
        fetch = lambda: self._fs.cat_file(f"{self._root}/{name}")  # noqa: E731
        try:
            content = patiently(lambda: bounded(fetch, self._fs, self._storage), self._storage, where)
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            about = json.loads((file.schema_arrow.metadata or {})[ABOUT])
            table = file.read()
            schema, kind = (LISTS, DayLists) if statistic.values else (SUMS, DaySums)
            found = kind(*(table.column(field.name).combine_chunks().to_numpy() for field in schema))
        except FileNotFoundError as error:
            raise InputError(
                f"features.{statistic.feature}: {where}, the statistics of an earlier day, is gone; give the same "
                "command again to count it anew"
            ) from error
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(f"{where}: no whole file of statistics ({reason(error)}); {mend}") from error
        if about.get("format") != FORMAT or not (frozen or about.get("declaration") == statistic.declaration):
            raise InputError(f"{where}: statistics of another declaration than its name tells; {mend}")
        digest = digest_of(found)
        if digest != about.get("digest"):
            raise InputError(f"{where}: its numbers are not those that were written; {mend}")
        return found, digest
