"""The jobs' own words: help for each, the doctor's findings, the editor's schema."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jobs.doctor
from jobs.__main__ import PARTS
from schemas.job import json_schema

ROOT = Path(__file__).parents[2]
JOBS = sorted({p.stem for p in (ROOT / "jobs").glob("[a-z]*.py")} - PARTS)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_every_job() -> None:
    shown = python("jobs").stdout
    for job in JOBS:
        assert f"\n  {job} " in shown
    assert all(f"\n  {part} " not in shown for part in PARTS)


@pytest.mark.parametrize("job", [*JOBS, "launch"])
def test_every_job_has_help(job: str) -> None:
    done = python(f"jobs.{job}", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ./launch.sh ")
    assert done.stderr == ""


def test_schema_is_printed() -> None:
    assert json.loads(python("jobs.schema").stdout) == json_schema()


@pytest.mark.parametrize(
    ("installed", "cuda", "complaint"),
    [
        ({"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, False, None),
        ({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}, True, None),
        ({"torch": "2.11.0", "torchrec": "1.6.1", "fbgemm-gpu": "1.6.0"}, True, None),
        ({"torch": "2.13.0", "torchrec": "1.6.1", "fbgemm-gpu-cpu": "1.8.0"}, False, "not a triple known to work"),
        ({"torch": "2.13.0", "torchrec": "1.8.0"}, False, "a package of the triple is missing"),
        ({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, True, "the CPU build of fbgemm"),
    ],
)
def test_doctor_judges_the_triple(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], cuda: bool, complaint: str | None
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    lines, wrong = jobs.doctor.check_triple(cuda)
    assert len(lines) == 3
    assert len(wrong) == (complaint is not None)
    if complaint:
        assert complaint in wrong[0]


def test_doctor_finds_nothing_wrong_here() -> None:
    done = python("jobs.doctor")
    assert re.search(r"^precision +(bf16|fp32), where", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout
    assert "torchrec" in done.stdout
    assert done.stdout.endswith("nothing is wrong\n")


@pytest.mark.parametrize("arguments", [["--nnodes", "2"], ["--nodes", "2", "job.txt"]])
def test_a_train_command_without_a_config_or_with_a_wrong_flag_is_one_message(arguments: list[str]) -> None:
    done = python("jobs.launch", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no CONFIG.yaml, or a torchrun flag that it does not know (")
    assert done.stderr.count("\n") == 1


FAILING = """
from jobs.failure import reported
from schemas.errors import InputError
with reported():
    try:
        raise OSError("https://me:canary-password@store refuses canary-secret-key")
    except OSError as error:
        raise InputError("the log cannot be read") from error
"""


def test_a_ranks_record_on_disk_shows_no_credentials(tmp_path: Path) -> None:
    record = tmp_path / "error.json"
    secrets = {"AWS_SECRET_ACCESS_KEY": "canary-secret-key", "TORCHELASTIC_ERROR_FILE": str(record)}
    done = subprocess.run([sys.executable, "-c", FAILING], env=os.environ | secrets, capture_output=True, timeout=120)
    assert done.returncode == 2
    told = json.loads(record.read_text())["message"]
    assert told["message"] == "InputError: the log cannot be read"
    assert "https://***@store refuses ***" in told["extraInfo"]["py_callstack"]
    assert "canary" not in record.read_text()
    assert list(tmp_path.iterdir()) == [record]


LEAVING = """
import atexit, sys
from jobs.failure import leave
atexit.register(print, "at the end")
def job():
    print("done")
    sys.exit({code})
leave(job)
"""


@pytest.mark.parametrize(("code", "ends_with"), [("75", 75), ("None", 0), ("'a word'", 1)])
def test_a_rank_leaves_with_its_code_and_all_that_it_said(code: str, ends_with: int) -> None:
    script = LEAVING.format(code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (ends_with, "done\nat the end\n")


@pytest.mark.parametrize("stopping", ["", "SIGTERM"])
def test_a_stop_waits_for_no_node_that_may_have_failed(monkeypatch: pytest.MonkeyPatch, stopping: str) -> None:
    """torchrun's barrier is for jobs that have ended well on every node."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    from jobs.agent import Agent
    from jobs.interrupts import Interrupts

    waited = []
    monkeypatch.setattr(LocalElasticAgent, "_exit_barrier", lambda self: waited.append(self))
    agent = Agent.__new__(Agent)
    agent._interrupts = Interrupts()
    agent._interrupts.stopping = stopping
    agent._exit_barrier()
    assert waited == ([] if stopping else [agent])


def test_an_option_of_several_words_may_be_given_several_times() -> None:
    """argparse forgets what it was given before, unless told to extend it."""
    found = []
    for path in sorted((ROOT / "jobs").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
                named = {each.arg: getattr(each.value, "value", None) for each in call.keywords}
                if str(call.args[0].value).startswith("--") and named.get("nargs") in ("+", "*"):
                    found.append(call.args[0].value)
                    assert named.get("action") == "extend", f"{path.name}: {call.args[0].value}"
    assert "--accept" in found
