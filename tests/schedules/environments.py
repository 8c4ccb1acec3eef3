"""Environments of the engines, one a lock file: made once a machine, outside of the checkout, and shared by all tests.

FULCRUM_TEST_ENVS names their folder; by default it is `fulcrum-test-envs` in the system's folder for temporary files.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
INSTALL_SECONDS = 600


def python_of(name: str) -> Path:
    """The interpreter of the environment that NAME.lock describes; makes it where it is not there."""
    lock = HERE / f"{name}.lock"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = envs() / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another test process may be making it
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, lock)
            (folder / "complete").touch()
    return folder / "bin" / "python"


def envs() -> Path:
    """Where they lie."""
    return Path(os.environ.get("FULCRUM_TEST_ENVS") or Path(tempfile.gettempdir()) / "fulcrum-test-envs")


def _make(folder: Path, lock: Path) -> None:
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    # a pip of its own would cost as long as some of these environments: this one's installs into it
    _said([str(base), "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    _said([*pip, "install", "-qq", "--progress-bar", "off", "--no-compile", "--no-deps", "-r", str(lock)])


def _said(command: list[str]) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
