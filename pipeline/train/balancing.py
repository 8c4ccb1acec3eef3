"""The tasks' losses of one step -> the scalar to call backward on, by the job's method of balancing.

Shapes: T tasks, P shared dense parameters, in numbers.

`measured` methods take the gradient of each task's own loss first, of the dense parameters that several tasks share: T
more walks through the dense network's backward and one all-reduce of T x P. Tables are not walked into, so they stay
fused; all ranks hold the same T x P numbers, and so decide alike.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.balance import (
    GradNormState,
    UncertaintyState,
    cosines,
    gradnorm_factors,
    min_norm_factors,
    pcgrad_factors,
)
from pipeline.loss import LossSums, total_loss
from pipeline.model import DenseNetwork
from pipeline.train.shared_parameters import gram_of, losses_reached
from schemas.balance import GradNormBalance, MGDABalance
from schemas.errors import InputError
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Balanced:
    """What a step trains on."""

    loss: Tensor
    """The scalar to call backward on."""
    weights: list[float]
    """The weight of each task's loss in what the shared dense parameters train on, the same on all ranks."""
    cosine: float | None = None
    """The least cosine between the gradients of two tasks, where they were taken."""


class Balancing:
    """The declared weights alone, and what every method begins from."""

    def __init__(self, job: JobConfig, dense: DenseNetwork, row_losses: Callable[[Tensor], Tensor]) -> None:
        self._job = job

    def __call__(
        self, part_T: Tensor, sums: LossSums, weights: list[float], step: int, penalty: Tensor | None
    ) -> Balanced:
        """Balances the parts that `task_losses` gave; `weights` are the declared ones of this step, w0 gamma^t.

        What the penalty adds to the loss is added by the caller. Every rank must call it. Raises InputError on all of
        them alike where weights or gradients are not finite, before anything was trained.
        """
        return Balanced(total_loss(part_T, weights), weights)

    def detach(self) -> None:
        """Lets go of the network; no step may follow."""


class Uncertainty(Balancing):
    """L = sum_k w_k (exp(-s_k) L_k + s_k) over the tasks that have rows, s_k trained along.

    Kendall et al., CVPR 2018, equation 10, with one rule for every kind of loss. Its optimum is s_k = log L_k, where
    each task's loss weighs w_k / L_k.
    """

    def __init__(self, job: JobConfig, dense: DenseNetwork, row_losses: Callable[[Tensor], Tensor]) -> None:
        super().__init__(job, dense, row_losses)
        assert isinstance(dense.balance, UncertaintyState)
        self._state = dense.balance

    def __call__(
        self, part_T: Tensor, sums: LossSums, weights: list[float], step: int, penalty: Tensor | None
    ) -> Balanced:
        """See the base class."""
        s_T = self._state()
        declared_T = torch.tensor(weights, dtype=s_T.dtype, device=s_T.device)
        weight_T = declared_T * (-s_T).exp()
        effective = weight_T.tolist()
        _refuse_not_finite(self._job, effective, "weight")
        # a rank has its part of L_k, but all of s_k, and gradients are averaged
        with_rows_T = declared_T * (sums.rows_T > 0)
        return Balanced((weight_T * part_T).sum() * dist.get_world_size() + (with_rows_T * s_T).sum(), effective)


@dataclasses.dataclass(frozen=True)
class _Measure:
    """The tasks' own gradients, of all ranks together, and what the host has read of them."""

    gradients_TP: Tensor
    gram_TT: list[list[float]]
    rows_T: list[float]
    loss_T: list[float]
    own: list[tuple[Tensor, ...]]
    """Of each task, this rank's part of the gradients of the parameters that it alone reaches, where they were asked
    for."""

    def scaled(self, weights: Sequence[float]) -> list[list[float]]:
        """The inner products of w_k g_k."""
        rows = zip(weights, self.gram_TT, strict=True)
        return [[a * b * product for b, product in zip(weights, row, strict=True)] for a, row in rows]


