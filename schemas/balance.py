"""How the tasks' losses are balanced: a class a method, with the settings that mean something to it alone.

Every method begins from the declared weights w_k = w0_k gamma_k^t of the tasks.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from schemas.strict import Strict


class _Balance(Strict):
    measured: ClassVar[bool] = False
    """Whether the method asks for the gradient of each task's own loss."""


class _Measured(_Balance):
    measured: ClassVar[bool] = True


class FixedBalance(_Balance):
    """The declared weights alone."""

    method: Literal["fixed"]


class UncertaintyBalance(_Balance):
    """A learnt log variance a task (Kendall et al., CVPR 2018)."""

    method: Literal["uncertainty"]


class GradNormBalance(_Measured):
    """Learnt factors that bring the tasks' gradients to like norms (Chen et al., GradNorm, ICML 2018)."""

    method: Literal["gradnorm"]
    alpha: Annotated[float, Field(ge=0, le=100)] = 1.5
    """Pull towards tasks that train slowly; 0 = equal norms."""
    lr: Annotated[float, Field(gt=0)] = 0.025
    """Learning rate of the factors."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps between updates of the factors; the others cost what `fixed` costs."""


class PCGradBalance(_Measured):
    """Conflicting gradients projected onto each other's normal planes (Yu et al., NeurIPS 2020)."""

    method: Literal["pcgrad"]


class MGDABalance(_Measured):
    """The convex combination of gradients of least norm (Sener and Koltun, NeurIPS 2018)."""

    method: Literal["mgda"]
    normalize: bool = False
    """Compare directions alone: every task's gradient is brought to length 1 first."""


BalanceConfig = Annotated[
    FixedBalance | UncertaintyBalance | GradNormBalance | PCGradBalance | MGDABalance,
    Field(discriminator="method"),
]
