"""Where commits lie: a folder or any fsspec URL of attempts, of which those with a manifest count. No torch.

    CHECKPOINTS/step-00000200-5f0c1a9e/__0_0.distcp ...    a file a rank, .metadata, and small files of the job's own
    CHECKPOINTS/step-00000200-5f0c1a9e/manifest.json       written last: progress, config, every file's size and hash

Each attempt to save has a directory of its own. An object store knows neither locks nor an atomic rename: two runs, or
a run and what is left of the one before, must never meet in one directory. The manifest is one PUT there; on a local
disk it is a draft, flushed and renamed.
"""

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.storage import filesystem, is_local, reason, sync_folder
from schemas.errors import InputError

FORMAT = 2
"""Of the manifest and of the names in the checkpoint. 1 held TorchRec's own names, which change with the plan."""
MANIFEST = "manifest.json"
READ_BYTES = 1 << 22
SEEN_SECONDS = 30.0
"""How long another rank's file may take to be seen."""
REMEDY = {
    "written": "the checkpoint before it is whole. Free space or mend the rights, or name another output",
    "removed": "the newest checkpoint is whole. Mend the rights or the connection",
    "read": "see whether the storage answers, and whether you may read it",
}
ATTEMPT = re.compile(r"step-(\d{8,})(-[0-9a-f]{8})?")
"""Names of format 1 had no second part: such a checkpoint is found, and refused by its format."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: all it needs, beside the weights, to go on."""

    step: int
    """Training steps done."""
    epoch: int
    """Epoch of the next row."""
    rows_done: int
    """Rows of that epoch done, over all ranks: the next row of its global order."""
    samples: int
    """Rows trained in all."""

    def held_out(self, rows: int) -> int:
        """Rows passed over since they are held out, of a run with `rows` rows an epoch; those of each epoch count."""
        return self.epoch * rows + self.rows_done - self.samples


@dataclasses.dataclass(frozen=True)
class FileNote:
    """What the manifest says of one file."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Commit:
    """A committed checkpoint."""

    path: str
    """Its directory, as a local path or URL."""
    progress: Progress
    job: dict[str, Any]
    """The job's configuration as it was."""
    data: str
    """Fingerprint of the training data's manifest."""
    files: dict[str, FileNote] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The directory's own name: no two commits share it."""
        return self.path.rsplit("/", 1)[-1]

    def read(self, file: str) -> bytes:
        """One of the commit's small files, as it was given to the save. Raises InputError where it changed."""
        if file not in self.files:
            raise InputError(f"{self.path}: holds no '{file}'; it was saved by a run that does not write one")
        folder, name = self.path.rsplit("/", 1)
        store = CheckpointStore(folder)
        content = store.read(name, file)
        if note(content) != self.files[file]:
            raise InputError(changed(self, file))
        return content


def note(content: bytes) -> FileNote:
    """Size and hash of the bytes."""
    return FileNote(len(content), hashlib.sha256(content).hexdigest())


def changed(commit: Commit, file: str) -> str:
    """The complaint about a file that is not as it was committed."""
    return (
        f"{commit.path}/{file}: missing, cut short or changed since it was committed; restore it, or remove "
        f"{commit.path} to go on from the checkpoint before"
    )


