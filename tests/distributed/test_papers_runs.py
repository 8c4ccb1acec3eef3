"""Each of the papers' experiments in its smoke run, from the data to the table."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.papers import census, kuairand
from benchmarks.papers.synthetic import SIDES
from tests.distributed import warm
from tests.distributed.command import ROOT, SECONDS, environment
from tests.distributed.test_compare import WARM

DATA = ROOT.parent / "shared" / "data"


def smoke(script: str, *more: str) -> str:
    """What the script prints in its smoke run."""
    command = [sys.executable, str(ROOT / "benchmarks/papers" / script), "--quick", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_smoke_of_the_synthetic_experiment(tmp_path: Path) -> None:
    told = smoke("synthetic.py", "--out", str(tmp_path))
    assert "gain ple" in told
    assert {path.name for path in tmp_path.iterdir()} == {"units", "synthetic.csv", "synthetic.html", "synthetic.svg"}
    lines = (tmp_path / "synthetic.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * len(SIDES) * 2
    again = smoke("synthetic.py", "--out", str(tmp_path))
    assert "4 of 4 units were done before" in again


@pytest.mark.parametrize(("experiment", "folder"), [(census, "census_income"), (kuairand, "kuairand_pure")])
def test_smoke_of_a_real_experiment(
    tmp_path: Path, experiment: ModuleType, folder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Ingested, two sides trained for some steps by the real command, trees beside them, the table."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"{folder} is not here")
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "sitecustomize.py").write_text(WARM)
    forked = environment()
    forked["PYTHONPATH"] += f":{tmp_path / 'warm'}"

    def command(words: Sequence[str]) -> None:
        started = [sys.executable, "-m", *words]
        done = warm.run(started, env=forked, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    monkeypatch.setattr("benchmarks.papers.experiment.command", command)
    monkeypatch.setattr(sys, "argv", ["", "--quick", "--data", str(DATA / folder), "--out", str(tmp_path / "out")])
    assert experiment.main() == 0
    told = capfd.readouterr().out
    assert "LightGBM, same columns" in told
    assert "gain over single_task" in told
