"""A warm start: the parent's tensors read by plan and laid into the new model and its optimizers, a table at a time.

Every tensor of the new model is copied, resized or new, every one of the parent's used or removed; a tensor that is
none of these ends the start. Any sharding plan and number of ranks on either side.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.train.checkpoint_store import Commit
from pipeline.train.migrate_plan import Migration, TableMove, plan_migration
from pipeline.train.migrate_structure import saved_job
from pipeline.train.pieces import Pieces, State
from pipeline.train.restore import is_optimizer, read_metadata, read_state, verify
from pipeline.train.table_state import (
    ROWWISE,
    WEIGHT,
    WINDOW,
    column_edges,
    converted,
    model_state,
    own_edges,
    set_replica_steps,
    training_state,
)
from pipeline.train.warm_start import Parent
from schemas.errors import InputError
from schemas.job import JobConfig

NETWORK = "dense/dense."
"""Before a name of the dense network in a checkpoint."""


def load_parent(parent: Parent, job: JobConfig, model: nn.Module, optimizer: CombinedOptimizer) -> Migration:
    """Lays the parent's weights, and its optimizer state where the job wants it, into the model; every rank must call.

    Raises InputError on all ranks alike where files changed since the commit, or a tensor has no place.
    """
    assert job.warm_start is not None
    commit, take = parent.commit, job.warm_start.optimizer
    migration = plan_migration(saved_job(commit.job, job, commit.path), job, parent.listed)
    verify(commit)
    state = training_state(model, optimizer) if take else model_state(model)
    saved = read_metadata(commit)
    every: list[Any] = [None] * dist.get_world_size()
    # a rank knows the optimizer state of its own tables alone
    dist.all_gather_object(every, {name: pieces.shape for name, pieces in state.items()})
    wanted = {name: shape for shapes in every for name, shape in shapes.items()}
    there = {name for name in saved.state_dict_metadata if not name.startswith(WINDOW)}
    sources = _sources(commit, migration, {name for name in there if take or not is_optimizer(name)}, wanted.keys())
    _load_network(commit, migration, state, saved, sources)
    for move in migration.tables:
        own = {name: wanted[name] for name in sorted(sources) if _part(name) == _table(move.name)}
        _load_table(commit, move, state, saved, own)
    if take:
        set_replica_steps(optimizer, parent.lineage.optimizer_steps)
    return migration


def opening_lines(parent: Parent, migration: Migration, optimizer: bool) -> list[str]:
    """What a person is told of the warm start."""
    told = migration.summary()
    steps, epochs = parent.lineage.weight_steps, parent.lineage.weight_epochs
    lines = [
        f"warm start from {parent.commit.path}, step {parent.commit.progress.step}, "
        + ("with its optimizer state" if optimizer else "the weights alone")
        + "; steps and learning rate begin anew"
        + (f"; the tasks' weights go on from step {steps}, epoch {epochs}" if steps else "")
    ]
    lines += [f"  {difference.name}: {difference.what}" for difference in parent.differences]
    what = {
        "new": "new, from the seed",
        "resized": "resized",
        "removed": "removed",
        "mixed": "note: what other tasks read begins changed, since a gate sees other experts, or a stitch other tasks",
    }
    lines += [f"  {what[kind]}: {', '.join(told[kind])}" for kind in what if told[kind]]
    lines.append(f"  tensors: {', '.join(f'{count} {kind}' for kind, count in migration.counts().items())}")
    return lines


def _sources(commit: Commit, migration: Migration, there: set[str], wanted: Collection[str]) -> dict[str, str]:
    """Name in the parent of every tensor of the new model that has one, by its name in the new model.

    Raises InputError where a tensor of either side has no place.
    """
    moved = {NETWORK + move.new_name: NETWORK + move.old_name for move in migration.dense}
    moved |= {_table(move.name): _table(move.name) for move in migration.tables}
    new = {NETWORK + own for own in migration.dense_new.values()} | {_table(name) for name in migration.tables_new}
    removed = {NETWORK + own for own in migration.dense_removed.values()}
    removed |= {_table(name) for name in migration.tables_removed}
    sources = {name: moved[_part(name)] + name.removeprefix(_part(name)) for name in wanted if _part(name) in moved}
    unlike = [f"{name}: not planned" for name in sorted(wanted) if _part(name) not in moved.keys() | new]
    unlike += [f"{name}: not in the checkpoint" for name in sorted(set(sources.values()) - there)]
    unlike += [
        f"{name}: in the checkpoint alone"
        for name in sorted(there - set(sources.values()))
        if _part(name) not in removed
    ]
    if unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        raise InputError(
            f"warm_start.checkpoint: {commit.path} does not hold what its configuration says ("
            f"{'; '.join(unlike[:3])}{more}); start anew, or from another checkpoint"
        )
    return sources


def _part(name: str) -> str:
    """The table, or the tensor of the network, that a weight or its optimizer state belongs to."""
    return "/".join(name.split("/")[:2])


def _table(name: str) -> str:
    return f"tables/{name}"


@torch.no_grad()
def _load_network(commit: Commit, migration: Migration, state: State, saved: Metadata, sources: dict[str, str]) -> None:
    """Reads the parent's network and its optimizer state whole on every rank, and copies it by plan."""
    moves = {NETWORK + move.new_name: move for move in migration.dense}
    read: State = {}
    for name, source in sources.items():
        if _part(name) in moves:
            told = saved.state_dict_metadata[source]
            assert isinstance(told, TensorStorageMetadata), source
            shape = moves[_part(name)].old_shape if told.size else ()  # optimizers keep single numbers too
            read[source] = Pieces.whole(torch.empty(shape, dtype=told.properties.dtype))
    read_state(commit, read)
    for name, source in sources.items():
        if _part(name) in moves:
            move, old, new = moves[_part(name)], read[source].parts[0][1], state[name].parts[0][1]
            (move.state if is_optimizer(name) else move.weights)(new, old)