class CheckpointStore:
    """One folder of attempts. Any process may read it; only rank 0 of a run writes manifests and removes."""

    def __init__(self, url: str) -> None:
        self.fs, self.root = filesystem(url)
        self.root = self.root.rstrip("/")
        self.url = url.rstrip("/")
        self.local = is_local(self.fs)

    def where(self, name: str, file: str = "") -> str:
        """The attempt's directory, or a file of it, as the filesystem knows it."""
        return f"{self.root}/{name}/{file}" if file else f"{self.root}/{name}"

    def address(self, name: str) -> str:
        """The attempt's directory as a person writes it."""
        return f"{self.url}/{name}"

    def new_attempt(self, step: int) -> str:
        """A name nobody else has taken; its directory is made where directories are things."""
        name = f"step-{step:08d}-{secrets.token_hex(4)}"
        with self.told(name, "written"):
            if self.local:
                Path(self.where(name)).mkdir(parents=True)  # an existing one is an error
        return name

    def attempts(self) -> list[str]:
        """Names of all attempts, whole and torn, oldest step first."""
        self.fs.invalidate_cache()  # another process may have written since
        with self.told("", "read"):
            try:
                entries = self.fs.ls(self.root, detail=False)
            except FileNotFoundError:
                return []
        names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries}
        return sorted((name for name in names if ATTEMPT.fullmatch(name)), key=lambda name: (step_of(name), name))

    def newest(self) -> Commit | None:
        """The commit of the highest step; of two of one step, the one written last. None where there is none."""
        attempts = self.attempts()
        for step in sorted({step_of(name) for name in attempts}, reverse=True):
            found = [m for name in attempts if step_of(name) == step and (m := self._manifest(name)) is not None]
            if found:
                return max(found, key=lambda m: (m[1], m[0].name))[0]
        return None

    def cut_short(self) -> list[str]:
        """Addresses of attempts whose manifest is there but no whole JSON: passed over, which is to be told."""
        names = [name for name in self.attempts() if self._manifest(name) is None]
        with self.told("", "read"):
            return [self.address(name) for name in names if self.fs.exists(self.where(name, MANIFEST))]

    def at(self, name: str) -> Commit | None:
        """The commit of this name, or None."""
        found = self._manifest(name)
        return found[0] if found else None

    def commits(self) -> list[str]:
        """Names of the attempts whose manifest is whole, oldest first."""
        found = [(m[1], name) for name in self.attempts() if (m := self._manifest(name)) is not None]
        return [name for _, name in sorted(found, key=lambda it: (step_of(it[1]), *it))]

    def read(self, name: str, file: str) -> bytes:
        """A whole file of an attempt."""
        with self.told(f"{name}/{file}", "read"):
            return self.fs.cat_file(self.where(name, file))

    def hash(self, name: str, file: str) -> FileNote | None:
        """Size and hash of a file as it lies there; None where it is gone."""
        digest, size = hashlib.sha256(), 0
        with self.told(f"{name}/{file}", "read"):
            try:
                with self.fs.open(self.where(name, file), "rb") as stream:
                    while block := stream.read(READ_BYTES):
                        digest.update(block)
                        size += len(block)
            except FileNotFoundError:
                return None
        return FileNote(size, digest.hexdigest())

    def write(self, name: str, file: str, content: bytes) -> FileNote:
        """Writes a file so that it appears whole or not at all, and survives a power cut once it has."""
        with self.told(f"{name}/{file}", "written"):
            if self.local:
                path = Path(self.where(name, file))
                draft = path.with_name(file + ".draft")
                with draft.open("wb") as out:
                    out.write(content)
                    out.flush()
                    os.fsync(out.fileno())
                draft.rename(path)
                sync_folder(path.parent)
            else:
                self.fs.pipe_file(self.where(name, file), content)
        return note(content)

    def check_seen(self, name: str, files: dict[str, FileNote]) -> None:
        """Raises InputError where a file that some rank has written is not here in its size.

        Nodes that do not share `output` would each keep a part, and the manifest would name files that are not there.
        """
        deadline = time.monotonic() + SEEN_SECONDS
        while unlike := self._unlike(name, files):
            if time.monotonic() > deadline:
                raise InputError(
                    f"{self.address(name)}: rank 0 does not see {unlike[0]}, which another rank has written, so it is "
                    "not committed. Name as output a folder that all nodes mount, or a URL, the same on every node"
                )
            time.sleep(0.2)  # a network file system may show another node's file late

    def _unlike(self, name: str, files: dict[str, FileNote]) -> list[str]:
        """Those of the files that are not here, or in another size."""
        with self.told(name, "read"):
            if self.local:  # by name: a folder's listing may be an older one
                paths = {file: Path(self.where(name, file)) for file in files}
                size = {file: path.stat().st_size for file, path in paths.items() if path.exists()}
            else:
                self.fs.invalidate_cache()
                found = self.fs.find(self.where(name), detail=True)
                size = {path.rsplit("/", 1)[-1]: told["size"] for path, told in found.items()}
        return sorted(file for file, told in files.items() if size.get(file) != told.bytes)

    def commit(
        self, name: str, progress: Progress, job: dict[str, Any], data: str, files: dict[str, FileNote], written: float
    ) -> None:
        """Writes the manifest: from here on the attempt counts. `written` is the time, in seconds since 1970."""
        content = {
            "format": FORMAT,
            "progress": dataclasses.asdict(progress),
            "written": written,
            "data": data,
            "job": job,
            "files": {file: dataclasses.asdict(told) for file, told in sorted(files.items())},
        }
        self.write(name, MANIFEST, json.dumps(content | {"sha256": _own_hash(content)}, indent=1).encode())
        if self.local:
            sync_folder(Path(self.root))  # the attempt's own name

    def prune(self, keep_last: int, abandoned_seconds: float) -> None:
        """Removes all commits but the newest `keep_last`, and torn attempts at no later step than the newest commit's.

        Where runs cannot be locked out (every store but a local folder) a torn attempt may be one that another run is
        writing. It goes only when its last file is `abandoned_seconds` older than the newest commit, by the store's
        own clock; no save takes that long and lives.
        """
        whole = self.commits()
        for name in whole[:-keep_last]:
            self.remove(name)
        if not whole:
            return
        for name in self.attempts():
            torn = name not in whole and step_of(name) <= step_of(whole[-1])
            if torn and (self.local or self._age(name, whole[-1]) > abandoned_seconds):
                self.remove(name)

    def remove(self, name: str) -> None:
        """Removes an attempt, its manifest first."""
        with self.told(name, "removed"):
            if self.fs.exists(self.where(name, MANIFEST)):
                self.fs.rm_file(
                    self.where(name, MANIFEST)
                )  # first: a removal cut short leaves nothing that looks whole
            self.fs.invalidate_cache()
            if self.local:
                shutil.rmtree(self.where(name))
            else:
                self.fs.rm(self.where(name), recursive=True)

    def _age(self, name: str, newest: str) -> float:
        """Seconds from the attempt's last file to the newest commit."""
        with self.told(name, "read"):
            written = [self.fs.modified(file) for file in self.fs.find(self.where(name))]
            if not written:
                return 0.0  # a folder, where the store has such things, in which another run may be about to write
            return (self.fs.modified(self.where(newest, MANIFEST)) - max(written)).total_seconds()

    def _manifest(self, name: str) -> tuple[Commit, float] | None:
        """The commit and when it was written; None where the manifest is not there or not whole."""
        try:
            raw = self.fs.cat_file(self.where(name, MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            raise InputError(f"{self.address(name)}/{MANIFEST}: cannot be read ({reason(error)})") from error
        try:
            content = json.loads(raw)
        except ValueError:
            return None  # a store without an atomic PUT, or a disk that lost its end
        told = content.get("format", 1)
        if told != FORMAT:
            age = "a newer" if told > FORMAT else "an older"
            raise InputError(
                f"{self.address(name)}: written by {age} version of this program (format {told}, here {FORMAT}); "
                "go on with that version, or name another output"
            )
        if content.pop("sha256", None) != _own_hash(content):
            raise InputError(
                f"{self.address(name)}/{MANIFEST}: changed since it was committed; restore it, or remove "
                f"{self.address(name)} to go on from the checkpoint before"
            )
        files = {file: FileNote(**note) for file, note in content["files"].items()}
        progress = Progress(**content["progress"])
        return Commit(self.address(name), progress, content["job"], content["data"], files), content["written"]

    @contextmanager
    def told(self, name: str, what: str) -> Iterator[None]:
        """An InputError that names the place for whatever the storage raises."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # each driver has exceptions of its own
            where = self.address(name) if name else self.url
            raise InputError(f"{where}: cannot be {what} ({reason(error)}); {REMEDY[what]}") from error


def find_commit(checkpoint: str) -> Commit | None:
    """The commit at this address, or the newest of a folder of commits or of a run's output; None where it is none."""
    place = checkpoint.rstrip("/")
    folder, name = place.rsplit("/", 1) if "/" in place else (".", place)
    return (
        CheckpointStore(folder).at(name)
        or CheckpointStore(place).newest()
        or CheckpointStore(f"{place}/checkpoints").newest()
    )


def found_commit(checkpoint: str, key: str) -> Commit:
    """The checkpoint that the `key` names. Raises InputError where there is none."""
    commit = find_commit(checkpoint)
    if commit is None:
        raise InputError(
            f"{key}: '{checkpoint}' is no committed checkpoint and holds none; name a run's output, or one checkpoint "
            "in its `checkpoints` folder"
        )
    return commit


def step_of(name: str) -> int:
    """The step of an attempt's name."""
    return int(name.split("-")[1])


def _own_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
