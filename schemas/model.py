"""The dense network's settings: architecture, experts, towers."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.strict import Strict

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[list[Width], Field(min_length=1)]


class _ExpertModel(Strict):
    task_experts: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] = 2
    """Experts of each task: one number for all, or a number by task name."""
    shared_experts: Annotated[int, Field(ge=0)] = 1
    """Experts that every task's gate sees."""
    expert_layers: Widths = [128, 64]
    """Layer sizes of an expert."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Activation of experts and towers."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation inside experts and towers; batch statistics are those of the global batch."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside experts and towers."""
    gate_bias: bool = False
    """A bias in the gates; the paper has none."""
    tower_layers: list[Width] = [32]
    """Hidden layer sizes of each task's tower, before its one logit."""


class CGCConfig(_ExpertModel):
    """CGC: one extraction level (Tang et al., PLE, RecSys 2020, section 4.1)."""

    arch: Literal["cgc"]


class PLEConfig(_ExpertModel):
    """PLE: stacked extraction levels (Tang et al., PLE, RecSys 2020, section 4.2)."""

    arch: Literal["ple"]
    levels: Annotated[int, Field(ge=1)] = 2
    """Extraction levels."""


ModelConfig = Annotated[CGCConfig | PLEConfig, Field(discriminator="arch")]
