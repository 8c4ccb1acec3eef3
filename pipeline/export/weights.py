"""A commit's weights as whole tensors in one process: no process group, no TorchRec. Every file verified."""

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from pipeline.model import DenseNetwork
from pipeline.train.checkpoint_store import CheckpointStore, Commit, changed
from pipeline.train.pieces import LoadPlanner, Pieces, State, reader, reason
from pipeline.train.restore import is_optimizer
from pipeline.train.table_state import WEIGHT, WINDOW
from schemas.errors import InputError
from schemas.job import JobConfig


def load_weights(commit: Commit, job: JobConfig) -> tuple[DenseNetwork, dict[str, Tensor]]:
    """The dense network, and each table with its row out of vocabulary, as float32 [rows + 1, dim].

    Raises InputError where a file changed since the commit, or what was saved is not what the job's model has.
    """
    folder, name = commit.path.rsplit("/", 1)
    store = CheckpointStore(folder)
    for file, told in commit.files.items():
        if store.hash(name, file) != told:
            raise InputError(changed(commit, file))
    dense = DenseNetwork(job)
    tables = {table: torch.empty(spec.rows + 1, spec.dim) for table, spec in job.trained_tables.items()}
    state: State = {f"dense/dense.{key}": Pieces.whole(value) for key, value in dense.state_dict().items()}
    state |= {f"tables/{table}/{WEIGHT}": Pieces.whole(value) for table, value in tables.items()}
    made = reader(store, name)
    saved = {
        key: tuple(told.size)
        for key, told in made.read_metadata().state_dict_metadata.items()
        if isinstance(told, TensorStorageMetadata) and not key.startswith(WINDOW) and not is_optimizer(key)
    }
    wanted = {key: pieces.shape for key, pieces in state.items()}
    if unlike := sorted(key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key)):
        raise InputError(
            f"{commit.path}: does not hold the model of its own configuration ({', '.join(unlike[:3])}); export it "
            "with the version that saved it"
        )
    try:
        dcp.load(dict(state), storage_reader=made, planner=LoadPlanner(), no_dist=True)
    except CheckpointException as error:
        raise InputError(f"{commit.path}: cannot be read ({reason(error)}); see whether the storage answers") from error
    return dense, tables
