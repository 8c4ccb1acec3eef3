"""Where a day's files lie below the daily job's output, and small files that appear whole or not at all. No torch.

ROOT/days/2026-01-08/        the first attempt at a day; ROOT/days/2026-01-08.2/ the second
"""

import dataclasses
import datetime
import os
import re
from pathlib import Path

from pipeline.storage import filesystem, is_local, reason
from schemas.errors import InputError

KEY = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.([2-9]|[1-9]\d+))?")
DAY_MANIFEST, TRAIN_MANIFEST = "day.manifest", "train.manifest"
VERDICT = "verdict.json"


@dataclasses.dataclass(frozen=True)
class Place:
    """One attempt at one day."""

    root: str
    day: datetime.date
    attempt: int = 1

    @property
    def key(self) -> str:
        """The attempt's name, and that of the model it makes."""
        return str(self.day) if self.attempt == 1 else f"{self.day}.{self.attempt}"

    @property
    def folder(self) -> str:
        """Its folder, as a path or URL."""
        return f"{self.root}/days/{self.key}"

    def url(self, name: str) -> str:
        """A file or folder of it."""
        return f"{self.folder}/{name}"


def latest(root: str, day: datetime.date) -> Place:
    """The last attempt at the day that was begun; the first where none was."""
    return max((place for place in begun(root) if place.day == day), key=lambda p: p.attempt, default=Place(root, day))


def begun(root: str) -> list[Place]:
    """Every attempt that was begun, in order."""
    fs, path = filesystem(f"{root}/days")
    fs.invalidate_cache()
    try:
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    places = [place_of(root, name) for name in names if KEY.fullmatch(name)]
    return sorted(places, key=lambda place: (place.day, place.attempt))


def place_of(root: str, key: str) -> Place:
    """The attempt of this name."""
    match = KEY.fullmatch(key)
    assert match is not None, key
    return Place(root, datetime.date.fromisoformat(match[1]), int(match[2] or 1))


def put(url: str, content: bytes) -> None:
    """Writes a file over what was there; it appears whole or not at all. Raises InputError where that fails."""
    fs, path = filesystem(url)
    try:
        if not is_local(fs):
            fs.pipe_file(path, content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
        with draft.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, target)
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(
            f"{url}: cannot be written ({reason(error)}); mend the output, and run the day again"
        ) from error


def get(url: str) -> bytes:
    """A file's bytes. Raises InputError where it is not there."""
    fs, path = filesystem(url)
    try:
        return fs.cat_file(path)
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(
            f"{url}: cannot be read ({reason(error)}); restore it, or run the day again --again"
        ) from error
