"""Which parameters of the dense network the losses of several tasks share, and the tasks' own gradients there.

Shapes: T tasks, P shared dense parameters, in numbers.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.model import DenseNetwork, input_width
from schemas.job import JobConfig

CHUNK = 1 << 20
"""Columns of the T x P gradients that are widened to float64 at once."""


def own_gradients(part_T: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """gradients_TP of each task's part of its loss; those of all ranks add up to the gradient of L_k."""
    rows = []
    for part in part_T:
        found = torch.autograd.grad(part, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def own_gradients_at_once(part_T: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """As `own_gradients`, by one pass back for all tasks: T times its memory, the launches of one. For few rows."""
    each_TT = torch.eye(len(part_T), dtype=part_T.dtype, device=part_T.device)
    found = torch.autograd.grad(
        part_T, parameters, each_TT, retain_graph=True, materialize_grads=True, is_grads_batched=True
    )
    return torch.cat([gradient.flatten(1) for gradient in found], dim=1)


def gram_of(gradients_TP: Tensor) -> Tensor:
    """gram_TT of inner products, in float64."""
    tasks = len(gradients_TP)
    gram_TT = torch.zeros(tasks, tasks, dtype=torch.float64, device=gradients_TP.device)
    for chunk in gradients_TP.split(CHUNK, dim=1):
        gram_TT += chunk.double() @ chunk.double().T
    return gram_TT


@torch.no_grad()
def losses_reached(job: JobConfig, row_losses: Callable[[Tensor], Tensor]) -> dict[str, list[int]]:
    """The tasks whose losses each parameter of arch and towers reaches, by the parameter's name in the dense network.

    `row_losses` turns logits_BT into the loss_BT of each row and task. A parameter is made NaN in a network of zeros,
    and the losses that turn NaN are those it reaches, since 0 times NaN is NaN: no gate that happens to be shut and no
    unit that happens to be dead hides a way. Tensor by tensor: a stitch, with a row a task, is shared. (Autograd's own
    None tells nothing: representations and logits are stacked, so every parameter gets a gradient from every task, of
    zeros where there is no way.)
    """
    with torch.device("meta"):
        network = DenseNetwork(job)
    network = network.to_empty(device="cpu").eval()
    for tensor in network.state_dict().values():
        tensor.zero_()
    x = torch.zeros(1, *([len(job.tasks)] if job.separate_embeddings else []), input_width(job))

    def losses_T() -> Tensor:
        return row_losses(network.towers(network.arch(x)))[0]

    assert bool(losses_T().isfinite().all())
    out = {}
    for part in ("arch", "towers"):
        for name, parameter in network.get_submodule(part).named_parameters(part):
            parameter.fill_(math.nan)
            out[name] = losses_T().isnan().nonzero().flatten().tolist()
            parameter.zero_()
    return out
