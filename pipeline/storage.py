"""Files here or in an object store: opening it, which failures may pass, how long one waits; creating once. No torch.

Credentials come from the environment or the driver's own configuration; a URL that carries them is refused.
"""

import contextlib
import errno
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from schemas.errors import InputError, has_credentials, redacted
from schemas.events import StorageConfig

T = TypeVar("T")
LONGEST_PAUSE_SECONDS = 10.0
DRIVER_ATTEMPTS = 3
"""How often the S3 driver itself sends a request before the failure comes to us."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Failures that no second try mends."""
FAULTS = (InputError, TypeError, AttributeError, NameError, KeyError, AssertionError, MemoryError)
"""Not the storage's doing."""
REMEDY = "see whether the storage answers, or raise data.storage.retries or data.storage.timeout_seconds"

CONDITIONAL = {"s3", "s3a", "gs", "gcs", "memory"}
"""Stores whose driver, if asked to, writes an object only where there is none."""
_honest: set[Any] = set()
"""Filesystems that were seen to do so."""


class UnansweredError(InputError):
    """A storage that did not answer, or not with what was asked for, at any of the attempts: it may pass."""


class ShortReadError(OSError):
    """Fewer bytes came than were asked for."""


def filesystem(url: str, storage: StorageConfig | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URL, and the path inside it; S3 with time-outs and bounded retries.

    Raises InputError for a URL with credentials in it, or of a kind whose driver is missing.
    """
    if has_credentials(url):
        raise InputError(
            "a URL carries credentials (not shown here); take them out, and give them in the environment or in the "
            "driver's own configuration"
        )
    try:
        fs, path = fsspec.core.url_to_fs(url, **_options(url, storage or StorageConfig()))
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: no filesystem for this kind of path: {error}{_install(error)}") from error
    if "s3" in protocols(fs):
        fs.retries = 1  # s3fs's own rounds on top of botocore's would multiply
    return fs, path


def _options(url: str, storage: StorageConfig) -> dict[str, Any]:
    """What the driver is told of time-outs and retries."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    seconds = storage.timeout_seconds
    retries = {"total_max_attempts": DRIVER_ATTEMPTS, "mode": "standard"}
    return {"config_kwargs": {"connect_timeout": min(seconds, 10), "read_timeout": seconds, "retries": retries}}


def _install(error: Exception) -> str:
    return " (set FULCRUM_EXTRAS=s3 for launch.sh)" if "s3fs" in str(error).lower() else ""


def protocols(fs: Any) -> tuple[str, ...]:
    """The names that the filesystem goes by in a URL."""
    return fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)


def is_local(fs: Any) -> bool:
    """Whether its paths are the operating system's."""
    return "file" in protocols(fs)


def reason(error: BaseException) -> str:
    """What an error says, on one line, without credentials."""
    text = str(error).strip().split("\n", 1)[0].rstrip(".")
    return redacted(text or type(error).__name__)


def patiently(act: Callable[[], T], storage: StorageConfig, what: str, done: str = "read") -> T:
    """What `act` returns; a failure that may pass is tried again, with growing pauses.

    Raises InputError naming `what`, what cannot be `done`, the number of attempts and the last reason. Failures that
    last, and faults of the program, come through as they are.
    """
    for attempt in range(1, storage.retries + 2):
        try:
            return act()
        except (*LASTING, *FAULTS):
            raise
        except Exception as error:  # every driver has exceptions of its own
            if attempt > storage.retries:
                raise given_up(what, attempt, error, done) from error
            pause(attempt, storage)
    raise AssertionError("the last attempt returns or raises")


def given_up(what: str, attempts: int, error: BaseException, done: str = "read") -> UnansweredError:
    """The failure of the last attempt, in the user's words."""
    tries = f"{attempts} attempts" if attempts > 1 else "1 attempt"
    return UnansweredError(f"{what}: cannot be {done} after {tries} ({reason(error)}); {REMEDY}")


def pause(attempt: int, storage: StorageConfig) -> None:
    """Waits after the failed attempt of this number, from 1."""
    time.sleep(min(storage.backoff_seconds * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS))


