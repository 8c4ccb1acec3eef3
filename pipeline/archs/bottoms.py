"""Architectures of bottoms, each an MLP of x: one a task, one for all, some read by several tasks, or both kinds.

Shapes: B batch rows, D input width, T tasks, W width of a bottom, H width of a task's representation.

Source: the baselines of Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020, figure 1;
hard parameter sharing is Caruana, "Multitask Learning", Machine Learning 28, 1997.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.archs.arch import Arch, check_input, check_layers, check_tasks
from pipeline.axes import Axes, Axis, under
from pipeline.mlp import MLP


class SingleTask(Arch):
    """h_k = f_k(x): nothing is shared, as in a model a task.

    With `separate_embeddings` the input is x_BTD, the embeddings of a table a task: task k reads x_BTD[:, k].

    Raises ValueError for no task or no layer, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        separate_embeddings: bool = False,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        self.bottoms = _bottoms(tasks, in_dim, bottom_layers, activation, norm, dropout)
        self.separate_embeddings = separate_embeddings
        self.out_dims = [bottom_layers[-1]] * tasks

    def forward(self, x: Tensor) -> Tensor:
        """x_BD, or x_BTD with separate embeddings -> h_BTH."""
        check_input(x, "BTD" if self.separate_embeddings else "BD", len(self.bottoms) * self.separate_embeddings)
        own = [x[:, task] if self.separate_embeddings else x for task in range(len(self.bottoms))]
        return torch.stack([bottom(x_BD) for bottom, x_BD in zip(self.bottoms, own, strict=True)], dim=1)

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """Each bottom by its task."""
        return _by_task(self.bottoms, inputs, tasks)


class SharedBottom(Arch):
    """h_k = f(x) for every k: hard parameter sharing.

    Raises ValueError for no task or no layer, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        check_layers(bottom_layers, "bottom_layers", "a bottom")
        self.bottom = MLP(in_dim, bottom_layers, activation, norm, dropout)
        self.out_dims = [self.bottom.out_dim] * tasks

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH, the same for every task."""
        check_input(x_BD, "BD")
        return self.bottom(x_BD).unsqueeze(1).expand(-1, len(self.out_dims), -1)

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """The bottom: it belongs to no task."""
        return under("bottom", self.bottom.axes(inputs))


class Asymmetric(Arch):
    """h_k fuses f_k(x) and the f_j(x) of the tasks j that k reads, along a declared directed graph.

    `reads[k]` are the numbers of those tasks. `fusion` is "concat" (f_k first, then in the order of `reads[k]`), "sum"
    or "mean" (over f_k and those read). What is read is a bottom's output and not a fused one, so the graph may have
    circles: two tasks may read each other. Under "concat" widths differ: W (1 + the number read).

    Raises ValueError for `reads` that do not fit the tasks, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        reads: Sequence[Sequence[int]],
        fusion: Literal["concat", "sum", "mean"] = "concat",
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        if len(reads) != tasks:
            raise ValueError(f"reads has {len(reads)} lists for {tasks} tasks: give each task's, empty for none")
        for task, others in enumerate(reads):
            if not isinstance(others, Iterable):
                raise ValueError(f"reads is {reads!r}: give a list for each task, in their order")
            if any(other == task or not 0 <= other < tasks for other in others) or len(set(others)) < len(others):
                raise ValueError(f"reads[{task}] is {list(others)}: it takes numbers of other tasks, each once")
        if fusion not in ("concat", "sum", "mean"):
            raise ValueError(f"fusion {fusion!r} is not known: choose one of concat, sum, mean")
        self.bottoms = _bottoms(tasks, in_dim, bottom_layers, activation, norm, dropout)
        self.reads = [[task, *others] for task, others in enumerate(reads)]
        self.fusion = fusion
        width = bottom_layers[-1]
        self.out_dims = [width * len(read) if fusion == "concat" else width for read in self.reads]

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH, filled up with zeros beyond a task's own width."""
        check_input(x_BD, "BD")
        outputs = [bottom(x_BD) for bottom in self.bottoms]
        return torch.stack([self._fused([outputs[task] for task in read]) for read in self.reads], dim=1)

    def _fused(self, outputs: list[Tensor]) -> Tensor:
        if self.fusion == "concat":
            h_BW = torch.cat(outputs, dim=1)
            return F.pad(h_BW, (0, self.out_dim - len(outputs) * self.width))
        total_BW = torch.stack(outputs).sum(0)
        return total_BW / len(outputs) if self.fusion == "mean" else total_BW

    @property
    def width(self) -> int:
        """W."""
        return cast(MLP, self.bottoms[0]).out_dim

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """Each bottom by its task."""
        return _by_task(self.bottoms, inputs, tasks)


class Customized(Arch):
    """h_k = [f_s(x), f_k(x)]: a bottom that all tasks read beside each task's own; both of the same layers.

    Raises ValueError for no task or no layer, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        check_layers(bottom_layers, "bottom_layers", "a bottom")
        self.shared_bottom = MLP(in_dim, bottom_layers, activation, norm, dropout)
        self.bottoms = _bottoms(tasks, in_dim, bottom_layers, activation, norm, dropout)
        self.out_dims = [2 * bottom_layers[-1]] * tasks

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH."""
        check_input(x_BD, "BD")
        shared_BW = self.shared_bottom(x_BD)
        return torch.stack([torch.cat([shared_BW, bottom(x_BD)], dim=1) for bottom in self.bottoms], dim=1)

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """The shared bottom, and each task's own."""
        return under("shared_bottom", self.shared_bottom.axes(inputs)) | _by_task(self.bottoms, inputs, tasks)


def _bottoms(
    tasks: int, in_dim: int, layers: Sequence[int], activation: str, norm: str, dropout: float
) -> nn.ModuleList:
    check_layers(layers, "bottom_layers", "a bottom")
    return nn.ModuleList(MLP(in_dim, layers, activation, norm, dropout) for _ in range(tasks))


def _by_task(bottoms: nn.ModuleList, inputs: Axis, tasks: Sequence[str]) -> Axes:
    out: Axes = {}
    for task, bottom in zip(tasks, bottoms, strict=True):
        out |= under(f"bottoms.{task}", cast(MLP, bottom).axes(inputs))
    return out
