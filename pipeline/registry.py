"""Which models there are, which of them is champion, and whose weights are kept: the only file that knows. No torch.

    ROOT/registry/models/2026-01-08.json        a model: where its checkpoint lies, what it was trained on, how it did
    ROOT/registry/promotions/00000007.json      who became champion; the highest number is the champion
    ROOT/registry/removed/2026-01-01.json       its weights are given up, from here on
    ROOT/registry/freed/2026-01-01.json         and gone

Every record is created once, whole or not at all, and never changed (records.py): a promotion is one such creation, so
that there is no moment with two champions, or with none after the first. Addresses below ROOT are kept relative to it:
ROOT may be moved, or reached by another path.
"""

import dataclasses
import json
from collections.abc import Sequence
from collections.abc import Set as AnySet
from datetime import UTC, datetime
from typing import Any

from pipeline.model_records import (
    NAME,
    NUMBER,
    Kind,
    Model,
    Promotion,
    by_day,
    checked,
    latest_first,
    numbered,
    standing,
)
from pipeline.records import Facts, Records
from pipeline.weights import COMMIT, check_whole, remove
from schemas.errors import InputError
from schemas.events import StorageConfig

HERE = "./"
"""Of an address in a record: below ROOT."""


class Registry:
    """The registry below one ROOT, a folder or any URL on which an object can be created exclusively."""

    def __init__(self, url: str, storage: StorageConfig | None = None) -> None:
        self.url = url.rstrip("/")
        self._models, self._promotions, self._removed, self._freed = (
            Records(f"{self.url}/registry/{kind}", storage) for kind in ("models", "promotions", "removed", "freed")
        )

    # ---- models

    def register(self, model: Model) -> None:
        """Records the model; the same again changes nothing. Raises InputError where another has its name."""
        if not NAME.fullmatch(model.name):
            raise InputError(f"'{model.name}' is no model's name; write a day, such as 2026-01-08 or 2026-01-08.2")
        if not COMMIT.fullmatch(model.checkpoint.rsplit("/", 1)[-1]):
            raise InputError(f"model {model.name}: {model.checkpoint} is no commit of a training (.../step-N-TOKEN)")
        facts = dataclasses.asdict(model)
        facts |= {key: self._below(facts[key]) for key in ("checkpoint", "verdict")}
        facts = json.loads(json.dumps(facts))  # as it will be read again: tuples are lists, keys strings
        if self._models.create(model.name, {**facts, "registered": _now()}):
            return
        there = self._models.get(model.name)
        there.pop("registered", None)
        if unlike := [key for key in facts if _text(facts[key]) != _text(there.get(key))]:
            raise InputError(
                f"{self._models.address(model.name)}: another model has the name, with another {', '.join(unlike)}; "
                "a record is never changed: give the new one a name of its own"
            )

    def model(self, name: str) -> Model:
        """The model of this name. Raises InputError naming those that there are."""
        facts = self._models.read(name) if NAME.fullmatch(name) else None
        if facts is None:
            raise InputError(f"{self.url}: no model '{name}' is registered; there are {_listed(self.names())}")
        return self._as_model(name, facts)

    def models(self) -> list[Model]:
        """All models, by day."""
        names = self.names()
        return [self._as_model(name, facts) for name, facts in zip(names, self._models.all(names), strict=True)]

    def names(self) -> list[str]:
        """Names of all models, by day and attempt."""
        return sorted(self._models.names(), key=by_day)

    def lineage(self, name: str) -> list[Model]:
        """The model, its parent, and so on to the first. Raises InputError where one of them has no record."""
        line = [self.model(name)]
        while (parent := line[-1].parent) is not None:
            if parent in {model.name for model in line}:
                raise InputError(f"{self._models.address(line[-1].name)}: its parent {parent} descends from it")
            line.append(self.model(parent))
        return line

    # ---- champions

    def promotions(self) -> list[Promotion]:
        """All, in order. Raises InputError where one is missing, not whole, or does not follow the one before."""
        names = self._numbers()
        out = [self._as_promotion(name, facts) for name, facts in zip(names, self._promotions.all(names), strict=True)]
        champion = None
        for promotion in out:
            if promotion.before != champion:
                raise InputError(
                    f"{self._promotions.address(numbered(promotion.number))}: follows {promotion.before or 'nobody'}, "
                    f"and {champion or 'nobody'} was champion; restore the promotions from a copy"
                )
            champion = promotion.model
        return out

    def champion(self) -> Model | None:
        """The champion; None before the first promotion. Raises InputError where the promotions are not whole."""
        newest = self.newest()
        return None if newest is None else self.model(newest.model)

    def newest(self) -> Promotion | None:
        """The promotion that stands."""
        names = self._numbers()
        return self._as_promotion(names[-1], self._promotions.get(names[-1])) if names else None

    def promote(self, name: str, because: str, kind: Kind = "promotion", expected: int | None = None) -> Promotion:
        """Makes the model champion, if promotion `expected` (None: none yet) still stands; the same again is a no-op.

        Raises InputError where another came in between, or the model is not there, or champion already, or its weights
        are removed; of a rollback and of a person's promotion, also where its checkpoint is not as it was registered.
        """
        number = (expected or 0) + 1
        key = numbered(number)
        if (there := self._promotions.read(key)) is not None:
            return self._own(self._as_promotion(key, there), name, kind, expected)
        model = self.model(name)
        self._usable(model)
        if kind != "promotion":  # a challenger has just been evaluated
            check_whole(f"{self.url}: model {name}", model.checkpoint, model.checkpoint_sha256)
        newest = self.newest()
        last = newest.number if newest else 0
        if last >= number:  # since the look above
            return self._own(self._as_promotion(key, self._promotions.get(key)), name, kind, expected)
        if last < number - 1:
            raise InputError(f"{self.url}: promotion {expected} is not there to build on; the last is {last or 'none'}")
        before = newest.model if newest else None
        if before == name:
            raise InputError(f"{self.url}: {name} is champion already (promotion {expected})")
        made = Promotion(number, name, kind, because, _now(), before)
        if self._promotions.create(key, dataclasses.asdict(made)):
            return made
        return self._own(self._as_promotion(key, self._promotions.get(key)), name, kind, expected)

    def rollback(self, to: str | None, because: str) -> Promotion:
        """Makes the champion before this one, or the earlier champion `to`, champion again.

        Raises InputError where there is none, its weights are removed, or its checkpoint is not as it was registered.
        """
        promotions = self.promotions()
        line = standing(promotions)
        if not line:
            raise InputError(f"{self.url}: there is no champion yet, so none to go back to")
        earlier = [name for name in latest_first(promotions) if name != line[-1]]
        if to is None:
            if len(line) < 2:
                raise InputError(f"{self.url}: {line[-1]} is the first champion; there is none before it")
            to = line[-2]
        elif to not in earlier:
            raise InputError(f"{self.url}: '{to}' is no earlier champion; those are {_listed(earlier)}")
        return self.promote(to, because, "rollback", promotions[-1].number)

    # ---- whose weights are kept

    def has_weights(self, name: str) -> bool:
        """Whether the model's weights have not been given up."""
        return self._removed.read(name) is None

    def removed(self) -> set[str]:
        """Names of the models whose weights are given up."""
        return set(self._removed.names())

    def kept(self, champions: int, challengers: int) -> set[str]:
        """Whose weights stay: the latest champions, this one among them, and the latest that never were champion.

        The latest champions are both those of the last promotions, and those that rollbacks one after another lead to:
        a champion that was rolled back takes no other's place.
        """
        promotions = self.promotions()
        by_time = latest_first(promotions)
        never = [name for name in self.names() if name not in by_time]
        line = standing(promotions)
        back = [name for i, name in enumerate(reversed(line)) if name not in line[len(line) - i :]]
        return {*by_time[:champions], *back[:champions], *never[len(never) - min(challengers, len(never)) :]}

    def retire(self, champions: int, challengers: int, spare: AnySet[str] = frozenset()) -> list[str]:
        """Removes the weights of all models but those kept and spared; the names of those removed now.

        Cut short at any point, the next call finishes it. Records stay. A checkpoint that a kept model names stays.
        """
        kept = self.kept(champions, challengers) | spare
        models = {model.name: model for model in self.models()}
        given_up, freed = self.removed(), set(self._freed.names())
        for name in models:
            if name not in kept and name not in given_up:
                self._removed.create(name, {"checkpoint": self._below(models[name].checkpoint), "at": _now()})
                given_up.add(name)
        in_use = {models[name].checkpoint for name in models if name not in given_up}
        out = []
        for name in sorted(given_up - freed, key=by_day):
            model = models.get(name) or self.model(name)
            newest = self.newest()
            if newest is not None and newest.model == name:
                raise InputError(
                    f"{self.url}: {name} became champion while its weights were being given up; promote another"
                )
            # a training of the daily job's has a folder of its own, with commits older than its last one
            remove(model.checkpoint, in_use, whole_folder=model.checkpoint.startswith(f"{self.url}/"))
            self._freed.create(name, {"at": _now()})
            out.append(name)
        return out

    # ---- records and their addresses

    def _numbers(self) -> list[str]:
        """The promotions' names. Raises InputError where a number is missing."""
        names = self._promotions.names()
        for number, name in enumerate(names, 1):
            if not NUMBER.fullmatch(name):
                raise InputError(f"{self._promotions.address(name)}: is no promotion; remove it")
            if name != numbered(number):
                raise InputError(f"{self._promotions.address(numbered(number))}: is missing; restore it from a copy")
        if not names and (heirs := [model for model in self.models() if model.parent is not None]):
            raise InputError(
                f"{self._promotions.address(numbered(1))}: is missing, and {heirs[0].name} began from champion "
                f"{heirs[0].parent}; restore {self._promotions.url} from a copy"
            )
        return names

    def _own(self, there: Promotion, name: str, kind: str, expected: int | None) -> Promotion:
        """The promotion that was found, where it is the one that was asked for. Raises InputError where it is not."""
        if (there.model, there.kind) == (name, kind):
            return there
        after = f"promotion {expected}" if expected else "no promotion"
        raise InputError(
            f"{self.url}: the champion changed meanwhile: {name} was to follow {after}, and promotion {there.number} "
            f"is {there.model} ({there.kind}, {there.at}: {there.because}); judge {name} against that one"
        )

    def _usable(self, model: Model) -> None:
        """Raises InputError where the model's weights are given up."""
        if not self.has_weights(model.name):
            there = [name for name in latest_first(self.promotions()) if self.has_weights(name)]
            raise InputError(
                f"{self.url}: the weights of {model.name} are removed (daily.retention); weights of champions are "
                f"there of {_listed(there)}"
            )

    def _as_model(self, name: str, facts: Facts) -> Model:
        facts = {key: value for key, value in facts.items() if key != "registered"}
        model = checked(Model, facts, self._models.address(name))
        if model.name != name:
            raise InputError(f"{self._models.address(name)}: is the record of {model.name}; restore it from a copy")
        verdict = None if model.verdict is None else self._address(model.verdict)
        return dataclasses.replace(model, checkpoint=self._address(model.checkpoint), verdict=verdict)

    def _as_promotion(self, name: str, facts: Facts) -> Promotion:
        promotion = checked(Promotion, facts, self._promotions.address(name))
        if numbered(promotion.number) != name:
            where = self._promotions.address(name)
            raise InputError(f"{where}: is the record of promotion {promotion.number}; restore it from a copy")
        return promotion

    def _below(self, address: str | None) -> str | None:
        """An address as it is recorded: relative to ROOT, where it lies below."""
        mine = address is not None and address.startswith(f"{self.url}/")
        return f"{HERE}{address[len(self.url) + 1 :]}" if address is not None and mine else address

    def _address(self, recorded: str) -> str:
        """A recorded address as one can open it."""
        return f"{self.url}/{recorded[len(HERE) :]}" if recorded.startswith(HERE) else recorded


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _text(value: Any) -> str:
    """As JSON, so that NaN equals NaN."""
    return json.dumps(value, sort_keys=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
