"""The state of a model and its optimizers under names that no plan and no number of ranks enters.

    dense/<parameter or buffer>                     the dense network
    dense/<parameter>/<state>                       AdamW's exp_avg, exp_avg_sq, step
    tables/<table>/weight                           rows x dim
    tables/<table>/rowwise_adagrad/sum              rows x column shards: one number a row and column shard
    tables/<table>/adagrad/sum                      rows x dim
    tables/<table>/adam/exp_avg, exp_avg_sq         rows x dim

One name for a table's state whichever optimizer holds it, the fused one or that of the replicated tables. DCP lays
pieces of equal shape anew by itself. Row-wise Adagrad under column-wise sharding is the exception, since its shape goes
with the number of column shards: see `converted`.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.embedding.tables import table_of
from pipeline.train.pieces import Pieces, State

ROWWISE = "rowwise_adagrad/sum"
WEIGHT = "weight"
WINDOW = "window/"
"""Before the names of the open metric window's rows (loop.py)."""


@torch.no_grad()
def training_state(model: nn.Module, optimizer: CombinedOptimizer) -> State:
    """Model and optimizers as pieces that share the live tensors' memory: reading into them restores."""
    state = model_state(model)
    with _quiet():
        for parameter, values in optimizer.state_dict()["state"].items():
            table = table_of(parameter)
            if table is None:
                state |= {f"dense/{parameter}/{name}": Pieces.whole(value) for name, value in values.items()}
            else:
                rows = state[f"tables/{table}/{WEIGHT}"].shape[0]
                state |= {f"tables/{table}/{name}": pieces for name, pieces in _table_optimizer(values, rows).items()}
    return state


@torch.no_grad()
def model_state(model: nn.Module) -> State:
    """The weights alone, as `training_state`."""
    state: State = {}
    with _quiet():
        for name, value in model.state_dict().items():
            table = table_of(name)
            state[f"dense/{name}" if table is None else f"tables/{table}/{WEIGHT}"] = _pieces(value)
    return state


def set_replica_steps(optimizer: CombinedOptimizer, step: int) -> None:
    """Sets what optimizers count beside their state: they step once a training step, so it is not saved."""
    with _quiet():
        for parameter, values in optimizer.state_dict()["state"].items():
            if table_of(parameter) is not None and isinstance(values.get("step"), Tensor):
                values["step"].fill_(step)
    optimizer.set_optimizer_step(step)  # the fused Adam's


def _table_optimizer(values: dict[str, Tensor | ShardedTensor], rows: int) -> State:
    """A table's state under one name for both optimizers: TorchRec calls the first of any rule `<table>.momentum1`."""
    named = {name.rpartition(".")[2]: value for name, value in values.items() if name != "step"}
    if "momentum1" in named:
        named["exp_avg" if "exp_avg_sq" in named else "sum"] = named.pop("momentum1")
    if set(named) == {"sum"}:
        value = named["sum"]
        if isinstance(value, ShardedTensor) and len(value.size()) == 1:
            # the column shards' numbers stand one after another, in the order of their columns
            parts = [(s.metadata.shard_offsets[0], s.tensor) for s in value.local_shards() if s.tensor.numel()]
            boxes = [((at % rows, at // rows), part.unsqueeze(1)) for at, part in parts]
            return {ROWWISE: Pieces((rows, value.size()[0] // rows), list(boxes))}
        pieces = _pieces(value)
        # a replicated table's row-wise state is rows x 1, and no table is so narrow (TableSpec.dim)
        return {ROWWISE if pieces.shape[1] == 1 else "adagrad/sum": pieces}
    assert set(named) in ({"exp_avg", "exp_avg_sq"}, set()), set(named)
    return {f"adam/{name}": _pieces(value) for name, value in named.items()}


def _pieces(value: Tensor | ShardedTensor) -> Pieces:
    if not isinstance(value, ShardedTensor):
        return Pieces.whole(value)
    # row-wise over more ranks than there are rows to share leaves empty shards, which begin past the table's end
    shards = [(tuple(s.metadata.shard_offsets), s.tensor.detach()) for s in value.local_shards() if s.tensor.numel()]
    return Pieces(tuple(value.size()), shards)


def column_edges(saved: Metadata, table: str) -> list[tuple[int, int]]:
    """First and last + 1 column of each column shard that the table was saved in, in order."""
    weight = saved.state_dict_metadata[f"tables/{table}/{WEIGHT}"]
    assert isinstance(weight, TensorStorageMetadata)
    return sorted({(chunk.offsets[1], chunk.offsets[1] + chunk.sizes[1]) for chunk in weight.chunks})


def own_edges(state: State, table: str) -> dict[int, tuple[int, int]]:
    """First and last + 1 column of each column shard that this rank holds, by the shard's number."""
    columns = {
        (offsets[1], offsets[1] + values.shape[1]) for offsets, values in state[f"tables/{table}/{WEIGHT}"].parts
    }
    numbers = {offsets[1] for offsets, _ in state[f"tables/{table}/{ROWWISE}"].parts}
    return dict(zip(sorted(numbers), sorted(columns), strict=True))


def converted(saved_RS: Tensor, edges_S: list[tuple[int, int]], begin: int, end: int) -> Tensor:
    """Row-wise Adagrad's number of columns begin .. end of each row, from those of S saved column shards.

    A row's number is the sum over steps of its gradient's mean square over the columns it covers. So the whole row's
    is the width-weighted mean of its shards', exactly; a shard cut from a whole row gets the row's, of which it is
    the best guess. One rule does both: the mean of the saved shards, weighted by the columns they share.
    """
    shared_S = [max(0, min(end, b) - max(begin, a)) for a, b in edges_S]
    weight_S = torch.tensor(shared_S, dtype=torch.float64, device=saved_RS.device) / (end - begin)
    return (saved_RS.double() @ weight_S).to(saved_RS.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """TorchRec warns of every replicated table, torch of its own ShardedTensor."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