class _Measured(Balancing):
    """What needs the gradient of each task's own loss."""

    def __init__(self, job: JobConfig, dense: DenseNetwork, row_losses: Callable[[Tensor], Tensor]) -> None:
        super().__init__(job, dense, row_losses)
        reached = losses_reached(job, row_losses)
        live = dict(dense.named_parameters())
        self._shared = [live[name] for name, tasks in reached.items() if len(tasks) > 1]
        self._own = [[live[n] for n, tasks in reached.items() if tasks == [k]] for k in range(len(job.tasks))]
        if not self._shared:
            raise InputError(
                f"balance.method: '{job.balance.method}' works on dense parameters that several tasks share, and this "
                f"'{job.model.arch}' has none; use fixed or uncertainty, or another model.arch"
            )
        if job.train.compile:
            # compiled backwards otherwise reuse what the forward left for the first walk
            import torch._functorch.config as functorch

            functorch.donated_buffer = False

    def _measure(self, part_T: Tensor, sums: LossSums, own: bool = False) -> _Measure:
        rows, kept = [], []
        for task in range(len(part_T)):
            wanted = self._shared + (self._own[task] if own else [])
            found = torch.autograd.grad(part_T[task], wanted, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in found[: len(self._shared)]]))
            kept.append(found[len(self._shared) :])
        gradients_TP = torch.stack(rows)
        dist.all_reduce(gradients_TP)  # parts add up: the gradient of L_k itself
        tasks = len(rows)
        gram_TT = gram_of(gradients_TP)
        told = torch.cat([gram_TT.flatten(), sums.rows_T, sums.mean_T]).tolist()
        gram = [told[k * tasks : (k + 1) * tasks] for k in range(tasks)]
        _refuse_not_finite(self._job, [row[k] for k, row in enumerate(gram)], "gradient")
        return _Measure(gradients_TP, gram, told[-2 * tasks : -tasks], told[-tasks:], kept)


class GradNorm(_Measured):
    """w_k times a factor a task, learnt so that the gradients of factor_k L_k come to like norms.

    The norm is that over all shared dense parameters. The factors begin at 1; those of the tasks that take part in a
    step keep their sum, which is T where all do. w_k stands outside, so that it stays a priority of the user's and is
    not levelled out.
    """

    def __init__(self, job: JobConfig, dense: DenseNetwork, row_losses: Callable[[Tensor], Tensor]) -> None:
        super().__init__(job, dense, row_losses)
        assert isinstance(dense.balance, GradNormState)
        assert isinstance(job.balance, GradNormBalance)
        self._state, self._config = dense.balance, job.balance

    def __call__(
        self, part_T: Tensor, sums: LossSums, weights: list[float], step: int, penalty: Tensor | None
    ) -> Balanced:
        """See the base class. The factors that this step measures are those of the next."""
        factors, first = self._state()
        effective = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
        least = None
        if step % self._config.every == 0:
            measure = self._measure(part_T, sums)
            least = min(cosines(measure.gram_TT), default=None)
            self._learn(measure, weights, factors, first)
        return Balanced(total_loss(part_T, effective), effective, least)

    def _learn(self, measure: _Measure, weights: list[float], factors: list[float], first: list[float]) -> None:
        """A task without rows or weight, and one whose loss was never above 0, keeps its factor."""
        first = [known or loss for known, loss in zip(first, measure.loss_T, strict=True)]
        told = [k for k in range(len(first)) if measure.rows_T[k] > 0 and weights[k] > 0 and first[k] > 0]
        if told:
            norms = [math.sqrt(measure.gram_TT[k][k]) for k in told]
            ratios = [measure.loss_T[k] / first[k] for k in told]
            stepped = gradnorm_factors([factors[k] for k in told], norms, ratios, self._config.alpha, self._config.lr)
            # among themselves: what the others have they keep, and all together come to T
            kept = len(factors) if len(told) == len(factors) else sum(factors[k] for k in told)
            own = dict(zip(told, stepped, strict=True))
            factors = [own[k] * kept / sum(stepped) if k in own else factor for k, factor in enumerate(factors)]
        self._state.write(factors, first)


class _Replacing(_Measured):
    """What gives some parameters another gradient than that of the scalar, within the one backward of the step.

    By a hook on the parameter, which comes before data parallelism averages the gradient over ranks.
    """

    def __init__(self, job: JobConfig, dense: DenseNetwork, row_losses: Callable[[Tensor], Tensor]) -> None:
        super().__init__(job, dense, row_losses)
        self._next: dict[nn.Parameter, Tensor] = {}
        self._hooks = [
            parameter.register_hook(lambda gradient, mine=parameter: self._next.pop(mine, gradient))
            for parameter in dense.parameters()
        ]

    def detach(self) -> None:
        """See the base class."""
        for hook in self._hooks:
            hook.remove()

    def _replace(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], penalty: Tensor | None) -> None:
        """In the next backward these get `gradients`, and what the penalty adds."""
        if penalty is not None and parameters:
            added = torch.autograd.grad(penalty, parameters, retain_graph=True, materialize_grads=True)
            gradients = [gradient + more for gradient, more in zip(gradients, added, strict=True)]
        self._next = dict(zip(parameters, gradients, strict=True))