class Promise:
    """A read under way in a thread of its own, so that a storage that hangs cannot take the caller with it."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(act,), name="storage", daemon=True).start()

    def _run(self, act: Callable[[], Any]) -> None:
        try:
            self._results.put((act(), None))
        except BaseException as error:
            self._results.put((None, error))

    def result(self, storage: StorageConfig) -> Any:
        """What the read returned, or its error; TimeoutError where it has not come in time. To be called once."""
        try:
            value, error = self._results.get(timeout=storage.timeout_seconds)
        except queue.Empty:
            raise TimeoutError(f"no answer in {storage.timeout_seconds} s") from None
        if error is not None:
            raise error
        return value


def bounded(act: Callable[[], T], fs: Any, storage: StorageConfig) -> T:
    """`act`, given up after `timeout_seconds` where the filesystem is not local."""
    return act() if is_local(fs) else Promise(act).result(storage)


def create(fs: Any, path: str, content: bytes, storage: StorageConfig | None = None) -> bool:
    """Creates the object, whole and durable, where there is none: True for exactly one of any number of creators.

    False where it is there already. Give each creator a content of its own, as by a random token: where a store's
    answer was lost, what lies there is compared with it. Raises InputError where the store cannot do this, or does not
    answer.
    """
    storage = storage or StorageConfig()
    if is_local(fs):
        return _create_here(Path(path), content, storage)
    if not CONDITIONAL & set(protocols(fs)):
        raise InputError(
            f"{path}: a store of the kind {protocols(fs)[0]}:// cannot create an object only where there is none, so "
            "that two jobs could overwrite each other's; name a folder, or a URL of s3:// or gs://"
        )
    if fs not in _honest:
        _prove(fs, path, storage)
        _honest.add(fs)
    return _put(fs, path, content, storage)


def sync_folder(folder: Path) -> None:
    """Flushes a directory, so that the names in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _writing(act: Callable[[], T], storage: StorageConfig, path: str) -> T:
    """As `patiently`; InputError for whatever lasts, too."""
    try:
        return patiently(act, storage, path, "written")
    except LASTING as error:
        raise InputError(
            f"{path}: cannot be written ({reason(error)}); mend the rights, or name another place"
        ) from error


def _create_here(target: Path, content: bytes, storage: StorageConfig) -> bool:
    """`create` on a local disk."""
    ours: list[bool] = []

    def attempt() -> bool:
        if not ours:
            ours.append(_link(target, content))
        sync_folder(target.parent)  # for another's object as well: who acts on its being there must not see it go
        return ours[0]

    return _writing(attempt, storage, str(target))


def _link(target: Path, content: bytes) -> bool:
    """A draft, flushed, then linked to its name, which fails where the name is taken."""
    folder = target.parent
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.draft")
    try:
        with draft.open("xb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        return _linked(draft, target)
    finally:
        with contextlib.suppress(OSError):  # a draft left behind is in nobody's way
            draft.unlink()


def _linked(draft: Path, target: Path) -> bool:
    try:
        os.link(draft, target)
    except OSError as error:
        if draft.stat().st_nlink > 1:
            return True  # over a network: made, its answer lost, and asked for again
        if isinstance(error, FileExistsError):
            return False
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise InputError(
                f"{target}: its file system has no hard links, without which two creators of one file cannot be told "
                "apart; name a folder on another"
            ) from error
        raise
    return True


def _put(fs: Any, path: str, content: bytes, storage: StorageConfig) -> bool:
    """`create` in a store: one conditional write."""

    def attempt() -> bool:
        try:
            bounded(lambda: fs.pipe_file(path, content, mode="create"), fs, storage)
        except Exception as error:  # each driver has exceptions of its own
            if not _is_taken(error):
                raise
            # by an earlier attempt of ours, perhaps of the driver's own, whose answer was lost
            return bounded(lambda: fs.cat_file(path), fs, storage) == content
        finally:
            fs.invalidate_cache()
        return True

    return _writing(attempt, storage, path)


def _is_taken(error: Exception) -> bool:
    """Whether a conditional write was refused because the object is there."""
    if isinstance(error, FileExistsError):
        return True
    said = getattr(error.__cause__, "response", None) or {}
    code = getattr(error, "code", None) or said.get("Error", {}).get("Code")
    return str(code) in ("412", "PreconditionFailed")


def _prove(fs: Any, path: str, storage: StorageConfig) -> None:
    """Raises InputError where the store takes a second conditional write of one object: it knows no conditions."""
    probe = f"{path}.{secrets.token_hex(8)}.probe"
    _put(fs, probe, b"first", storage)
    twice = _put(fs, probe, b"second", storage)
    with contextlib.suppress(Exception):  # it is in nobody's way
        fs.rm_file(probe)
    if twice:
        raise InputError(
            f"{path}: the store overwrites an object that was to be created only where there is none (no "
            "If-None-Match), so that two jobs could overwrite each other's; name another store, or a folder"
        )
