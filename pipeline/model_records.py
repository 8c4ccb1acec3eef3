"""What the registry records: a model, and a change of champion; who was champion when. No torch, no I/O."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from schemas.errors import InputError

T = TypeVar("T")
Kind = Literal["promotion", "rollback", "manual"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
NUMBER = re.compile(r"\d{8}")


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model, as it was when it was registered."""

    name: str
    """Its day, as 2026-01-08, or 2026-01-08.2 for the second attempt at it."""
    checkpoint: str
    """Its commit: a directory step-N-TOKEN with a manifest.json, as a path or URL."""
    checkpoint_sha256: str
    """Of that manifest.json, which holds the hashes of all else."""
    parent: str | None
    """The model whose weights it began from."""
    days: list[str]
    """Trained on by this model itself, in order."""
    skipped: list[str]
    """Left out since its parent's, with nothing trained on them."""
    manifest: str
    """Fingerprint of the rows it was trained on."""
    config: dict[str, Any]
    """The whole configuration of its training."""
    config_fingerprint: str
    git: str | None
    """Revision of the program."""
    metrics: dict[str, Any]
    """On the held-out rows: a task -> what result.json's `tasks` says of it."""
    verdict: str | None
    """Address of the gate's verdict."""


@dataclasses.dataclass(frozen=True)
class Promotion:
    """A change of champion."""

    number: int
    """From 1, without a gap."""
    model: str
    kind: Kind
    because: str
    at: str
    """UTC, ISO 8601."""
    before: str | None
    """Who was champion until then."""


_READERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Model, Promotion)}


def standing(promotions: Sequence[Promotion]) -> list[str]:
    """The champions that rollbacks one after another lead to, the present one last.

    A rollback undoes what came after the champion it goes back to: from A, B, C and back to B, one goes back to A.
    """
    line: list[str] = []
    for promotion in promotions:
        if promotion.kind == "rollback" and promotion.model in line:
            del line[len(line) - line[::-1].index(promotion.model) :]
        else:
            line.append(promotion.model)
    return line


def latest_first(promotions: Sequence[Promotion]) -> list[str]:
    """All that ever were champion, by their last promotion."""
    return list(dict.fromkeys(promotion.model for promotion in reversed(promotions)))


def checked(kind: type[T], facts: dict[str, Any], where: str) -> T:
    """The record as its dataclass. Raises InputError naming the file and the field."""
    try:
        return _READERS[kind].validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {field}: {first['msg']}; restore it from a copy") from error


def by_day(name: str) -> tuple[str, int, str]:
    """The order of names: by day, the tenth attempt at it after the second."""
    day, _, attempt = name.partition(".")
    return day, int(attempt) if attempt.isdecimal() else 0, attempt


def numbered(number: int) -> str:
    """A promotion's number as the name of its record, which sorts as the number does."""
    return f"{number:08d}"
