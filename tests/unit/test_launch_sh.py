"""launch.sh on its own: what it installs and when, the ranks and threads it picks, what it hands over.

The interpreter is a stub that writes down how it was called, so nothing is installed or trained here.
"""

import fcntl
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
[ "$1" = -c ] && exit 0 # asked for its version
printf '%s|' "$@" >> "$CALLS"; printf 'threads=%s safe=%s\\n' "$OMP_NUM_THREADS" "$PYTHONSAFEPATH" >> "$CALLS"
if [ "$1" = -m ] && [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""


class Clone:
    """A checkout whose path has a space, with a stub for python3 and, if asked, for nvidia-smi."""

    def __init__(self, folder: Path, gpus: int = 0) -> None:
        self.root = folder / "my clone"
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        (self.root / "jobs").mkdir()
        for name in ("launch.sh", "jobs/doctor.py"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._write("python3", STUB)
        smi = "".join(f"echo 'GPU {n}: a GPU'\n" for n in range(gpus)) or "exit 9\n"
        self._write("nvidia-smi", f"#!/bin/sh\n{smi}")
        self.calls = folder / "calls"

    def _write(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
        """Exit code, the interpreter's calls, stderr."""
        self.calls.write_text("")
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "CALLS": str(self.calls), "HOME": "/nowhere"}
        done = subprocess.run(
            [str(self.root / "launch.sh"), *arguments],
            env=env | environment,
            cwd=self.bin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, self.calls.read_text().splitlines(), done.stderr


def test_the_environment_is_made_once_and_again_when_a_lock_changes(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    lock = clone.root / "requirements" / "cpu.lock"
    code, calls, _ = clone.run("help")
    assert code == 0
    made, torch, rest, job = calls
    assert made.startswith(f"-m|venv|{clone.root}/.venv|")
    assert f"|-c|{lock}|torch|" in torch
    assert f"|--no-deps|-r|{lock}|" in rest
    assert job.startswith("-m|jobs|")
    assert len(clone.run("help")[1]) == 1, "kept"
    lock.write_text(lock.read_text() + "# changed\n")
    assert len(clone.run("help")[1]) == 4, "made again"
    dev = clone.run("test", "-k", "a b")[1]
    locks = "".join(f"-r|{clone.root}/requirements/{name}.lock|" for name in ("dev", "s3", "dashboard", "serve"))
    assert f"|--no-deps|{locks}" in dev[0]
    cores = os.cpu_count() or 1
    files = min(cores + 1, 8) if cores > 1 else 0
    assert dev[1].startswith(f"-m|pytest|-n|{files}|--dist|loadfile|--no-loadscope-reorder|-k|a b|")
    assert len(clone.run("test")[1]) == 1


@pytest.mark.parametrize("name", ["s3", "dashboard", "serve"])
def test_an_extra_is_installed_where_it_is_asked_for(tmp_path: Path, name: str) -> None:
    clone = Clone(tmp_path)
    clone.run("help")
    extra = f"|--no-deps|-r|{clone.root}/requirements/{name}.lock|"
    assert extra in clone.run("help", FULCRUM_EXTRAS=name)[1][0]
    assert len(clone.run("help", FULCRUM_EXTRAS=name)[1]) == 1, "kept"
    (clone.root / "requirements" / "cpu.lock").write_text("# changed\n")
    assert extra in clone.run("help", FULCRUM_EXTRAS=name)[1][3], "and again when the environment is made again"


def test_on_a_cpu_there_are_two_ranks_and_the_cores_are_shared(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    call = clone.run("train", "--nnodes", "2", "my job.yaml", "train.batch_size=64")[1][-1]
    threads = max(1, int(subprocess.check_output(["getconf", "_NPROCESSORS_ONLN"])) // 2)
    assert call == (
        f"-m|jobs.launch|train|--nproc-per-node|2|--nnodes|2|my job.yaml|train.batch_size=64|threads={threads} safe=1"
    )
    assert clone.run("train", "x.yaml", OMP_NUM_THREADS="7")[1][-1].endswith("threads=7 safe=1")


@pytest.mark.parametrize(("visible", "ranks"), [(None, 3), ("0,2", 2), ("", 2)])
def test_on_gpus_there_is_a_rank_for_each_that_is_visible(tmp_path: Path, visible: str | None, ranks: int) -> None:
    clone = Clone(tmp_path, gpus=3)
    calls = clone.run("train", "x.yaml", **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))[1]
    assert calls[-1].startswith(f"-m|jobs.launch|train|--nproc-per-node|{ranks}|x.yaml|")
    assert f"-r|{clone.root}/requirements/cuda.lock|" in calls[1], "no CPU torch comes first"


def test_without_a_word_it_generates_and_trains(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    generate, train = clone.run()[1][-2:]
    assert generate.startswith("-m|jobs.generate|--out|runs/generated/events|")
    assert train.startswith(f"-m|jobs.launch|train|--nproc-per-node|2|{clone.root}/jobs/configs/generated.yaml|")


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "work").write_text("years")
    code, calls, said = clone.run("help", FULCRUM_VENV=str(theirs))
    assert (code, calls) == (1, [])
    assert "is not an environment that launch.sh made; name another with FULCRUM_VENV" in said
    assert (theirs / "work").read_text() == "years"
    (tmp_path / "empty").mkdir()
    assert clone.run("help", FULCRUM_VENV=str(tmp_path / "empty"))[0] == 0


def test_an_unknown_job_and_a_missing_python_are_told_before_anything_is_installed(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    code, calls, said = clone.run("trian")
    assert (code, calls, said) == (2, [], "error: no job 'trian'; ./launch.sh help lists them\n")
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        clone._write(name, "#!/bin/sh\nexit 1\n")
    code, calls, said = clone.run("help")
    assert (code, calls) == (1, [])
    assert "error: no Python 3.11 or newer on the PATH" in said
    assert not (clone.root / ".venv").exists()


def test_a_second_launch_says_what_it_waits_for(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    with (clone.root / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release = threading.Timer(1, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        code, calls, said = clone.run("help")
        release.join(10)
    assert code == 0
    assert f"waiting for another launch to finish setting up {clone.root}/.venv" in said
    assert calls[-1].startswith("-m|jobs|")
