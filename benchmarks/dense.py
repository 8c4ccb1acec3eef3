"""The dense part alone: PLE's experts, gates and towers, forward and backward, in each form it could take.

    python benchmarks/dense.py                           # one thread on one core; 4 tasks, 2 levels of 2 + 1 [256, 128]
    python benchmarks/dense.py --compile                 # torch.compile as well: minutes of compiling
    python benchmarks/dense.py --device cuda --compile   # and CUDA graphs

Sides take turns in one run, on the same inputs and weights:

    plain       a plain looped implementation, written here: each expert a loop over its layers, each gate a product of
                its weights with the stacked experts
    fp32        Fulcrum's, as trained with train.precision=fp32
    bf16        Fulcrum's, as trained with train.precision=bf16: autocast up to the towers' last layer
    batched     Fulcrum's weights, but all experts of a level in one batched matrix product, in either precision
    compiled    fp32 and bf16 through torch.compile
    graphed     fp32 and bf16 as CUDA graphs

Before anything is timed, forward and gradients of the other fp32 forms are held against the plain one's. Claims on a
CPU: fp32 is at least level with plain, and bf16 at least 1.8 times plain where the CPU multiplies bf16.
"""

import argparse
import copy
import functools
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import claim, interleave, pin, rate, ratios, setting  # noqa: E402
from pipeline.archs import PLE  # noqa: E402
from pipeline.heads import Towers  # noqa: E402
from pipeline.train.precision import multiplies_bf16  # noqa: E402

LAYERS = [256, 128]
"""Of an expert."""


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/dense.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = out.add_argument
    add("--rounds", type=int, default=15, metavar="N", help="times each side is measured (%(default)s)")
    add("--steps", type=int, default=4, metavar="N", help="steps of a side in a round (%(default)s)")
    add("--rows", type=int, default=4096, metavar="N", help="of a step (%(default)s)")
    add("--inputs", type=int, default=128, metavar="N", help="width of the network's input (%(default)s)")
    add("--tasks", type=int, default=4, metavar="N")
    add("--task-experts", type=int, default=2, metavar="N", help="of each task, at each level (%(default)s)")
    add("--shared-experts", type=int, default=1, metavar="N")
    add("--threads", type=int, default=1, metavar="N", help="and cores, on a CPU (%(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--compile", action="store_true", help="measure torch.compile as well")
    return out


