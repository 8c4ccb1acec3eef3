"""A filesystem for tests: files of another one, counted, and read with failures on request.

    register()
    Faulty.settings(errors=0.1, short=0.05, seed=1)
    plan(small_job(f"faulty://{folder}"), ...)

`faulty://` lies over local files but is remote to Fulcrum: ranged reads, retries, time-outs.
"""

import os
import random
import threading
from collections import Counter
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

SETTINGS = "FAULTY_FS"


class Faulty(LocalFileSystem):
    """Local files whose reads fail as FAULTY_FS says: errors=0.1,short=0.05,seed=1,hang=3."""

    protocol = "faulty"
    cachable = False
    calls: ClassVar[Counter[str]] = Counter()
    bytes_read: ClassVar[Counter[str]] = Counter()
    answer: ClassVar[threading.Event] = threading.Event()
    """Set, it ends what hangs."""
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _random: ClassVar[random.Random | None] = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("faulty://"))

    @classmethod
    def forget(cls) -> None:
        """Counts from nothing, and draws anew."""
        cls.calls.clear()
        cls.bytes_read.clear()
        cls.answer.clear()
        cls._random = None

    @classmethod
    def _setting(cls, name: str) -> float:
        pairs = dict(pair.split("=") for pair in os.environ.get(SETTINGS, "").split(",") if pair)
        return float(pairs.get(name, 0))

    @classmethod
    def _draw(cls) -> float:
        with cls._lock:
            cls._random = cls._random or random.Random(cls._setting("seed") * 100 + int(os.environ.get("RANK", 0)))
            return cls._random.random()

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        Faulty.calls["ls"] += 1
        return super().ls(path, detail=detail, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        path = self._strip_protocol(path)
        Faulty.calls["read"] += 1
        if self._setting("hang") and path.endswith(".parquet"):
            Faulty.answer.wait(self._setting("hang"))
        draw = self._draw()
        if draw < self._setting("errors"):
            Faulty.calls["error"] += 1
            raise OSError(5, "the storage had a bad moment")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = 0 if start is None else start
            file.seek(start)
            data = file.read((size if end is None else end) - start)
        Faulty.bytes_read[path] += len(data)
        if draw < self._setting("errors") + self._setting("short"):
            Faulty.calls["short"] += 1
            return data[: len(data) // 2]
        if draw < self._setting("errors") + self._setting("short") + self._setting("damage"):
            Faulty.calls["damage"] += 1
            return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        return data

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        Faulty.calls["open"] += 1
        return super()._open(path, mode, **kwargs)


def register() -> None:
    """Makes faulty:// known to fsspec in this process."""
    fsspec.register_implementation("faulty", Faulty, clobber=True)
