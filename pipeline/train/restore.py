"""Loading a commit: every file verified, every name accounted for, each plan's pieces read in place.

All ranks raise alike. Whatever was saved and is not wanted, or is wanted and was not saved, is refused by name: no
state is reset or dropped in silence.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.train.agreement import together
from pipeline.train.checkpoint_store import CheckpointStore, Commit, changed
from pipeline.train.pieces import LoadPlanner, Pieces, State, reader, reason
from pipeline.train.table_state import (
    ROWWISE,
    WINDOW,
    column_edges,
    converted,
    model_state,
    own_edges,
    set_replica_steps,
    training_state,
)
from schemas.errors import InputError


def load_training(commit: Commit, model: nn.Module, optimizer: CombinedOptimizer) -> list[str]:
    """Loads weights and optimizer state in place, under any plan and number of ranks; every rank must call it.

    Returns a line for each table whose optimizer state had to be converted (`table_state.converted`). Raises InputError
    on all ranks alike where files changed since the commit, or the model or an optimizer is not the one saved.
    """
    verify(commit)
    state = training_state(model, optimizer)
    lines = _load(commit, state, optimizer_too=True)
    set_replica_steps(optimizer, commit.progress.step)
    return lines


def load_model(commit: Commit, model: nn.Module) -> None:
    """Loads the weights alone in place, under any plan and number of ranks; every rank must call it."""
    verify(commit)
    _load(commit, model_state(model), optimizer_too=False)


def load_window(commit: Commit) -> dict[str, torch.Tensor]:
    """What `save` was given as `window`, whole tensors by name; every rank must call it.

    Names begin with the rank that saved them or with `all`. Rank r of W gets those of ranks r, r + W, ... and of `all`.
    """
    saved = read_metadata(commit)
    names = [name.removeprefix(WINDOW) for name in saved.state_dict_metadata if name.startswith(WINDOW)]
    ranks = sorted({int(name.split("/")[0]) for name in names if not name.startswith("all/")})
    mine = ranks[dist.get_rank() :: dist.get_world_size()]
    state: State = {}
    for name in sorted(names):
        if name.startswith("all/") or int(name.split("/")[0]) in mine:
            told = saved.state_dict_metadata[WINDOW + name]
            assert isinstance(told, TensorStorageMetadata)
            state[WINDOW + name] = Pieces.whole(torch.empty(told.size, dtype=told.properties.dtype))
    read_state(commit, state)
    return {name.removeprefix(WINDOW): pieces.parts[0][1] for name, pieces in state.items()}


def verify(commit: Commit) -> None:
    """Compares every file with the manifest, each rank a share of the bytes; all ranks raise alike."""
    store, name = _place(commit)
    largest = sorted(commit.files, key=lambda file: (-commit.files[file].bytes, file))

    def compare() -> None:
        for file in largest[dist.get_rank() :: dist.get_world_size()]:
            if store.hash(name, file) != commit.files[file]:
                raise InputError(changed(commit, file))

    together(compare)


def _load(commit: Commit, state: State, optimizer_too: bool) -> list[str]:
    """Fills the state from the commit; the lines of `load_training`."""
    saved = read_metadata(commit)
    # a rank knows the optimizer state of its own tables alone
    every: list[Any] = [None] * dist.get_world_size()
    tables = [name.split("/")[1] for name in state if name.endswith("/" + ROWWISE)]
    edges = {table: own_edges(state, table) for table in tables}
    dist.all_gather_object(every, ({name: pieces.shape for name, pieces in state.items()}, edges))
    wanted = {name: shape for shapes, _ in every for name, shape in shapes.items()}
    _refuse_unlike(commit, saved, wanted, optimizer_too)
    lines = []
    for table in sorted({table for _, each in every for table in each}):
        name = f"tables/{table}/{ROWWISE}"
        before = column_edges(saved, table)
        now = sorted({e for _, each in every for e in each.get(table, {}).values()})
        if before != now:
            _read_converted(commit, name, state.pop(name, Pieces(wanted[name], [])), before, edges.get(table, {}))
            lines.append(f"{table}: row-wise Adagrad's state of {_shards(before)} converted to {_shards(now)}")
    read_state(commit, state)
    return lines


def _shards(edges: list[tuple[int, int]]) -> str:
    return "a whole table" if len(edges) == 1 else f"{len(edges)} column shards"


def _read_converted(
    commit: Commit, name: str, own: Pieces, before: list[tuple[int, int]], edges: dict[int, tuple[int, int]]
) -> None:
    """Reads one table's row-wise state, this rank's rows of it, through `converted`; every rank must call it."""
    rows = {(offsets[0], len(values)): values for offsets, values in own.parts}
    shape = (own.shape[0], len(before))
    read = Pieces(shape, [((at, 0), values.new_empty(n, len(before))) for (at, n), values in rows.items()])
    read_state(commit, {name: read})
    found = {offsets[0]: values for offsets, values in read.parts}
    for (row, number), values in own.parts:
        values.copy_(converted(found[row], before, *edges[number]).unsqueeze(1))


def _refuse_unlike(commit: Commit, saved: Metadata, wanted: dict[str, tuple[int, ...]], optimizer_too: bool) -> None:
    """Raises InputError, alike on all ranks, where what was saved is not what is wanted; names the first of them."""
    there = {
        name: tuple(told.size)
        for name, told in saved.state_dict_metadata.items()
        if isinstance(told, TensorStorageMetadata) and not name.startswith(WINDOW)
    }
    if not optimizer_too:
        there = {name: size for name, size in there.items() if name in wanted or not is_optimizer(name)}
    unlike = [f"{name}: not in the checkpoint" for name in sorted(wanted.keys() - there.keys())]
    unlike += [f"{name}: in the checkpoint alone" for name in sorted(there.keys() - wanted.keys())]
    unlike += [
        f"{name}: saved as {_by(there[name])}, now {_by(shape)}"
        for name, shape in sorted(wanted.items())
        if name in there and there[name] != shape and not (name.endswith("/" + ROWWISE) and there[name][0] == shape[0])
    ]
    if unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        raise InputError(
            f"{commit.path}: does not fit this model or its optimizers ({'; '.join(unlike[:3])}{more}); go on with the "
            "configuration it was saved under, or name another output"
        )


def is_optimizer(name: str) -> bool:
    """Whether the name is that of optimizer state, and of no weight or buffer."""
    kind, *path = name.split("/")
    return path[1:] != ["weight"] if kind == "tables" else len(path) > 1


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape) or "one number"


def read_state(commit: Commit, state: State) -> None:
    """Fills the pieces in place; every rank must call it, each with its own pieces of the same names or others."""
    store, name = _place(commit)
    try:
        dcp.load(dict(state), storage_reader=reader(store, name), planner=LoadPlanner())
    except CheckpointException as error:
        raise InputError(f"{commit.path}: cannot be read ({reason(error)}); see whether the storage answers") from error


def read_metadata(commit: Commit) -> Metadata:
    """DCP's own index of the commit, read by every rank."""
    store, name = _place(commit)
    return together(lambda: reader(store, name).read_metadata())


def _place(commit: Commit) -> tuple[CheckpointStore, str]:
    return CheckpointStore(commit.path.rsplit("/", 1)[0]), commit.name
