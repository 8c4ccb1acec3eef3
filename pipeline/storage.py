"""Files here or in an object store: opening it, which failures may pass, and how long one waits for them. No torch.

Credentials come from the environment or the driver's own configuration; a URL that carries them is refused.
"""

import queue
import threading
import time
from collections.abc import Callable
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


def patiently(act: Callable[[], T], storage: StorageConfig, what: str) -> T:
    """What `act` returns; a failure that may pass is tried again, with growing pauses.

    Raises InputError naming `what`, the number of attempts and the last reason. Failures that last, and faults of the
    program, come through as they are.
    """
    for attempt in range(1, storage.retries + 2):
        try:
            return act()
        except (*LASTING, *FAULTS):
            raise
        except Exception as error:  # every driver has exceptions of its own
            if attempt > storage.retries:
                raise given_up(what, attempt, error) from error
            pause(attempt, storage)
    raise AssertionError("the last attempt returns or raises")


def given_up(what: str, attempts: int, error: BaseException) -> UnansweredError:
    """The failure of the last attempt, in the user's words."""
    tries = f"{attempts} attempts" if attempts > 1 else "1 attempt"
    return UnansweredError(f"{what}: cannot be read after {tries} ({reason(error)}); {REMEDY}")


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
