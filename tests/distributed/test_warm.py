"""What starts warm is as what a new interpreter runs: told by the process itself, of a launcher and of a rank."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import warm
from tests.distributed.command import ROOT, environment

PROBE = """
import atexit, json, logging, os, signal, sys, threading, warnings
atexit.register(lambda: print("at exit", flush=True))
# 2: what a shell starts in the background ignores SIGINT, and a rank's launcher does not
caught = [n for n in range(1, 65) if n not in (2, 9, 19, 32, 33) and callable(signal.getsignal(n))]
print(json.dumps({
    "name": __name__, "argv": sys.argv, "folder": os.getcwd(), "path": sys.path[:2],
    "environment": {k: v for k, v in os.environ.items() if k in ("PROBE", "PYTHONPATH", "HOME", "OMP_NUM_THREADS")},
    "files": sorted(n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    "caught": caught, "leads": os.getsid(0) == os.getpid(), "threads": threading.active_count(),
    "own": sorted(m for m in sys.modules if m.split(".")[0] in ("jobs", "tests")),
    "patches": getattr(sys.modules.get("schemas.load"), "PATCHES", 0),
    "logs": logging.root.manager.disable, "strict": any(f[0] == "error" for f in warnings.filters),
}))
end = sys.argv[1]
if end == "raise":
    raise KeyError("no such thing")
if end == "kill":
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
sys.exit(int(end) if end.isdigit() else end)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "probe.py").write_text(PROBE)
    return tmp_path


def ended(start: Any, home: Path, *command: str, **more: Any) -> tuple[int, str, str]:
    done = start(
        [sys.executable, "-m", *command],
        env=environment() | {"PROBE": "yes", "PYTHONPATH": f"{home}{os.pathsep}{ROOT}"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )
    return done.returncode, done.stdout, done.stderr


def told(out: str) -> dict[str, Any]:
    (line,) = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(line)


@pytest.mark.parametrize("end", ["0", "3", "raise", "kill", "said"])
def test_a_command_is_as_from_a_new_interpreter(home: Path, end: str) -> None:
    new = ended(subprocess.run, home, "probe", end, "b c", start_new_session=True)
    forked = ended(warm.run, home, "probe", end, "b c", start_new_session=True)
    assert told(forked[1]) == told(new[1])
    assert (forked[0], forked[1].endswith("at exit\n")) == (new[0], new[1].endswith("at exit\n"))
    assert forked[2].splitlines()[-1:] == new[2].splitlines()[-1:]
    assert forked[0] == {"0": 0, "3": 3, "raise": 1, "kill": -signal.SIGKILL, "said": 1}[end]


def test_a_rank_is_as_from_a_new_interpreter(home: Path) -> None:
    """torchrun's own: what it holds open, catches and has imported is not the rank's."""
    new = told(ended(subprocess.run, home, "probe", "0", start_new_session=True)[1])
    code, out, said = ended(warm.run, home, "torch.distributed.run", "--standalone", "-m", "probe", "0")
    assert code == 0, out + said
    assert told(out) == new
    assert out.endswith("at exit\n")


def test_what_a_test_patches_in_a_launcher_is_not_patched_in_its_ranks(home: Path) -> None:
    """Each process patches its own, once."""
    (home / "sitecustomize.py").write_text(
        "import schemas.load\nschemas.load.PATCHES = getattr(schemas.load, 'PATCHES', 0) + 1"
    )
    new = told(ended(subprocess.run, home, "probe", "0", start_new_session=True)[1])
    launcher = told(ended(warm.run, home, "probe", "0", start_new_session=True)[1])
    rank = told(ended(warm.run, home, "torch.distributed.run", "--standalone", "-m", "probe", "0")[1])
    assert (launcher, rank) == (new, new)
    assert new["patches"] == 1


def test_a_process_that_is_late_is_told_and_can_be_killed(home: Path) -> None:
    (home / "waits.py").write_text("import time; print('here', flush=True); time.sleep(60)")
    env = environment() | {"PYTHONPATH": f"{home}"}
    process = warm.Popen([sys.executable, "-m", "waits"], cwd=home, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.1)
    assert process.poll() is None
    process.terminate()
    assert process.communicate(timeout=60) == ("", None)
    assert process.returncode == -signal.SIGTERM
