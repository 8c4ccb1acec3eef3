"""A model's weights as files: whether a commit of a training is whole, and its removal. No torch.

A commit is a directory step-N-TOKEN whose manifest.json names every other file with its size and hash.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Set as AnySet
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.storage import LASTING, bounded, filesystem, is_local, patiently, reason
from schemas.errors import InputError
from schemas.events import StorageConfig

MANIFEST = "manifest.json"
COMMIT = re.compile(r"step-\d{8,}(-[0-9a-f]{8})?")


def check_whole(who: str, checkpoint: str, sha256: str) -> None:
    """Raises InputError where the commit's manifest has another hash, or a file that it names is not there in its size.

    The files' own hashes are verified by whoever loads them.
    """
    fs, path = filesystem(checkpoint)
    content = _patiently(lambda: _content(fs, f"{path}/{MANIFEST}"), fs, f"{checkpoint}/{MANIFEST}", "read")
    if content is None:
        raise InputError(f"{who}: its checkpoint {checkpoint} is not there; name another")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{who}: {checkpoint}/{MANIFEST} is not as it was registered; restore it, or name another")
    size = _patiently(lambda: _sizes(fs, path), fs, checkpoint, "read")
    for name, told in json.loads(content)["files"].items():
        if size.get(name) != told["bytes"]:
            raise InputError(f"{who}: {checkpoint}/{name} is missing or cut short; restore it, or name another")


def remove(checkpoint: str, in_use: AnySet[str], whole_folder: bool) -> None:
    """Removes the commit, and with `whole_folder` every other one in its folder; never one of those in use.

    Cut short, it is called again. Raises InputError where the storage does not let it.
    """
    folder, _, name = checkpoint.rpartition("/")
    if not COMMIT.fullmatch(name):
        raise InputError(f"{checkpoint}: is no commit of a training (.../step-N-TOKEN), and is not removed")
    fs, path = filesystem(folder)
    names = {name}
    if whole_folder:
        names |= set(filter(COMMIT.fullmatch, _patiently(lambda: _names(fs, path), fs, folder, "read")))
    for each in sorted(names):
        if f"{folder}/{each}" not in in_use:
            where = f"{path}/{each}"
            _patiently(lambda where=where: _remove(fs, where), fs, f"{folder}/{each}", "removed")


def _remove(fs: Any, path: str) -> None:
    """The manifest first: a removal cut short leaves nothing that looks whole."""
    with suppress(FileNotFoundError):
        fs.rm_file(f"{path}/{MANIFEST}")
    fs.invalidate_cache()
    with suppress(FileNotFoundError):
        if is_local(fs):
            shutil.rmtree(Path(path))
        else:
            fs.rm(path, recursive=True)
    fs.invalidate_cache()


def _content(fs: Any, path: str) -> bytes | None:
    try:
        return fs.cat_file(path)
    except FileNotFoundError:
        return None


def _sizes(fs: Any, path: str) -> dict[str, int]:
    fs.invalidate_cache()
    return {found.rsplit("/", 1)[-1]: told["size"] for found, told in fs.find(path, detail=True).items()}


def _names(fs: Any, path: str) -> list[str]:
    fs.invalidate_cache()
    try:
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return []


def _patiently(act: Any, fs: Any, what: str, done: str) -> Any:
    storage = StorageConfig()
    try:
        return patiently(lambda: bounded(act, fs, storage), storage, what, done)
    except LASTING as error:
        raise InputError(f"{what}: cannot be {done} ({reason(error)}); mend the rights") from error
