"""What TorchRec's managed collision (ZCH) cannot do on CPU, each point pinned: a failure here means that it now can.

docs/decisions/0009-vocabulary-files-not-managed-collision.md weighs them. Where the reset of an evicted row, which has
no CPU kernel, hides the rest, it is left out, as `reset=False` says.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.mc_embeddingbag import ManagedCollisionEmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import LFU_EvictionPolicy, ManagedCollisionCollection, MCHManagedCollisionModule
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.train.dist import quiet_libraries
from tests.distributed.ranks import run_ranks

ROWS, WIDTH = 16, 4
HALF = 2**61
"""Ids below go to the first of two ranks, ids from there on to the second."""


class Bags(nn.Module):
    """A table `t` of managed rows: a KJT with one id a row -> [B, WIDTH]."""

    def __init__(self, interval: int) -> None:
        super().__init__()
        config = EmbeddingBagConfig(
            name="t", num_embeddings=ROWS, embedding_dim=WIDTH, feature_names=["f"], pooling=PoolingType.SUM
        )
        managed = MCHManagedCollisionModule(
            ROWS, torch.device("cpu"), LFU_EvictionPolicy(), interval, input_hash_size=2 * HALF
        )
        bags = EmbeddingBagCollection([config], device=torch.device("meta"))
        self.bags = ManagedCollisionEmbeddingBagCollection(bags, ManagedCollisionCollection({"t": managed}, [config]))

    def forward(self, ids: KeyedJaggedTensor) -> torch.Tensor:
        return self.bags(ids)[0].values()


def managed_model(world: int, interval: int = 1, kernel: str = "fused", reset: bool = False) -> Any:
    quiet_libraries()
    model = Bags(interval)
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.1}
    sharder = ManagedCollisionEmbeddingBagCollectionSharder(EmbeddingBagCollectionSharder(fused_params=fused))
    plan = construct_module_sharding_plan(
        model.bags,
        {"t": row_wise(compute_kernel=kernel)},
        sharder=sharder,
        local_size=world,
        world_size=world,
        device_type="cpu",
    )
    sharded = DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan({"bags": plan}), sharders=[sharder]
    )
    if not reset:
        for tbe, _ in sharded.module.bags._table_to_tbe_and_index.values():
            tbe.reset_embedding_weight_momentum = lambda **_: None
    return sharded


def batch(ids: list[int]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(["f"], torch.tensor(ids), lengths=torch.ones(len(ids), dtype=torch.int32))


def rows_of(model: Any, ids: list[int]) -> list[int]:
    """The table's row of each id, over all ranks: read off weights that hold their rows' numbers."""
    for shard in model.state_dict()["bags._embedding_module.embedding_bags.t.weight"].local_shards():
        first = shard.metadata.shard_offsets[0]
        shard.tensor.copy_(torch.arange(first, first + len(shard.tensor)).float()[:, None].expand(-1, WIDTH))
    model.eval()
    with torch.no_grad():
        out = model(batch(ids))[:, 0].long().tolist()
    model.train()
    return out


def train_first_insertion(rank: int, kernel: str) -> str:
    model = managed_model(1, kernel=kernel, reset=True)
    try:
        model(batch([10, 11, 12])).sum().backward()
    except (NotImplementedError, AttributeError) as error:
        return str(error)
    return "trained"


@pytest.mark.parametrize(
    ("kernel", "said"),
    [("fused", "Could not run 'fbgemm::reset_weight_momentum' with"), ("dense", "'reset_embedding_weight_momentum'")],
)
def test_no_cpu_kernel_resets_a_row_that_changes_hands(kernel: str, said: str) -> None:
    (told,) = run_ranks(1, train_first_insertion, kernel)
    assert said in told


def test_the_planner_has_no_sharding_for_it_on_cpu() -> None:
    sharder = ManagedCollisionEmbeddingBagCollectionSharder()
    assert sharder.sharding_types("cpu") == []
    assert sharder.sharding_types("cuda") == ["row_wise"]


IDS = [3, 4, 5, HALF + 3, HALF + 4, HALF + 5]
UNSEEN = [7, 8, 9, HALF + 7, HALF + 8, HALF + 9]


def seen_and_unseen(rank: int, world: int) -> tuple[list[int], list[int], int]:
    """Rows of ids that were trained, of ids that were not, and how many of many small ids got a row of their own."""
    model = managed_model(world)
    model(batch(IDS))
    known, unknown = rows_of(model, IDS), rows_of(model, UNSEEN)
    crowded = managed_model(world)
    many = list(range(100, 120))
    crowded(batch(many))
    return known, unknown, len(set(rows_of(crowded, many)))


def test_the_answer_depends_on_the_number_of_ranks() -> None:
    """Each rank keeps its own out-of-vocabulary row and its own capacity: an id's row is not a function of the log."""
    (one,), (two, other) = (run_ranks(world, seen_and_unseen, world) for world in (1, 2))
    assert two == other
    assert one[0] != two[0]
    assert set(one[1]) == {ROWS - 1}
    assert set(two[1]) == {ROWS // 2 - 1, ROWS - 1}, "a row of unknown ids a rank"
    assert (one[2], two[2]) == (ROWS, ROWS // 2), "ids of one range share one rank's rows, the other's lie idle"


def saved(rank: int, world: int, folder: str) -> tuple[list[int], list[int]]:
    model = managed_model(world)
    model(batch(IDS))
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder)
    return rows_of(model, IDS), rows_of(model, UNSEEN)


def loaded(rank: int, world: int, folder: str) -> tuple[list[int], list[int]] | str:
    model = managed_model(world)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    try:
        model.load_state_dict(state["model"])
    except AssertionError as error:
        return str(error)
    return rows_of(model, IDS), rows_of(model, UNSEEN)


def test_a_checkpoint_goes_to_fewer_ranks_never_to_more(tmp_path: Path) -> None:
    """To fewer, identities survive and the unknown ids of a lost rank read another row; to more, it does not load."""
    known, unknown = run_ranks(2, saved, 2, str(tmp_path / "two"))[0]
    (fewer,) = run_ranks(1, loaded, 1, str(tmp_path / "two"))
    assert fewer[0] == known
    assert set(unknown) == {ROWS // 2 - 1, ROWS - 1}
    assert set(fewer[1]) == {ROWS - 1}
    run_ranks(1, saved, 1, str(tmp_path / "one"))
    more = run_ranks(2, loaded, 2, str(tmp_path / "one"))
    assert [told.startswith("shard within range") for told in more] == [True, True]


def interrupted(rank: int, folder: str, cut: int | None) -> list[int]:
    """Six batches under an interval of four, saved and loaded into another model after `cut` of them."""
    model = managed_model(1, interval=4)
    for step, ids in enumerate([[1, 1, 2], [1, 3, 3], [4, 4, 4], [5, 6, 7], [8, 8, 8], [9, 9, 9]]):
        if step == cut:
            dcp.save({"model": model.state_dict()}, checkpoint_id=folder)
            model = managed_model(1, interval=4)
            state = {"model": model.state_dict()}
            dcp.load(state, checkpoint_id=folder)
            model.load_state_dict(state["model"])
        model(batch(ids))
    return rows_of(model, [1, 2, 3, 4, 5, 6, 7])


def test_a_resumed_run_forgets_the_ids_seen_since_the_last_eviction(tmp_path: Path) -> None:
    (whole,) = run_ranks(1, interrupted, "unused", None)
    (cut,) = run_ranks(1, interrupted, str(tmp_path / "checkpoint"), 2)
    assert ROWS - 1 not in whole, "all of them were given rows"
    assert cut != whole
