"""The dense network's settings: a class an architecture, with the settings that mean something to it alone."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.errors import InputError
from schemas.strict import Strict, nearest

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[list[Width], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
SCALED = ("bottom_layers", "expert_layers")
"""The settings that `match_parameters` scales."""


class _Model(Strict):
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Activation of experts, bottoms and towers."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation inside experts, bottoms and towers; batch statistics are those of the global batch."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside experts, bottoms and towers."""
    tower_layers: list[Width] = [32]
    """Hidden layer sizes of each task's tower, before its one logit."""
    match_parameters: Count | None = None
    """Scale the layers of experts or bottoms by one factor, so that the dense network has this many parameters."""

    def by_task(self, tasks: list[str]) -> dict[str, dict[str, Any]]:
        """The settings that are told by task, each spelt out for every task.

        Raises InputError where one names a task that is not there, or leaves out one that must be.
        """
        return {}

    def arguments(self, tasks: list[str]) -> dict[str, Any]:
        """The keyword arguments of the architecture's class, but for `in_dim` and `tasks`; raises as `by_task`."""
        return self.model_dump(exclude={"arch", "tower_layers", "match_parameters"})


class _Bottoms(_Model):
    bottom_layers: Widths = [128, 64]
    """Layer sizes of a bottom."""


class SingleTaskConfig(_Bottoms):
    """A bottom a task, nothing shared; with separate embeddings one model a task in one job."""

    arch: Literal["single_task"]
    separate_embeddings: bool = False
    """A copy of every table for each task, named TASK.TABLE, which it alone trains and reads."""


class SharedBottomConfig(_Bottoms):
    """One bottom for all tasks: hard parameter sharing (Caruana 1997)."""

    arch: Literal["shared_bottom"]


class AsymmetricConfig(_Bottoms):
    """A bottom a task, which declared other tasks read as well (Tang et al., PLE, RecSys 2020, figure 1)."""

    arch: Literal["asymmetric"]
    reads: Annotated[dict[str, list[str]], Field(min_length=1)]
    """Whose bottoms a task reads beside its own: {order: [click]}; circles are allowed."""
    fusion: Literal["concat", "sum", "mean"] = "concat"
    """How a task's own bottom and those it reads become its tower's input."""

    def by_task(self, tasks: list[str]) -> dict[str, dict[str, Any]]:
        """`reads`, empty for a task that reads none."""
        for name, read in self.reads.items():
            if name not in tasks:
                raise InputError(f"model.reads: no task '{name}'; {nearest(name, tasks)}")
            for other in read:
                if other not in tasks:
                    raise InputError(f"model.reads.{name}: no task '{other}'; {nearest(other, tasks)}")
                if other == name:
                    raise InputError(f"model.reads.{name}: a task reads its own bottom anyway; remove '{name}'")
                if read.count(other) > 1:
                    raise InputError(f"model.reads.{name}: '{other}' is named twice; keep one")
        return {"reads": {name: self.reads.get(name, []) for name in tasks}}

    def arguments(self, tasks: list[str]) -> dict[str, Any]:
        """With tasks by number."""
        reads = self.by_task(tasks)["reads"]
        return super().arguments(tasks) | {"reads": [[tasks.index(other) for other in reads[name]] for name in tasks]}


class CustomizedConfig(_Bottoms):
    """A shared bottom beside each task's own, concatenated (Tang et al., PLE, RecSys 2020, figure 1)."""

    arch: Literal["customized"]


class CrossStitchConfig(_Bottoms):
    """A network a task, linearly mixed after every layer (Misra et al., CVPR 2016)."""

    arch: Literal["cross_stitch"]


class SluiceConfig(_Bottoms):
    """Cross-stitch over subspaces, with mixed layers and an orthogonality penalty (Ruder et al., AAAI 2019)."""

    arch: Literal["sluice"]
    bottom_layers: Widths = [64, 64]
    """Layer sizes of a network: all equal, since their outputs are mixed."""
    subspaces: Count = 2
    """Parts of each layer that are mixed on their own; each width is a multiple of it."""
    orthogonality: Annotated[float, Field(ge=0)] = 0.01
    """lambda: weight of the penalty that keeps the subspaces apart."""
    init: Literal["imbalanced", "balanced"] = "imbalanced"
    """Mixtures at the start: .9 of their own and .1 of the rest, or all evenly."""

    @model_validator(mode="after")
    def _widths(self) -> "SluiceConfig":
        width = self.bottom_layers[0]
        if len(set(self.bottom_layers)) > 1:
            raise ValueError(f"bottom_layers {self.bottom_layers} are mixed with each other; give all one width")
        if width % self.subspaces:
            raise ValueError(f"bottom_layers of {width} do not part into {self.subspaces} equal subspaces")
        return self


class _Gated(_Model):
    expert_layers: Widths = [128, 64]
    """Layer sizes of an expert."""
    gate_bias: bool = False
    """A bias in the gates; the papers have none."""


class _Mixture(_Gated):
    experts: Count = 4
    """Experts that every gate sees, at each level."""


class MoEConfig(_Mixture):
    """Experts under one gate for all tasks (Ma et al., MMoE, KDD 2018, section 4.1)."""

    arch: Literal["moe"]


class MMoEConfig(_Mixture):
    """Experts under a gate a task (Ma et al., MMoE, KDD 2018, section 4.2)."""

    arch: Literal["mmoe"]


class MLMMoEConfig(_Mixture):
    """MMoE in levels, every gate with the network's input as selector (Tang et al., PLE, RecSys 2020, figure 1)."""

    arch: Literal["ml_mmoe"]
    levels: Count = 2
    """Levels of experts."""


class _Extraction(_Gated):
    task_experts: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] = 2
    """Experts of each task: one number for all, or a number by task name."""
    shared_experts: Annotated[int, Field(ge=0)] = 1
    """Experts that every task's gate sees."""

    def by_task(self, tasks: list[str]) -> dict[str, dict[str, Any]]:
        """`task_experts`."""
        counts = self.task_experts
        if isinstance(counts, int):
            counts = dict.fromkeys(tasks, counts)
        for name in counts:
            if name not in tasks:
                raise InputError(f"model.task_experts: no task '{name}'; {nearest(name, tasks)}")
        for name in tasks:
            if name not in counts:
                raise InputError(f"model.task_experts: task '{name}' is missing; give every task its number")
            if counts[name] + self.shared_experts == 0:
                raise InputError(f"model: task '{name}' has neither own nor shared experts; give it one")
        return {"task_experts": {name: counts[name] for name in tasks}}

    def arguments(self, tasks: list[str]) -> dict[str, Any]:
        """With a number for each task, in their order."""
        return super().arguments(tasks) | {"task_experts": list(self.by_task(tasks)["task_experts"].values())}


class CGCConfig(_Extraction):
    """CGC: one extraction level (Tang et al., PLE, RecSys 2020, section 4.1)."""

    arch: Literal["cgc"]


class PLEConfig(_Extraction):
    """PLE: stacked extraction levels (Tang et al., PLE, RecSys 2020, section 4.2)."""

    arch: Literal["ple"]
    levels: Count = 2
    """Extraction levels."""


ModelConfig = Annotated[
    SingleTaskConfig
    | SharedBottomConfig
    | AsymmetricConfig
    | CustomizedConfig
    | MoEConfig
    | MMoEConfig
    | CGCConfig
    | CrossStitchConfig
    | SluiceConfig
    | MLMMoEConfig
    | PLEConfig,
    Field(discriminator="arch"),
]
