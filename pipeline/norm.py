"""Batch normalisation over the global batch: the statistics of all ranks' rows, on CPU and GPU alike.

Shapes: B local batch rows, D features, R ranks.

torch's SyncBatchNorm runs on CUDA alone, and per-rank statistics would make the model depend on how rows are split.
"""

import torch
import torch.distributed as dist
import torch.fx
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class GlobalBatchNorm1d(nn.Module):
    """x_BD -> y_BD, normalised by mean and variance of the rows of all ranks of the default process group.

    Parameters, buffers, their names and, on one rank, every number are those of `nn.BatchNorm1d` (Ioffe and Szegedy,
    ICML 2015); N ranks agree with one process over the concatenated batch, in the gradients too once the ranks'
    losses and weight gradients are summed. A rank may hold 0 rows, but every rank must call forward and backward.
    A globally empty batch passes through and leaves the running statistics alone.

    Raises ValueError in training on a global batch of one row, on every rank.

    torch.fx records the mode (training or not) at trace time, as it does for any Python value.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.dim, self.eps, self.momentum = dim, eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> y_BD; in evaluation by the running statistics, without communication."""
        if not self.training:
            return F.batch_norm(x_BD, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return _train_batch_norm(
            x_BD,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
            self.momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        """Return what print(model) shows between the brackets."""
        return f"{self.dim}, eps={self.eps}, momentum={self.momentum}"


@torch.fx.wrap  # one opaque node in a trace: the branches on ranks and rows below must not be frozen into it
def _train_batch_norm(
    x_BD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    running_mean_D: Tensor,
    running_var_D: Tensor,
    batches: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        y_BD, mean_D, var_D, rows = _GlobalBatchNorm.apply(x_BD, weight_D, bias_D, eps)
        if len(x_BD) < 2:  # a rank with two rows knows the batch has two: only here the count is read from the device
            _check_rows(int(rows))
        with torch.no_grad():
            # rows == 0 leaves the running statistics as they are, without a branch that reads the device.
            step = momentum * (rows > 0).to(mean_D.dtype)
            unbiased_D = var_D * (rows / (rows - 1).clamp(min=1)).to(var_D.dtype)
            running_mean_D += step.to(running_mean_D.dtype) * (mean_D.to(running_mean_D.dtype) - running_mean_D)
            running_var_D += step.to(running_var_D.dtype) * (unbiased_D.to(running_var_D.dtype) - running_var_D)
            batches += (rows > 0).to(batches.dtype)
        return y_BD
    _check_rows(len(x_BD))
    if len(x_BD) == 0:
        return F.batch_norm(x_BD, running_mean_D, running_var_D, weight_D, bias_D, False, 0.0, eps)
    batches += 1
    return F.batch_norm(x_BD, running_mean_D, running_var_D, weight_D, bias_D, True, momentum, eps)


def _check_rows(rows: int) -> None:
    if rows == 1:
        raise ValueError(
            "batch normalisation cannot be trained on one row: the global batch has 1; "
            "drop the last short batch, raise the batch size, or set norm to 'layer'"
        )


class _GlobalBatchNorm(torch.autograd.Function):
    """Normalise by global statistics; the backward pass sums the two gradient statistics over the ranks.

    Each rank's (rows, mean, sum of squared deviations) are gathered and merged (Chan et al. 1979): sums of squares
    would cancel where the mean is large beside the deviation.
    """

    @staticmethod
    def forward(ctx, x_BD, weight_D, bias_D, eps):  # type: ignore[no-untyped-def]
        dim = x_BD.shape[1]
        z_BD = x_BD.to(torch.promote_types(x_BD.dtype, torch.float32))
        local = z_BD.new_zeros(2 * dim + 1, dtype=torch.float64)  # small, and float64 makes the merge exact enough
        if len(x_BD) > 0:
            local_mean_D = z_BD.mean(0)
            local[0] = len(x_BD)
            local[1 : dim + 1] = local_mean_D
            local[dim + 1 :] = (z_BD - local_mean_D).square().sum(0)
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local)
        rows_R1, mean_RD, squares_RD = torch.stack(gathered).split([1, dim, dim], dim=1)
        rows = rows_R1.sum()
        divisor = rows.clamp(min=1)
        mean_D = (rows_R1 * mean_RD).sum(0) / divisor
        var_D = (squares_RD + rows_R1 * (mean_RD - mean_D).square()).sum(0) / divisor
        inverse_D = (var_D + eps).rsqrt().to(z_BD.dtype)
        normal_BD = (z_BD - mean_D.to(z_BD.dtype)) * inverse_D
        ctx.save_for_backward(normal_BD, weight_D, inverse_D, divisor)
        ctx.input_dtype = x_BD.dtype
        ctx.mark_non_differentiable(mean_D, var_D, rows)
        return (normal_BD * weight_D + bias_D).to(x_BD.dtype), mean_D, var_D, rows

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BD, *_):  # type: ignore[no-untyped-def]
        normal_BD, weight_D, inverse_D, divisor = ctx.saved_tensors
        grad_BD = grad_BD.to(normal_BD.dtype)
        bias_grad_D = grad_BD.sum(0)
        weight_grad_D = (grad_BD * normal_BD).sum(0)
        sums_2D = torch.stack([bias_grad_D, weight_grad_D])
        dist.all_reduce(sums_2D)
        mean_grad_D, mean_product_D = (sums_2D / divisor.to(sums_2D.dtype)).unbind(0)
        x_grad_BD = (grad_BD - mean_grad_D - normal_BD * mean_product_D) * (weight_D * inverse_D)
        # The weights' gradients stay this rank's own: data parallelism sums them, as it does every other parameter's.
        return x_grad_BD.to(ctx.input_dtype), weight_grad_D.to(weight_D.dtype), bias_grad_D.to(weight_D.dtype), None
