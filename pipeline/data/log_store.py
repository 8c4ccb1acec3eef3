"""Where a log is written: files appear whole or not at all, and other people's logs are left alone."""

import json
import os
from collections.abc import Callable
from typing import Any

from pipeline.storage import filesystem, is_local
from schemas.events import TRUTH_FILE


class LogStore:
    """The output folder on any fsspec file system."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.fs, self.root = filesystem(out)
        self._local = is_local(self.fs)

    def path(self, *names: str) -> str:
        """The path of a name below the root, inside the file system."""
        return "/".join((self.root.rstrip("/"), *names))

    def write(self, fill: Callable[[Any], None], *names: str) -> None:
        """Open `names` below the root, let `fill` write it, and show it only when whole.

        An object store shows an object when its upload ends; a local disk needs a hidden name and a rename.
        """
        folder, name = self.path(*names[:-1]), names[-1]
        self.fs.makedirs(folder, exist_ok=True)
        shown = f"{folder}/{name}"
        target = f"{folder}/.{name}.tmp" if self._local else shown
        sink = self.fs.open(target, "wb")
        try:
            fill(sink)
        except BaseException:
            if self._local:
                sink.close()
                os.unlink(target)
            elif hasattr(sink, "discard"):
                sink.discard()  # closing would finish the upload of half an object
            raise
        sink.close()
        if self._local:
            os.replace(target, shown)

    def show(self, folder: str, hidden: str, name: str) -> None:
        """Give a file of a folder its name, once its bytes are on the disk."""
        source, target = self.path(folder, hidden), self.path(folder, name)
        if not self._local:
            self.fs.mv(source, target)
            return
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)

    def read_truth(self, spec: dict[str, Any]) -> dict[str, Any]:
        """What an earlier run with these settings recorded, or a fresh record; any other content is refused."""
        if not self.fs.exists(self.path(TRUTH_FILE)):
            names = self.fs.ls(self.root, detail=False) if self.fs.isdir(self.root) else []
            if any(name.rstrip("/").rsplit("/", 1)[-1].startswith("dt=") for name in names):
                raise ValueError(f"{self.out} holds days that were not generated; choose another --out")
            return {"spec": spec, "days": {}}
        try:
            truth = json.loads(self.fs.cat_file(self.path(TRUTH_FILE)))
            found = dict(truth["spec"])
            truth["days"].keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.out}/{TRUTH_FILE} is not readable ({error}); remove {self.out}") from error
        names = [n for n in {**found, **spec} if found.get(n) != spec.get(n)]
        if names:
            there = ", ".join(f"{n} {found.get(n)} (asked: {spec.get(n)})" for n in names)
            raise ValueError(f"{self.out} holds a log of other settings: {there}; choose another --out or remove it")
        return truth