class PCGrad(_Replacing):
    """The gradients of w_k L_k, each projected off those it conflicts with, added up: for the shared dense parameters.

    Tables and a task's own parameters get the gradient of sum_k w_k L_k. A task's projections go by the others in an
    order drawn from seed and step alone.
    """

    def __call__(
        self, part_T: Tensor, sums: LossSums, weights: list[float], step: int, penalty: Tensor | None
    ) -> Balanced:
        """See the base class."""
        measure = self._measure(part_T, sums)
        gram = measure.scaled(weights)
        drawn = random.Random((self._job.seed << 32) + step)
        tasks = range(len(weights))
        orders = [drawn.sample([k for k in tasks if k != task], len(tasks) - 1) for task in tasks]
        effective = [weight * c for weight, c in zip(weights, pcgrad_factors(gram, orders), strict=True)]
        gradient_P = measure.gradients_TP.new_tensor(effective) @ measure.gradients_TP
        pieces = gradient_P.split([parameter.numel() for parameter in self._shared])
        self._replace(self._shared, [g.view_as(p) for g, p in zip(pieces, self._shared, strict=True)], penalty)
        return Balanced(total_loss(part_T, weights), effective, min(cosines(gram), default=None))


class MGDA(_Replacing):
    """sum_k alpha_k w_k L_k, alpha that of least norm over the shared dense parameters.

    All that tasks share follows it, tables included. A task's own parameters get the gradient of w_k L_k. A task
    without rows, weight or gradient takes no part: its zero would be the point of least norm.
    """

    def __call__(
        self, part_T: Tensor, sums: LossSums, weights: list[float], step: int, penalty: Tensor | None
    ) -> Balanced:
        """See the base class."""
        assert isinstance(self._job.balance, MGDABalance)
        measure = self._measure(part_T, sums, own=True)
        gram = measure.scaled(weights)
        told = [k for k in range(len(weights)) if measure.rows_T[k] > 0 and gram[k][k] > 0]
        scale = [1 / math.sqrt(gram[k][k]) if self._job.balance.normalize else 1.0 for k in told]
        inner = [
            [a * b * gram[k][j] for b, j in zip(scale, told, strict=True)] for a, k in zip(scale, told, strict=True)
        ]
        alphas = [a * b for a, b in zip(scale, min_norm_factors(inner), strict=True)] if told else []
        effective = [0.0 for _ in weights]
        for k, alpha in zip(told, alphas, strict=True):
            effective[k] = weights[k] * alpha / sum(alphas)
        own = [parameter for parameters in self._own for parameter in parameters]
        world = dist.get_world_size()  # this rank's part: data parallelism averages them over ranks
        gradients = [weight * world * g for weight, mine in zip(weights, measure.own, strict=True) for g in mine]
        self._replace(own, gradients, penalty)
        return Balanced(total_loss(part_T, effective), effective, min(cosines(gram), default=None))


METHODS: dict[str, type[Balancing]] = {
    "fixed": Balancing,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "mgda": MGDA,
}


def balancing(job: JobConfig, dense: DenseNetwork, row_losses: Callable[[Tensor], Tensor]) -> Balancing:
    """The job's method over the live dense network; `row_losses` turns logits_BT into loss_BT.

    A task alone has nobody to be balanced with: it keeps its weight under the methods that compare gradients. Raises
    InputError for those where no dense parameter is shared.
    """
    config = job.balance
    method = Balancing if config.measured and len(job.tasks) == 1 else METHODS[config.method]
    return method(job, dense, row_losses)


def _refuse_not_finite(job: JobConfig, values: Sequence[float], what: str) -> None:
    broken = [f"'{task.name}'" for task, value in zip(job.tasks, values, strict=True) if not math.isfinite(value)]
    if broken:
        raise InputError(
            f"balance: the {what} of this step is not finite, for task {', '.join(broken)}; nothing was trained on it. "
            "Lower dense_optimizer.lr or embedding_optimizer.lr and name another output"
        )
