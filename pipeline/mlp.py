"""The one feed-forward block: experts and towers are made of it.

Shapes: B batch rows, D input width, H output width.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pipeline.axes import Axes, Axis, linear, plain, under
from pipeline.norm import GlobalBatchNorm1d

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
NORMS: dict[str, type[nn.Module]] = {"none": nn.Identity, "batch": GlobalBatchNorm1d, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """x_BD -> y_BH: for each size a linear layer, the normalisation, the activation, dropout.

    `layer_sizes` are the widths of the layers in order, H the last; none at all is the identity (H = D). `norm` is
    "none", "batch" (statistics of the global batch, see GlobalBatchNorm1d) or "layer".

    Raises ValueError for a size below 1, an unknown activation or normalisation, or dropout outside [0, 1).
    """

    def __init__(
        self,
        in_dim: int,
        layer_sizes: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *layer_sizes]
        if min(sizes) < 1:
            raise ValueError(f"layer sizes {sizes} (input first): each must be at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} is not known: choose one of {', '.join(NORMS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}: it must be at least 0 and below 1")
        self.out_dim = sizes[-1]
        # Batch normalisation takes the mean out again, so a bias before it would never learn.
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=norm != "batch") for before, after in pairwise(sizes))
        self.norms = nn.ModuleList(NORMS[norm](size) for size in layer_sizes)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> y_BH."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x_BD = self.dropout(self.activation(norm(layer(x_BD))))
        return x_BD

    def axes(self, inputs: Axis | None = None) -> Axes:
        """The block's tensors; `inputs` labels its D inputs."""
        first = under("layers.0", linear(self.layers[0], inputs)) if len(self.layers) else {}
        return plain(self) | first
