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


def losses_reached(job: JobConfig, row_losses: Callable[[Tensor], Tensor]) -> dict[str, list[int]]:
    """The tasks whose losses each parameter of arch and towers reaches, by the parameter's name in the dense network.

    `row_losses` turns logits_BT into the loss_BT of each row and task. NaN is sent back from one logit at a time, and
    arrives wherever there is a way, since 0 times NaN is NaN: no gate that happens to be shut hides one, and every unit
    is alive, in a network of positive numbers. So it costs a pass back a task, however many parameters there are.
    Tensor by tensor: a stitch, with a row a task, is shared. (Autograd's own None tells nothing: representations and
    logits are stacked, so every parameter gets a gradient from every task, of zeros where there is no way.)
    """
    with torch.device("meta"):
        network = DenseNetwork(job)
    network = network.to_empty(device="cpu").eval()
    for tensor in network.state_dict().values():
        tensor.fill_(1 / tensor.shape[-1] if tensor.ndim > 1 else 1)  # means, so that nothing grows with the width
    tasks = len(job.tasks)
    x = torch.ones(1, *([tasks] if job.separate_embeddings else []), input_width(job))
    live = {
        name: parameter
        for part in ("arch", "towers")
        for name, parameter in network.get_submodule(part).named_parameters(part)
    }
    logits_T = network.towers(network.arch(x))[0]
    assert bool(logits_T.isfinite().all())
    reached: dict[str, set[int]] = {name: set() for name in live}
    for logit in range(tasks):
        nan_T = torch.zeros(tasks).index_fill(0, torch.tensor(logit), math.nan)
        losses = set(row_losses(nan_T.unsqueeze(0))[0].isnan().nonzero().flatten().tolist())
        found = torch.autograd.grad(logits_T, list(live.values()), nan_T, retain_graph=True, materialize_grads=True)
        for name, gradient in zip(live, found, strict=True):
            if bool(gradient.isnan().any()):
                reached[name] |= losses
    return {name: sorted(tasks) for name, tasks in reached.items()}
