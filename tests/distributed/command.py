"""Runs the job as a person does, through the launcher (forked warm: warm.py), and reads what it leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.distributed import warm

ROOT = Path(__file__).parents[2]
SECONDS = 240


def environment() -> dict[str, str]:
    """One thread a rank, no wandb key."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "FULCRUM", "RANK", "WORLD", "MASTER"))}
    return env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(config: Path, *overrides: str, flags: tuple[str, ...] = ("--nproc-per-node", "2")) -> list[str]:
    """The launcher's command line."""
    return [sys.executable, "-m", "jobs.launch", *flags, str(config), *overrides]


def run(config: Path, *overrides: str, flags: tuple[str, ...] = ("--nproc-per-node", "2")) -> str:
    """Runs the job to its end and returns what it printed; the job must end well."""
    done = warm.run(
        command(config, *overrides, flags=flags),
        env=environment(),
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(config: Path, *overrides: str, flags: tuple[str, ...] = ("--nproc-per-node", "2")) -> subprocess.Popen[str]:
    """Starts the job in a process group of its own, to be killed whole."""
    return warm.Popen(
        command(config, *overrides, flags=flags),
        env=environment(),
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """kill -9 to the launcher and every rank: torchrun puts its workers into sessions of their own."""
    ranks = descendants(process.pid)
    for pid in [process.pid, *ranks]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Process ids of everything the process has started."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def tensors(checkpoint: Path) -> dict[str, Any]:
    """Every tensor of a committed checkpoint, whole, by dotted name."""
    flat = checkpoint.parent / f"{checkpoint.name}.pt"
    dcp_to_torch_save(checkpoint, flat)
    return _flat(torch.load(flat, weights_only=False))


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in _flat(value, f"{name}/{key}").items()}
    return {name: tree} if isinstance(tree, torch.Tensor) else {}


def assert_bitwise(a: Path, b: Path) -> None:
    """The two checkpoints hold the same tensors, bit for bit."""
    left, right = tensors(a), tensors(b)
    assert sorted(left) == sorted(right)
    assert len(left) > 20
    for name in left:
        assert torch.equal(left[name], right[name]), f"{name} differs"
