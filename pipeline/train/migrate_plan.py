"""Where each tensor of a new model comes from: an old one, copied by equal labels, or the seed. Pure.

A place of a new tensor whose labels the old one has is copied. Of the others, the weight of an old output on a new
input becomes 0, so that the network computes what it computed before; the rest stays as the seed made it.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pipeline.axes import Axes, Axis, own_names
from pipeline.model import DenseNetwork, layer_widths
from schemas.errors import InputError
from schemas.job import JobConfig

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First row and column in the old table, first row and column in the new one, rows and columns."""


@dataclasses.dataclass(frozen=True)
class DenseMove:
    """A tensor of the new dense network that the old one has as well, in this size or another."""

    name: str
    """Its canonical name."""
    old_name: str
    """Its name in the old network."""
    new_name: str
    """Its name in the new one."""
    old_shape: tuple[int, ...]
    old_places: tuple[Tensor, ...]
    """Along each axis, the old places that are copied."""
    new_places: tuple[Tensor, ...]
    """Where they go."""
    new_inputs: tuple[Tensor, ...]
    """Along each axis, the places of new inputs; none on an axis that has other labels."""
    resized: bool
    """Whether either tensor has places that the other has not."""
    mixes: bool
    """Whether such places are no inputs: what a gate or a stitch begins or ceases to see."""

    @torch.no_grad()
    def weights(self, new: Tensor, old: Tensor) -> None:
        """Copies a parameter or buffer into the initialised new one."""
        for axis, places in enumerate(self.new_inputs):
            known = list(self.new_places)
            known[axis] = places
            new[_grid(known)] = 0
        self._copy(new, old)

    @torch.no_grad()
    def state(self, new: Tensor, old: Tensor) -> None:
        """Copies optimizer state of the parameter's shape; what is new starts from 0. A single number is copied."""
        if old.dim() == 0:
            new.copy_(old)
            return
        new.zero_()
        self._copy(new, old)

    def _copy(self, new: Tensor, old: Tensor) -> None:
        new[_grid(self.new_places)] = old[_grid(self.old_places)].to(new)


@dataclasses.dataclass(frozen=True)
class TableMove:
    """A table that both jobs have. Each has one row more than declared, its last: out of vocabulary."""

    name: str
    old_shape: tuple[int, int]
    """Rows, the last included, and dim."""
    new_shape: tuple[int, int]
    listed: tuple[int, int] = (0, 0)
    """First row and last + 1 of values that the vocabulary lists anew: they had the out-of-vocabulary row, and begin
    as copies of it, so that they predict as before; their optimizer state begins from 0."""

    @property
    def resized(self) -> bool:
        """Whether the new table is larger."""
        return self.old_shape != self.new_shape

    def boxes(self, offsets: tuple[int, int], shape: tuple[int, int]) -> list[Box]:
        """The pieces of the old table that lie in the box of the new one at `offsets` of `shape`."""
        (row, column), (rows, columns) = offsets, shape
        unknown_old, unknown_new = self.old_shape[0] - 1, self.new_shape[0] - 1
        width = min(column + columns, self.old_shape[1]) - column
        known = min(row + rows, unknown_old) - row
        out: list[Box] = []
        if width > 0 and known > 0:
            out.append(((row, column), (row, column), (known, width)))
        if width > 0 and row <= unknown_new < row + rows:
            out.append(((unknown_old, column), (unknown_new, column), (1, width)))
        return out


@dataclasses.dataclass(frozen=True)
class Migration:
    """A home for every tensor of the new model, and an end for every one of the old."""

    dense: list[DenseMove]
    dense_new: dict[str, str]
    """The new network's tensors that start from the seed: their own names by canonical name."""
    dense_removed: dict[str, str]
    """The old network's tensors that nothing takes: their own names by canonical name."""
    tables: list[TableMove]
    tables_new: list[str]
    tables_removed: list[str]

    def summary(self) -> dict[str, list[str]]:
        """What is new, resized, mixed and removed, by name: tables, and parts of the network as large as they come."""
        moved = [move.name for move in self.dense]
        return {
            "new": [f"tables.{name}" for name in self.tables_new] + _parts(list(self.dense_new), moved),
            "resized": [f"tables.{t.name}" for t in self.tables if t.resized]
            + [move.name for move in self.dense if move.resized],
            "mixed": [move.name for move in self.dense if move.mixes],
            "removed": [f"tables.{name}" for name in self.tables_removed] + _parts(list(self.dense_removed), moved),
        }

    def counts(self) -> dict[str, int]:
        """How many weights were copied, resized, ..., optimizer state left aside."""
        resized = sum(move.resized for move in self.dense) + sum(table.resized for table in self.tables)
        return {
            "copied": len(self.dense) + len(self.tables) - resized,
            "resized": resized,
            "new": len(self.dense_new) + len(self.tables_new),
            "removed": len(self.dense_removed) + len(self.tables_removed),
        }


