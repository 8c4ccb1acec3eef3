"""Folders of small JSON records, each created once and never changed, on a disk or in an object store. No torch.

    FOLDER/NAME.json     {"format": 1, "token": ..., "facts": {...}, "sha256": of all the rest}

What is not as it was written is refused by name: a record that cannot be read is never taken for one that is not there.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.storage import LASTING, bounded, create, filesystem, patiently, reason
from schemas.errors import InputError
from schemas.events import StorageConfig

T = TypeVar("T")
Facts = dict[str, Any]
FORMAT = 1
SUFFIX = ".json"
READERS = 16
"""Records that are read at a time: a store answers each after some milliseconds."""


class Records:
    """One folder of them. Any number of processes may read it, and race to create."""

    def __init__(self, url: str, storage: StorageConfig | None = None) -> None:
        self.storage = storage or StorageConfig()
        self.fs, root = filesystem(url, self.storage)
        self.root, self.url = root.rstrip("/"), url.rstrip("/")

    def address(self, name: str) -> str:
        """A record's file as a person writes it."""
        return f"{self.url}/{name}{SUFFIX}"

    def names(self) -> list[str]:
        """Of all records, sorted; drafts, and whatever else is no .json, are not among them."""
        return sorted(name.removesuffix(SUFFIX) for name in self.entries() if name.endswith(SUFFIX))

    def entries(self) -> list[str]:
        """Names of everything in the folder; none where there is no folder."""

        def look() -> list[str]:
            self.fs.invalidate_cache()  # another process may have written since
            try:
                return list(self.fs.ls(self.root, detail=False))
            except FileNotFoundError:
                return []

        found = self.reading(look, self.url)
        return sorted(name for path in found if (name := path.rstrip("/").rsplit("/", 1)[-1]))

    def read(self, name: str) -> Facts | None:
        """A record's facts; None where there is none. Raises InputError where it is not whole."""

        def fetch() -> bytes | None:
            try:
                return self.fs.cat_file(f"{self.root}/{name}{SUFFIX}")
            except FileNotFoundError:
                return None

        content = self.reading(fetch, self.address(name))
        return None if content is None else self._facts(name, content)

    def all(self, names: Iterable[str]) -> list[Facts]:
        """The facts of these records, in their order. Raises InputError where one is missing or not whole."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.get, names))

    def get(self, name: str) -> Facts:
        """A record's facts. Raises InputError where it is missing or not whole."""
        facts = self.read(name)
        if facts is None:
            raise InputError(f"{self.address(name)}: is missing; restore it from a copy")
        return facts

    def create(self, name: str, facts: Facts) -> bool:
        """Creates it: True for exactly one of all who race to; False where it is there already."""
        whole = {"format": FORMAT, "token": secrets.token_hex(8), "facts": facts}
        content = json.dumps(whole | {"sha256": _own_hash(whole)}, indent=1) + "\n"
        return create(self.fs, f"{self.root}/{name}{SUFFIX}", content.encode(), self.storage)

    def reading(self, act: Callable[[], T], what: str) -> T:
        """What `act` reads of the storage, bounded in time and tried again. Raises InputError naming `what`."""
        try:
            return patiently(lambda: bounded(act, self.fs, self.storage), self.storage, what)
        except LASTING as error:
            raise InputError(f"{what}: cannot be read ({reason(error)}); mend the rights or the path") from error

    def _facts(self, name: str, content: bytes) -> Facts:
        where = self.address(name)
        try:
            whole = json.loads(content)
            told = whole["format"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{where}: is no whole record ({len(content)} bytes); restore it from a copy") from None
        if told != FORMAT:
            raise InputError(
                f"{where}: written by another version of this program (format {told}, here {FORMAT}); use that"
            )
        if whole.pop("sha256", None) != _own_hash(whole) or not isinstance(whole.get("facts"), dict):
            raise InputError(f"{where}: changed since it was written; restore it from a copy")
        return whole["facts"]


def _own_hash(whole: Facts) -> str:
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
