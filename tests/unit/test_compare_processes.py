"""Runs as processes: how many at a time, on which GPUs, and what is said of those that fail."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from pipeline.compare import campaign, processes
from pipeline.compare.processes import Processes
from pipeline.compare.runs import Rows, Run
from schemas.errors import InputError
from tests.logs import small_job

STARTED = """#!/bin/sh
# python -m jobs.launch --nproc-per-node RANKS JOB
here=$(dirname "$5")
echo "$4 ${CUDA_VISIBLE_DEVICES-none} $OMP_NUM_THREADS" >> "$here/given"
n=$(ls "$here"/../../*/*/busy 2>/dev/null | wc -l)
touch "$here/busy"
echo "$n" > "$here/others"
echo "step      1        50 of 100 rows ( 50%)        10 rows/s      5s left"
trap 'echo stopped by SIGTERM; exit 75' TERM
BODY
rm "$here/busy"
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for Python: what it is given to run is the shell's."""
    script = tmp_path / "python"
    write(script, "sleep 0.3")
    monkeypatch.setattr(processes, "sys", types.SimpleNamespace(executable=str(script), platform="linux"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return script


def write(script: Path, body: str) -> None:
    script.write_text(STARTED.replace("BODY", body))
    script.chmod(0o755)


def runs(folder: Path, count: int) -> list[Run]:
    job = small_job("log")
    return [Run("a", seed, folder / "runs/a" / str(seed), job, Rows("x", "y", {}), 2) for seed in range(count)]


def given(run: Run) -> list[str]:
    return (run.folder / "given").read_text().split()


def test_so_many_at_a_time_each_on_gpus_of_its_own(command: Path, tmp_path: Path) -> None:
    todo, said = runs(tmp_path, 4), []
    failures = Processes(2, 2, ["0", "1", "2", "3"], said.append).run(todo, 3, lambda run: f"seed {run.seed} fine")
    assert failures == []
    others = [int((run.folder / "others").read_text()) for run in todo]
    assert max(others) == 1
    assert [given(run)[:2] for run in todo[:2]] == [["2", "0,1"], ["2", "2,3"]]
    assert {given(run)[1] for run in todo} == {"0,1", "2,3"}
    assert {given(run)[2] for run in todo} == {str(max(1, (os.cpu_count() or 1) // 4))}
    assert sum("started" in line for line in said) == 4
    done = [line for line in said if "done in" in line]
    assert done[-1].startswith("run 7 of 7  a, seed 3: done in ")
    assert "left" in done[0]
    assert "left" not in done[-1]


def test_on_a_cpu_no_gpu_is_named(command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (run,) = runs(tmp_path, 1)
    Processes(1, 2, [], lambda _: None).run([run], 0, lambda _: "")
    assert given(run) == ["2", "none", "3"]


def test_a_failure_is_told_and_the_others_go_on(command: Path, tmp_path: Path) -> None:
    write(command, 'case "$5" in */1/*) echo "error: nope: mend it"; exit 2;; */2/*) kill -9 $$;; esac')
    todo, said = runs(tmp_path, 4), []
    (tmp_path / "runs/a/1").mkdir(parents=True)
    (tmp_path / "runs/a/1/run.log").write_text("error: of an attempt before\n")
    failures = Processes(1, 1, [], said.append).run(todo, 0, lambda _: "fine")
    assert [(failure.run.seed, failure.why) for failure in failures] == [(1, "nope: mend it"), (2, "ended by SIGKILL")]
    assert "run 2 of 4  a, seed 1: FAILED: nope: mend it" in "\n".join(said)
    assert f"its log: {todo[1].log}" in "\n".join(said)
    assert [line.split("  ")[0] for line in said if "done in" in line] == ["run 1 of 4", "run 4 of 4"]


def test_a_run_whose_record_is_not_its_own_has_failed(command: Path, tmp_path: Path) -> None:
    def summary(run: Run) -> str:
        if run.seed == 0:
            raise InputError("is of another run")
        return "fine"

    failures = Processes(1, 1, [], lambda _: None).run(runs(tmp_path, 2), 0, summary)
    assert [(failure.run.seed, failure.why) for failure in failures] == [(0, "is of another run")]


def test_a_folder_that_cannot_be_written_is_told_and_the_others_go_on(command: Path, tmp_path: Path) -> None:
    todo, said = runs(tmp_path, 3), []
    (tmp_path / "runs/a").mkdir(parents=True)
    todo[0].folder.write_text("in the way")
    todo[1].log.mkdir(parents=True)
    failures = Processes(1, 1, [], said.append).run(todo, 0, lambda _: "fine")
    assert [(failure.run.seed, failure.why) for failure in failures] == [
        (0, f"{todo[0].folder}: cannot be started (File exists)"),
        (1, f"{todo[1].folder}: cannot be started (Is a directory)"),
    ]
    assert f"run 1 of 3  a, seed 0: FAILED: {failures[0].why}" in said
    assert sum("done in" in line for line in said) == 1


def test_how_long_it_takes_is_told_on_the_way(command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LINES", 0.15)
    said: list[str] = []
    Processes(1, 1, [], said.append).run(runs(tmp_path, 2), 1, lambda _: "")
    assert any(line == "  a, seed 0: step  1  50 of 100 rows ( 50%)  10 rows/s  5s left" for line in said), said
    assert any(re.fullmatch(r"  1 of 3 runs ended, about \d+s left", line) for line in said), said


def test_a_signal_stops_those_that_run_and_starts_no_more(command: Path, tmp_path: Path) -> None:
    write(command, "sleep 60 & wait")
    todo, said = runs(tmp_path, 3), []
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        deadline = time.monotonic() + 30
        while not all((run.folder / "busy").exists() for run in todo[:2]) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    at_work = Processes(2, 1, [], said.append)
    failures = at_work.run(todo, 0, lambda _: "fine")
    thread.join()
    assert at_work.stopped_by == signal.SIGTERM
    assert [(failure.run.seed, failure.why) for failure in failures] in (
        [(0, "stopped before its end"), (1, "stopped before its end")],
        [(1, "stopped before its end"), (0, "stopped before its end")],
    )
    assert not todo[2].folder.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_while_a_run_is_being_started_reaches_it(
    command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(command, "sleep 60 & wait")
    (run,) = runs(tmp_path, 1)

    def popen(*words: Any, **more: Any) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(*words, **more)
        deadline = time.monotonic() + 30
        while not (run.folder / "others").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)  # its trap is set
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT")}
    monkeypatch.setattr(processes, "subprocess", types.SimpleNamespace(Popen=popen, **names))
    failures = Processes(1, 1, [], lambda _: None).run([run], 0, lambda _: "fine")
    assert [failure.why for failure in failures] == ["stopped before its end"]
    assert "stopped by SIGTERM" in run.log.read_text()


ALONE = """
import sys, types
from pathlib import Path
from pipeline.compare import processes
from pipeline.compare.runs import Rows, Run
from tests.logs import small_job
folder = Path(sys.argv[1])
processes.sys = types.SimpleNamespace(executable=str(folder / "python"), platform="linux")
processes.Processes(1, 1, [], print).run(
    [Run("a", 0, folder / "runs/a/0", small_job("log"), Rows("x", "y", {}), 1)], 0, lambda _: ""
)
"""


def test_a_second_signal_ends_everything_at_once(command: Path, tmp_path: Path) -> None:
    write(command, "trap '' TERM; echo $$ > \"$here/pid\"; while :; do sleep 0.1; done")
    pid = tmp_path / "runs/a/0/pid"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)], cwd=root, env=os.environ)
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.02)
        run = Path("/proc") / pid.read_text().strip()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "it waits for a run that takes its time"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
    while run.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not run.exists()


def test_too_few_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert campaign._devices(3, 1) == ["4", "5", "7"]
    with pytest.raises(InputError, match="--jobs 2 x --ranks 2: take 4 GPUs, and 3 are visible"):
        campaign._devices(2, 2)
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert campaign._devices(9, 9) == []


def test_gpus_are_counted_as_the_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\necho "GPU 0: A"; echo "  MIG"; echo "GPU 1: B"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert campaign._devices(2, 1) == ["0", "1"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert campaign._devices(2, 1) == []
