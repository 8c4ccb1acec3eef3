"""What gates and experts do with some rows: mean gate weights, their entropy, the experts' load and likeness.

Shapes: S rows, E experts of a gate, H expert width, N numbers.

    weight      mean over rows of w_e, the gate's softmax
    entropy     mean over rows of -sum_e w_e log w_e / log E: 0 where one expert is taken, 1 where all count alike
    load        an expert's share of all the weight that the gates of its level give
    similarity  mean over rows of the cosine of two experts' outputs: 1 where they say the same
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from pipeline import keys
from pipeline.archs.arch import Arch, Mixture


class MixtureStatistics:
    """Watches one forward pass of an architecture, and adds up over its rows."""

    def __init__(self, arch: Arch, tasks: list[str]) -> None:
        self._mixtures: list[Mixture] = arch.mixtures(tasks)
        self._experts: dict[int, dict[str, nn.Module]] = {}
        for mixture in self._mixtures:
            self._experts.setdefault(mixture.level, {}).update(mixture.experts)
        self._pairs = {
            level: list(itertools.combinations(keys.shared_last(of), 2)) for level, of in self._experts.items()
        }
        self._seen: dict[nn.Module, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around the pass."""
        modules = [mixture.selector for mixture in self._mixtures]
        modules += [expert for of in self._experts.values() for expert in of.values()]
        hooks = [module.register_forward_hook(self._keep) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, module: nn.Module, _: object, output: Tensor) -> None:
        self._seen[module] = output.detach().double()

    def sums(self) -> list[Tensor]:
        """Sums over the rows that were seen, in the order of `values`; they add up over ranks."""
        out: list[Tensor] = []
        for mixture in self._mixtures:
            log_w_SE = self._seen[mixture.selector].log_softmax(dim=1)
            w_SE = log_w_SE.exp()
            entropy_S = -(w_SE * log_w_SE).sum(1) / max(math.log(w_SE.shape[1]), 1e-300)
            out += [w_SE.sum(0), entropy_S.sum(0, keepdim=True)]
        for level, pairs in self._pairs.items():
            unit = {name: _unit(self._seen[expert]) for name, expert in self._experts[level].items()}
            out += [(unit[a] * unit[b]).sum().reshape(1) for a, b in pairs]
        self._seen.clear()
        return out

    def values(self, mean_N: Iterator[float]) -> dict[str, float]:
        """The sums over all ranks, over the rows: by key."""
        out: dict[str, float] = {}
        load: dict[int, dict[str, float]] = {}
        gates: dict[int, int] = {}
        for mixture in self._mixtures:
            level, shares = mixture.level, load.setdefault(mixture.level, {})
            gates[level] = gates.get(level, 0) + 1
            for name, _ in mixture.experts:
                weight = next(mean_N)
                out[keys.gate(level, mixture.gate, name)] = weight
                shares[name] = shares.get(name, 0.0) + weight
            out[keys.gate_entropy(level, mixture.gate)] = next(mean_N)
        for level, shares in load.items():
            out |= {keys.load(level, name): share / gates[level] for name, share in shares.items()}
        for level, pairs in self._pairs.items():
            out |= {keys.similarity(level, a, b): next(mean_N) for a, b in pairs}
        return out


def _unit(h_SH: Tensor) -> Tensor:
    """Rows of length 1; of a row of zeros, zeros."""
    return h_SH / h_SH.norm(dim=1, keepdim=True).clamp_min(1e-300)
