"""Where the tables lie: TorchRec's planner under the config's constraints, and the fused optimizer that goes with it.

`auto` leaves the choice between whole tables and row shards to the planner; column shards and replicas are laid only
where a table asks for them. (Row-wise Adagrad keeps its one number a row per column shard, so a column-wise table
trains by a slightly different rule; that is never chosen in silence.)
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from pipeline.embedding.tables import initialise_tables, module_name
from schemas.errors import InputError
from schemas.features import TableSpec
from schemas.job import EmbeddingOptimizerConfig, JobConfig

OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
    "adam": EmbOptimType.ADAM,
}
AUTO = {"cpu": ["table_wise"], "cuda": ["table_wise", "row_wise"]}


def sharder(optimizer: EmbeddingOptimizerConfig, device: torch.device) -> EmbeddingBagCollectionSharder:
    """A sharder whose tables update themselves inside backward."""
    if optimizer.name == "adam" and device.type == "cpu":
        raise InputError("embedding_optimizer.name: 'adam' has no CPU kernel; use rowwise_adagrad, adagrad or sgd")
    fused: dict[str, Any] = {
        "optimizer": OPTIMIZERS[optimizer.name],
        "learning_rate": optimizer.lr,
        # an id outside its table is a fault of this program (the encoder maps all of them): never row 0 in silence
        "bounds_check_mode": BoundsCheckMode.FATAL,
    }
    if optimizer.name != "sgd":
        fused["eps"] = optimizer.eps
    return EmbeddingBagCollectionSharder(fused_params=fused)


def sharding_plan(model: nn.Module, job: JobConfig, device: torch.device) -> ShardingPlan:
    """The plan all ranks agree on. Raises InputError where the planner finds none."""
    world = dist.get_world_size()
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    planner = EmbeddingShardingPlanner(
        topology=_topology(world, local_world, device),
        batch_size=max(1, job.train.batch_size // world),
        constraints={module_name(name): _constraints(table, device) for name, table in job.trained_tables.items()},
    )
    group = dist.GroupMember.WORLD
    assert group is not None
    try:
        plan = planner.collective_plan(model, [sharder(job.embedding_optimizer, device)], group)
    except PlannerError as error:
        raise InputError(f"tables: TorchRec's planner finds no place for them: {error}") from error
    if device.type == "cpu":
        _lay_rows(plan, model, job, world, local_world)
    return plan


def _topology(world: int, local_world: int, device: torch.device) -> Topology:
    """The ranks and the memory that each really has, where the planner would guess."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Topology(
        world_size=world,
        local_world_size=local_world,
        compute_device=device.type,
        hbm_cap=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        ddr_cap=host // local_world,
    )


def _constraints(table: TableSpec, device: torch.device) -> ParameterConstraints:
    sharding = table.sharding
    if sharding == "row_wise" and device.type == "cpu":
        kinds = ["table_wise"]  # the CPU planner does not offer row-wise: laid by hand below
    else:
        kinds = AUTO[device.type] if sharding == "auto" else [sharding]
    dim, shards = table.dim, max(dist.get_world_size(), 2)
    # column shards: as near to one a rank as the width allows, each a multiple of 4
    widths = sorted((w for w in range(4, dim, 4) if dim % w == 0), key=lambda w: (abs(dim // w - shards), -w))
    return ParameterConstraints(
        sharding_types=kinds,
        compute_kernels=["dense"] if sharding == "data_parallel" else ["fused"],
        min_partition=widths[0] if sharding == "column_wise" else None,
    )


def _lay_rows(plan: ShardingPlan, model: nn.Module, job: JobConfig, world: int, local_world: int) -> None:
    """Replaces the plan's entry of every row-wise table."""
    # the kernel is named: left to itself TorchRec makes them dense parameters, outside the fused optimizer
    laid = row_wise(compute_kernel=EmbeddingComputeKernel.FUSED.value)
    tables = job.trained_tables.items()
    generators = {module_name(name): laid for name, table in tables if table.sharding == "row_wise"}
    for path, module in model.named_modules():
        if generators and isinstance(module, EmbeddingBagCollection):
            rows = construct_module_sharding_plan(
                _only(module, set(generators)), generators, local_size=local_world, world_size=world, device_type="cpu"
            )
            module_plan = plan.get_plan_for_module(path)
            assert isinstance(module_plan, EmbeddingModuleShardingPlan)
            module_plan.update(rows)


def _only(module: EmbeddingBagCollection, names: set[str]) -> EmbeddingBagCollection:
    configs = [config for config in module.embedding_bag_configs() if config.name in names]
    return EmbeddingBagCollection(configs, is_weighted=module.is_weighted(), device=torch.device("meta"))


def shard(model: nn.Module, job: JobConfig, device: torch.device) -> DistributedModelParallel:
    """The model with its tables sharded and initialised from the seed, its dense part replicated by DDP."""
    plan = sharding_plan(model, job, device)
    sharded = DistributedModelParallel(
        module=model,
        device=device,
        plan=plan,
        sharders=[sharder(job.embedding_optimizer, device)],
        # a static graph's first all-reduce is started by whatever first walks the graph, a task's own gradient included
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=not job.balance.measured),
    )
    initialise_tables(sharded, job)
    return sharded
