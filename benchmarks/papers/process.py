"""MMoE's synthetic process: two regression tasks whose weights have a declared correlation.

    w1 = c u1,  w2 = c (p u1 + sqrt(1 - p^2) u2),  u1, u2 orthonormal
    y_k = w_k.x + sum_i sin(alpha_i w_k.x + beta_i) + e,  x ~ N(0, I_d),  e ~ N(0, 0.01)

Shapes: B rows, D inputs, M sines.

Sources: Ma et al., MMoE, KDD 2018, section 3.2; c = 1, m = 10 and alpha, beta ~ N(0, 1) are those of Tang et al., PLE,
RecSys 2020. Both tasks have the same alpha and beta.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

D, M, C, NOISE = 100, 10, 1.0, 0.1
"""Inputs, sines, length of the weights, standard deviation of e."""


@dataclasses.dataclass(frozen=True)
class Process:
    """One draw of the process: what is learnt."""

    weight_2D: Tensor
    alpha_M: Tensor
    beta_M: Tensor
    seed: int

    def rows(self, count: int, stream: int) -> tuple[Tensor, Tensor]:
        """x_BD and y_B2 of `count` rows; a pure function of the seed and the number of the stream."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + stream)
        x_BD = torch.randn(count, self.weight_2D.shape[1], generator=generator)
        noise_B2 = NOISE * torch.randn(count, 2, generator=generator)
        return x_BD, self.expected(x_BD) + noise_B2

    def expected(self, x_BD: Tensor) -> Tensor:
        """y_B2 without the noise."""
        z_B2 = x_BD @ self.weight_2D.T
        return z_B2 + torch.sin(z_B2[..., None] * self.alpha_M + self.beta_M).sum(-1)


def draw(seed: int, correlation: float, inputs: int = D, sines: int = M) -> Process:
    """The process of a seed; another correlation of the same seed changes w2 alone."""
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}: it must lie between 0 and 1")
    random = np.random.default_rng(seed)
    u_D2, _ = np.linalg.qr(random.standard_normal((inputs, 2)))
    u1, u2 = u_D2.T
    weight_2D = C * np.stack([u1, correlation * u1 + math.sqrt(1 - correlation**2) * u2])
    alpha, beta = random.standard_normal((2, sines))
    return Process(*(torch.tensor(part, dtype=torch.float32) for part in (weight_2D, alpha, beta)), seed)
