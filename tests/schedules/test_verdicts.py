"""The verdict that the gates of Airflow and Dagster read."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.schedules.commands import SCHEDULES
from tests.schedules.environments import python_of
from tests.schedules.home import Home

READ = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("fulcrum_daily", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps(module.verdict(sys.argv[2])))
"""


@pytest.mark.parametrize("engine", ["airflow", "dagster"])
def test_it_is_that_of_the_last_attempt_at_the_day(tmp_path: Path, engine: str) -> None:
    home = Home(tmp_path)
    for name in ("2026-01-08", "2026-01-08.2", "2026-01-08.10", "2026-01-09"):
        (folder := home.output / "days" / name).mkdir(parents=True)
        (folder / "verdict.json").write_text(json.dumps({"blessed": True, "reasons": [name]}))
    (home.output / "days" / "2026-01-08.11").mkdir()
    file = SCHEDULES / engine / "fulcrum_daily.py"
    env = home.engine(AIRFLOW_HOME=str(home.path / "airflow"))
    command = [str(python_of(engine)), "-c", READ, str(file), "2026-01-08"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["reasons"] == ["2026-01-08.10"]