@torch.no_grad()
def _load_table(
    commit: Commit, move: TableMove, state: State, saved: Metadata, wanted: dict[str, tuple[int, ...]]
) -> None:
    """Reads one table and its optimizer state, this rank's pieces of them, straight into the live tensors."""
    edges = column_edges(saved, move.name)
    read: State = {}
    copies: list[tuple[Tensor, Tensor]] = []
    for name, shape in wanted.items():
        own = state.get(name, Pieces(shape, []))
        if name.endswith("/" + ROWWISE):
            read[name] = Pieces((move.old_shape[0], len(edges)), _rows(move, own, len(edges)))
        else:
            boxes = _boxes(move, own)
            if name == _table(move.name) + "/" + WEIGHT:
                copies = _listed(move, own, boxes)
            read[name] = Pieces(move.old_shape, boxes)
    read_state(commit, read)
    for listed, unknown in copies:
        listed.copy_(unknown)
    rowwise = _table(move.name) + "/" + ROWWISE
    if rowwise in state:
        now = own_edges(state, move.name)
        found = {offsets[0]: values for offsets, values in read[rowwise].parts}
        for (row, number), values in state[rowwise].parts:
            begin, end = now[number][0], min(now[number][1], move.old_shape[1])
            if begin >= end:  # columns that are all new: the row's own number
                begin, end = 0, move.old_shape[1]
            for (old, _), (new, _), (rows, _) in move.boxes((row, 0), (len(values), 1)):
                values[new - row : new - row + rows] = converted(found[old], edges, begin, end).unsqueeze(1)


def _boxes(move: TableMove, own: Pieces) -> list[tuple[tuple[int, ...], Tensor]]:
    """Where the parent's boxes begin, and the views of the live pieces that they go to."""
    out: list[tuple[tuple[int, ...], Tensor]] = []
    for (row, column), values in own.parts:
        for old, (new_row, new_column), (rows, columns) in move.boxes(
            (row, column), (values.shape[0], values.shape[1])
        ):
            view = values[new_row - row : new_row - row + rows, new_column - column : new_column - column + columns]
            out.append((old, view))
    return out


def _listed(move: TableMove, own: Pieces, boxes: list[tuple[tuple[int, ...], Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The live rows of newly listed values, and the parent's out-of-vocabulary row to lay into each.

    Adds to `boxes` what of that row is not read already.
    """
    out, reads = [], dict(boxes)
    unknown = move.old_shape[0] - 1
    for (row, column), values in own.parts:
        first, last = max(move.listed[0], row), min(move.listed[1], row + len(values))
        width = min(column + values.shape[1], move.old_shape[1]) - column
        if first < last and width > 0:
            if (unknown, column) not in reads:
                reads[unknown, column] = values.new_empty(1, width)
                boxes.append(((unknown, column), reads[unknown, column]))
            out.append((values[first - row : last - row, :width], reads[unknown, column]))
    return out


def _rows(move: TableMove, own: Pieces, shards: int) -> list[tuple[tuple[int, ...], Tensor]]:
    """Buffers for the rows of the parent's row-wise state that this rank needs, each once."""
    out: dict[tuple[int, ...], Tensor] = {}
    for (row, _), values in own.parts:
        for (old, _), _, (rows, _) in move.boxes((row, 0), (len(values), 1)):
            out[old, 0] = values.new_empty(rows, shards)
    return list(out.items())
