"""A warm start as a person runs it: refused with the line to write, told, tracked, and resumed from its own commits."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.train.checkpoint_store import CheckpointStore, Commit
from pipeline.train.warm_start import Lineage, lineage_of
from tests.distributed import warm
from tests.distributed.command import SECONDS, assert_bitwise, command, environment, run
from tests.logs import DAYS, small_config, write_config, write_log


def jobs(folder: Path) -> tuple[Path, Path]:
    """A parent that trains two days, and its child, with a feature and its table more, that trains the third."""
    write_log(folder / "log", DAYS, 128)
    parent: dict[str, Any] = small_config(folder / "log", "parent")
    parent["train"] |= {"checkpoint_every": 2, "max_steps": 4, "log_every": 2}
    child = {**parent, "output": "child", "warm_start": {"checkpoint": "parent/checkpoints"}}
    child["data"] = {**parent["data"], "train": {"from": DAYS[2], "to": DAYS[2]}, "eval": None}
    child["features"] = [*parent["features"], {"name": "band", "kind": "bucket", "column": "age", "boundaries": [40]}]
    child["tables"] = {**parent["tables"], "band": {"rows": 2, "dim": 4}}
    child["tracking"] = {"mode": "offline"}
    return write_config(folder / "parent.yaml", parent), write_config(folder / "child.yaml", child)


def newest(output: Path) -> Commit:
    commit = CheckpointStore(f"{output}/checkpoints").newest()
    assert commit is not None
    return commit


def tracked(output: Path) -> dict[str, Any]:
    """The wandb config of the one run under the output."""
    reader = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    env = environment() | {"WANDB_DIR": str(output)}
    read = subprocess.run(reader, env=env, capture_output=True, text=True, timeout=60, check=True)
    records = [json.loads(line) for line in read.stdout.splitlines()]
    (config,) = [record["run"]["config"]["update"] for record in records if record["type"] == "run"]
    return config


def test_a_child_is_refused_then_begins_then_goes_on_without_its_parent(tmp_path: Path) -> None:
    parent, child = jobs(tmp_path)
    run(parent)
    told = warm.run(command(child), env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert told.returncode == 2
    assert "write under warm_start\n  changes: [tables.band, features.band]" in told.stderr
    assert "Traceback" not in told.stderr

    changes = "warm_start.changes=[tables.band, features.band]"
    printed = run(child, changes, flags=("--nproc-per-node", "1"))
    begun = newest(tmp_path / "parent")
    assert "warm start from parent/checkpoints/step-00000004-" in printed
    assert "new, from the seed: tables.band" in printed
    assert "  tables.band: new\n" in printed
    assert "going on from" not in printed

    end = newest(tmp_path / "child")
    assert (end.progress.step, end.progress.samples) == (4, 128)
    manifest = Path(tmp_path, begun.path, "manifest.json")
    lineage = lineage_of(end)
    assert lineage is not None
    assert Path(lineage.path) == manifest.parent.resolve()
    assert (lineage.step, lineage.optimizer_steps) == (4, 4)
    assert lineage.manifest_sha256 == subprocess.check_output(["sha256sum", manifest], text=True).split()[0]
    config = tracked(tmp_path / "child")
    assert Lineage(**config["lineage"]) == lineage
    assert config["migration"]["changes"] == {"tables.band": "new", "features.band": "new"}
    assert config["migration"]["new"] == ["tables.band"]
    assert "arch.levels.0.shared_gate.weight" in config["migration"]["resized"]

    # cut off before its last commit, and the parent gone: it goes on from its own
    shutil.move(end.path, tmp_path / "end")
    shutil.rmtree(tmp_path / "parent")
    printed = run(child, changes, flags=("--nproc-per-node", "1"))
    assert "going on from step 2" in printed
    assert "warm start" not in printed
    again = newest(tmp_path / "child")
    assert lineage_of(again) == lineage
    assert_bitwise(tmp_path / "end", Path(again.path))
