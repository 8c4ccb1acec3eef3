"""The optimizers of one model as one: fused tables, replicated tables, dense network."""

import math
from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from schemas.job import DenseOptimizerConfig, EmbeddingOptimizerConfig, JobConfig


class Optimizers:
    """All of a sharded model's optimizers behind zero_grad and step."""

    def __init__(self, model: DistributedModelParallel, job: JobConfig) -> None:
        dense: dict[str, nn.Parameter] = {}
        replicated: dict[str, nn.Parameter] = {}
        for name, parameter in in_backward_optimizer_filter(model.named_parameters()):
            (replicated if "embedding_bags." in name else dense)[name] = parameter
        self._config = job.dense_optimizer
        self._dense = KeyedOptimizerWrapper(dense, lambda _: _adamw(dense, job.dense_optimizer))
        parts = [model.fused_optimizer, self._dense]
        if replicated:
            # TorchRec leaves a data-parallel table to the dense optimizer; here it gets the rule of the others
            parts.append(KeyedOptimizerWrapper(replicated, lambda params: _replica(params, job.embedding_optimizer)))
        self.all = CombinedOptimizer(parts)
        for part in parts[1:]:
            _allocate(part)

        self.dense_lr = job.dense_optimizer.lr
        """The dense network's learning rate in the present step."""

    def set_dense_lr(self, step: int, steps: int) -> None:
        """Sets the dense network's learning rate for the step, counted from 0, of `steps`."""
        self.dense_lr = learning_rate(self._config, step, steps)
        for group in self._dense.param_groups:
            group["lr"] = self.dense_lr


def learning_rate(config: DenseOptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up, then the declared decay to `final_lr_fraction` at the last step; a pure function of the step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, steps - 1 - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "constant":
        return config.lr
    falling = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * falling)


def _adamw(params: dict[str, nn.Parameter], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    balance = [parameter for name, parameter in params.items() if ".balance." in name]
    network = [parameter for name, parameter in params.items() if ".balance." not in name]
    groups: list[dict[str, Any]] = [{"params": network, "weight_decay": config.weight_decay}]
    if balance:  # a log variance has no reason to be small
        groups.append({"params": balance, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def _replica(params: list[nn.Parameter], config: EmbeddingOptimizerConfig) -> torch.optim.Optimizer:
    """The fused rule written for dense gradients: rows without a gradient stay as they are under all three."""
    if config.name == "rowwise_adagrad":
        return RowWiseAdagrad(params, lr=config.lr, eps=config.eps)
    if config.name == "adagrad":
        return torch.optim.Adagrad(params, lr=config.lr, eps=config.eps)
    assert config.name == "sgd", config.name  # the job's check refuses the rest
    return torch.optim.SGD(params, lr=config.lr)


@torch.no_grad()
def _allocate(optimizer: KeyedOptimizerWrapper) -> None:
    """Makes the lazily made state now, so that a checkpoint can be loaded into it; changes no parameter."""
    before = [p.detach().clone() for p in optimizer.params.values() if not isinstance(p, ShardedTensor)]
    optimizer.init_state()
    for parameter, value in zip(optimizer.params.values(), before, strict=True):
        parameter.copy_(value)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
    optimizer.zero_grad()
