"""The losses of a fixed small job, to five digits: a refactor that moves them is no refactor.

`python -m tests.golden.test_golden_losses` records them anew, for a change that means to move them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.ranks import run_ranks
from tests.distributed.training import train
from tests.logs import DAYS, set_key, small_config, write_log

FILE = Path(__file__).with_name("losses.json")
ARCHS = {"ple": {"levels": 2, "task_experts": 2, "shared_experts": 1}, "cgc": {"task_experts": 1, "shared_experts": 2}}


def golden_config(arch: str, folder: Path) -> dict[str, Any]:
    """The fixed job, and its log written into the folder."""
    write_log(folder / "log", DAYS, 300, seed=9)
    config = small_config(folder / "log", folder / "out")
    settings = {"arch": arch, "expert_layers": [16, 8], "tower_layers": [8], "activation": "gelu"}
    set_key(config, "model", settings | ARCHS[arch])
    set_key(config, "tasks.order.given", "cart")
    set_key(config, "data.funnel", "drop")
    set_key(config, "dense_optimizer", {"lr": 0.01, "warmup_steps": 3, "schedule": "linear"})
    return config


def recorded_losses(arch: str) -> list[list[float]]:
    """Each step's loss of each task, as recorded."""
    return json.loads(FILE.read_text())[arch]


@pytest.mark.parametrize("arch", ARCHS)
def test_losses_are_the_recorded_ones(tmp_path: Path, arch: str) -> None:
    found = run_ranks(2, train, 2, golden_config(arch, tmp_path))[0].losses
    np.testing.assert_allclose(found, recorded_losses(arch), rtol=1e-5)


if __name__ == "__main__":
    found = {}
    for name in ARCHS:
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = run_ranks(1, train, 1, golden_config(name, Path(scratch)))[0].losses
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {FILE}")