class Ours(nn.Module):
    """The architecture and the towers as DenseNetwork has them; the same weights every time."""

    def __init__(self, arguments: argparse.Namespace, bf16: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        experts = {"task_experts": arguments.task_experts, "shared_experts": arguments.shared_experts}
        self.ple = PLE(arguments.inputs, arguments.tasks, **experts, expert_layers=LAYERS, levels=2)
        self.towers, self.bf16 = Towers(LAYERS[-1], arguments.tasks, [32]), bf16

    def forward(self, x_BD: Tensor) -> Tensor:
        """The logits_BT, in fp32."""
        with torch.autocast(x_BD.device.type, torch.bfloat16, enabled=self.bf16):
            last_layers = self.towers.last_layers(self.ple(x_BD))
        return self.towers.logits(last_layers)


class Plain(nn.Module):
    """The same network over the same weights, written plainly; with `batched`, a product a level and layer."""

    def __init__(self, arguments: argparse.Namespace, bf16: bool = False, batched: bool = False) -> None:
        super().__init__()
        ours = Ours(arguments, bf16)
        self.ple, self.towers, self.bf16, self.batched = ours.ple, ours.towers, bf16, batched

    def forward(self, x_BD: Tensor) -> Tensor:
        """The logits_BT, in fp32."""
        with torch.autocast(x_BD.device.type, torch.bfloat16, enabled=self.bf16):
            return self._logits(x_BD)

    def _logits(self, x_BD: Tensor) -> Tensor:
        streams = [x_BD] * (len(self.towers.towers) + 1)
        for level in self.ple.levels:
            groups = [*level.task_experts, level.shared_experts]
            *own, shared = (_batched if self.batched else _looped)(groups, streams)
            seen = [[*group, *shared] for group in own]
            gates = list(level.task_gates)
            if level.shared_gate is not None:
                seen.append([expert_BH for group in [*own, shared] for expert_BH in group])
                gates.append(level.shared_gate)
            streams = [_gated(*each) for each in zip(gates, streams, seen, strict=False)]
        heads = zip(self.towers.towers, self.towers.outputs, streams, strict=True)
        return torch.cat([output(_mlp(tower, h_BH)) for tower, output, h_BH in heads], dim=1).float()


def _mlp(block: Any, x_BD: Tensor) -> Tensor:
    for layer in block.layers:
        x_BD = torch.relu(layer(x_BD))
    return x_BD


def _gated(gate: Any, x_BD: Tensor, experts: list[Tensor]) -> Tensor:
    weight_B1E = torch.softmax(gate(x_BD), dim=1).unsqueeze(1)
    return torch.matmul(weight_B1E, torch.stack(experts, dim=1).to(weight_B1E.dtype)).squeeze(1)


def _looped(groups: list[Any], streams: list[Tensor]) -> list[list[Tensor]]:
    return [[_mlp(expert, x_BD) for expert in group] for group, x_BD in zip(groups, streams, strict=True)]


def _batched(groups: list[Any], streams: list[Tensor]) -> list[list[Tensor]]:
    experts = [expert for group in groups for expert in group]
    x_EBD = torch.stack([x_BD for group, x_BD in zip(groups, streams, strict=True) for _ in group])
    for layers in zip(*(expert.layers for expert in experts), strict=True):
        weight_EDH = torch.stack([layer.weight for layer in layers]).transpose(1, 2)
        bias_E1H = torch.stack([layer.bias for layer in layers]).unsqueeze(1)
        x_EBD = torch.relu(torch.baddbmm(bias_E1H, x_EBD, weight_EDH))
    out = iter(x_EBD.unbind(0))
    return [[next(out) for _ in group] for group in groups]


class Bench:
    """The forms, their inputs, and a training step of each."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.steps, self.rows = arguments.steps, arguments.rows
        self.forms: dict[str, Any] = {
            "plain": Plain(arguments),
            "fp32": Ours(arguments, bf16=False),
            "bf16": Ours(arguments, bf16=True),
            "batched fp32": Plain(arguments, batched=True),
            "batched bf16": Plain(arguments, bf16=True, batched=True),
        }
        self.x_BD = torch.randn(arguments.rows, arguments.inputs, device=device, requires_grad=True)
        self.label_BT = torch.randint(0, 2, (arguments.rows, arguments.tasks), device=device).float()
        more = {name: Ours(arguments, bf16=name == "bf16") for name in ("fp32", "bf16")}
        for form in (*self.forms.values(), *more.values()):
            form.to(device)
        if arguments.compile:
            self.forms |= {f"compiled {name}": torch.compile(copy.deepcopy(form)) for name, form in more.items()}
        if device.type == "cuda":
            graphed = {name: torch.cuda.make_graphed_callables(form, (self.x_BD,)) for name, form in more.items()}
            self.forms |= {f"graphed {name}": form for name, form in graphed.items()}

    def step(self, name: str) -> Tensor:
        """Forward and backward; the logits."""
        self.forms[name].zero_grad(set_to_none=True)
        self.x_BD.grad = None
        logits_BT = self.forms[name](self.x_BD)
        F.binary_cross_entropy_with_logits(logits_BT, self.label_BT).backward()
        return logits_BT.detach()

    def side(self, name: str) -> int:
        """Some steps; the rows done."""
        for _ in range(self.steps):
            self.step(name)
        if self.x_BD.is_cuda:
            torch.cuda.synchronize()
        return self.steps * self.rows

    def check(self) -> int:
        """Raises where a form in fp32 computes something else than the plain one; the tensors compared."""
        told: dict[str, list[Tensor]] = {}
        for name in ("plain", "fp32", "batched fp32"):
            told[name] = [self.step(name), self.x_BD.grad, *(p.grad for p in self.forms[name].parameters())]
            for one, other in zip(told[name], told["plain"], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        return len(told["plain"])


def main() -> int:
    """Prints a side a line, then the claims."""
    arguments = parser().parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        pin(arguments.threads)
    torch.set_num_threads(arguments.threads)
    native = multiplies_bf16(device)
    print(setting(arguments, f"torch {torch.__version__}; bf16 {'native' if native else 'emulated'}"))
    if device.type == "cuda":
        print(f"device   {torch.cuda.get_device_name(device)}")
    bench = Bench(arguments, device)
    print(f"checked  {bench.check()} tensors, logits and gradients: fp32 and batched fp32 compute what plain does")
    results = interleave({name: functools.partial(bench.side, name) for name in bench.forms}, arguments.rounds)
    of, by = ("seconds", "the clock") if device.type == "cuda" else ("cpu", "CPU time")
    print(f"\n{f'by {by}':<16} {'rows/s':>12} {'of plain':>9}   rounds")
    for name in bench.forms:
        told = ratios(results, name, "plain", of)
        speed, median = rate(results[name], of), statistics.median(told)
        print(f"{name:<16} {speed:>12,.0f} {median:>9.2f}   {min(told):.2f} to {max(told):.2f}")
    if device.type == "cuda":
        return 0
    judged = [claim("fp32 is level with plain", results, "fp32", "plain", 1.0)]
    if native:
        judged.append(claim("bf16 over plain", results, "bf16", "plain", 1.8))
    print("\n" + "\n".join(words for words, _ in judged))
    return 0 if all(passed for _, passed in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