def plan_migration(old: JobConfig, new: JobConfig, listed: Mapping[str, tuple[int, int]] | None = None) -> Migration:
    """The migration between the models of two jobs whose differences were checked.

    `listed`: by declared table, the rows of values that its vocabulary lists anew, as `TableMove.listed`.
    Raises InputError where `match_parameters` found other widths for the one than for the other.
    """
    _check_widths(old, new)
    with torch.device("meta"):
        before, after = DenseNetwork(old), DenseNetwork(new)
    old_axes, new_axes = before.axes(), after.axes()
    old_names, new_names = own_names(before, old_axes), own_names(after, new_axes)
    both = [name for name in new.trained_tables if name in old.trained_tables]
    return Migration(
        dense=[
            _dense_move(name, old_names[name], new_names[name], old_axes, new_axes)
            for name in new_axes
            if name in old_axes
        ],
        dense_new={name: own for name, own in new_names.items() if name not in old_names},
        dense_removed={name: own for name, own in old_names.items() if name not in new_names},
        tables=[
            TableMove(name, _shape(old, name), _shape(new, name), (listed or {}).get(name.rpartition(".")[2], (0, 0)))
            for name in both
        ],
        tables_new=[name for name in new.trained_tables if name not in old.trained_tables],
        tables_removed=[name for name in old.trained_tables if name not in new.trained_tables],
    )


def _check_widths(old: JobConfig, new: JobConfig) -> None:
    before, after = layer_widths(old), layer_widths(new)
    matched = old.model.match_parameters or new.model.match_parameters
    if matched and before != after:
        key, widths = next(iter(before.items()))
        raise InputError(
            f"model.match_parameters: the parent's {key} are {widths}, and here {after[key]} would match; weights "
            f"cannot be migrated between them. Set model.{key} to {widths} without match_parameters, or start anew"
        )


def _shape(job: JobConfig, table: str) -> tuple[int, int]:
    spec = job.trained_tables[table]
    return spec.rows + 1, spec.dim


def _dense_move(name: str, old_name: str, new_name: str, old_axes: Axes, new_axes: Axes) -> DenseMove:
    old, new = old_axes[name].axes, new_axes[name].axes
    assert len(old) == len(new), name
    resized = mixes = False
    old_places, new_places, new_inputs = [], [], []
    for one, other in zip(old, new, strict=True):
        assert one.inputs == other.inputs, name
        where = {label: place for place, label in enumerate(one.labels)}
        kept = [(where[label], place) for place, label in enumerate(other.labels) if label in where]
        uneven = len(kept) < max(len(one.labels), len(other.labels))
        assert not uneven or not _plain(one), f"{name}: {len(one.labels)} and {len(other.labels)} places"
        resized |= uneven
        mixes |= uneven and not one.inputs
        old_places.append(_places(place for place, _ in kept))
        new_places.append(_places(place for _, place in kept))
        came = (place for place, label in enumerate(other.labels) if label not in where)
        new_inputs.append(_places(came if other.inputs else ()))
    shape = tuple(len(axis.labels) for axis in old)
    return DenseMove(
        name, old_name, new_name, shape, tuple(old_places), tuple(new_places), tuple(new_inputs), resized, mixes
    )


def _plain(axis: Axis) -> bool:
    """Whether the places have no meaning of their own: such an axis must not change its length."""
    return axis.labels == tuple(range(len(axis.labels)))


def _places(places: Iterable[int]) -> Tensor:
    return torch.tensor(list(places), dtype=torch.long, device="cpu")


def _grid(places: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Indices that pick the product of the places along each axis."""
    every = list(places)
    return tuple(p.view([-1 if i == axis else 1 for i in range(len(every))]) for axis, p in enumerate(every))


def _parts(names: list[str], others: list[str]) -> list[str]:
    """The largest parts that hold nothing but `names`: the shortest dotted prefixes that none of `others` has."""
    taken = {".".join(other.split(".")[:depth]) for other in others for depth in range(1, other.count(".") + 2)}
    out = {}
    for name in names:
        parts = name.split(".")
        prefixes = (".".join(parts[: depth + 1]) for depth in range(len(parts)))
        out[next(prefix for prefix in prefixes if prefix not in taken)] = True
    return list(out)
