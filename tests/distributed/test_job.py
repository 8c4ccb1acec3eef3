"""The job as a person runs it: torchrun, checkpoints, resume after kill -9, two agents, the wandb record."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs import ports
from pipeline.dashboard.panels import keys_of, sections
from pipeline.journal import attempts, series
from pipeline.keys import logged_keys, sometimes
from pipeline.tracking import git_revision
from pipeline.train.checkpoint import Checkpoints
from schemas.load import load_job
from tests.distributed import warm
from tests.distributed.audit_job import FOLDER, STEP_SECONDS, audited
from tests.distributed.command import SECONDS, assert_bitwise, command, descendants, environment, kill_all, run, start
from tests.faults.kills import trains
from tests.logs import DAYS, set_key, small_config, write_config, write_log
from tests.workspaces import untold_keys

STEPS = 120
BATCH = 64
EVERY = 40


TEARDOWN = """
import os

class Told:
    def __del__(self, open=open, environ=os.environ):
        open(f"{environ['TEARDOWN']}/rank-{environ.get('RANK')}", "w").close()

told = Told()
"""
"""Leaves a file as the interpreter is torn down."""


@dataclass
class Finished:
    """A job that ran to its end on two ranks."""

    config: Path
    output: Path
    printed: str


def write_job(folder: Path) -> Path:
    """A job of STEPS steps that tracks offline."""
    write_log(folder / "log", DAYS[:1], STEPS * BATCH - 10, seed=2, row_group_rows=1000, files_per_day=3)
    write_log(folder / "log", DAYS[1:], 100)
    config = small_config(folder / "log", "out")
    changes = {
        "data.train": {"from": DAYS[0], "to": DAYS[0]},
        "data.eval": {"from": DAYS[2], "to": DAYS[2]},
        "data.shuffle_rows": 2000,
        "model.dropout": 0.2,
        "tables.user.sharding": "row_wise",
        "tables.city.sharding": "data_parallel",
        "tasks.cart.decay": 0.99,
        "dense_optimizer": {"lr": 0.002, "warmup_steps": 10, "schedule": "cosine"},
        "train.batch_size": BATCH,
        "train.log_every": 10,
        "train.checkpoint_every": EVERY,
        "tracking": {"mode": "offline", "project": "tests", "group": "the-group"},
    }
    for key, value in changes.items():
        set_key(config, key, value)
    return write_config(folder / "job.yaml", config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("job")
    config = write_job(folder)
    (folder / "teardown").mkdir()
    (folder / "teardown" / "sitecustomize.py").write_text(TEARDOWN)
    env = environment() | {"TEARDOWN": str(folder / "teardown")}
    env["PYTHONPATH"] += f":{folder / 'teardown'}"
    # from a new interpreter, which is the whole of what a person runs; the other jobs here start warm
    done = subprocess.run(command(config), env=env, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return Finished(config, folder / "out", done.stdout)


def test_no_rank_tears_its_interpreter_down(finished: Finished) -> None:
    """A thread of gloo's that lets go of a tensor meanwhile would end a finished job with SIGABRT."""
    told = {path.name for path in (finished.output.parent / "teardown").glob("rank-*")}
    assert "rank-None" in told, "the launcher does"
    assert not told & {"rank-0", "rank-1"}


def last(output: Path) -> Path:
    commit = Checkpoints(output / "checkpoints", 1).newest()
    assert commit is not None
    assert commit.progress.step == STEPS
    return Path(commit.path)


def test_it_says_how_it_goes_and_where_things_lie(finished: Finished) -> None:
    lines = finished.printed.splitlines()
    progress = [line for line in lines if line.startswith("step ")]
    assert len(progress) == STEPS // 10
    for word in ("rows/s", "left", "AUC click", "cart", "fav", "order", f"of {STEPS * BATCH - 10:,} rows"):
        assert word in progress[-1]
    assert "(100%)" in progress[-1]
    table = finished.printed[finished.printed.index("task ") :]
    for row in ("click", "cart", "fav", "order", "cart (joint)", "fav (joint)", "order (joint)"):
        assert f"\n{row}  " in table
    assert str(last(finished.output).relative_to(finished.config.parent)) in finished.printed
    assert "wandb leet" in finished.printed


def test_checkpoints_are_whole_and_the_oldest_go(finished: Finished) -> None:
    folders = sorted(p.name for p in (finished.output / "checkpoints").iterdir() if p.is_dir())
    assert [name[: -len("-00000000")] for name in folders] == [f"step-{n:08d}" for n in (EVERY, 2 * EVERY, STEPS)]
    for step in (EVERY, 2 * EVERY, STEPS):
        assert f"\ncheckpoint step {step}: blocked " in finished.printed
    manifest = json.loads((last(finished.output) / "manifest.json").read_text())
    assert manifest["progress"] == {"step": STEPS, "epoch": 1, "rows_done": 0, "samples": STEPS * BATCH - 10}
    on_disk = {p.name: p.stat().st_size for p in last(finished.output).iterdir() if p.name != "manifest.json"}
    assert {name: told["bytes"] for name, told in manifest["files"].items()} == on_disk


def test_the_same_command_again_does_not_train_on(finished: Finished) -> None:
    before = sorted(p.name for p in (finished.output / "checkpoints").iterdir())
    printed = run(finished.config, "tracking.mode=disabled")
    assert "trained to its end already" in printed
    assert "step  " not in printed
    assert (
        finished.printed[finished.printed.index("task ") :].splitlines()[:9]
        == (printed[printed.index("task ") :].splitlines()[:9])
    ), "the same metrics from the checkpoint"
    assert sorted(p.name for p in (finished.output / "checkpoints").iterdir()) == before


def test_kill_9_and_the_same_command_ends_with_the_same_weights(finished: Finished) -> None:
    overrides = ("output=killed", "tracking.mode=disabled")
    process = start(finished.config, *overrides)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {EVERY + 20:>6}"):  # between the first checkpoint and the second
            break
    kill_all(process)
    output = finished.config.parent / "killed"
    commit = Checkpoints(output / "checkpoints", 1).newest()
    assert commit is not None
    assert EVERY <= commit.progress.step < STEPS
    # what a kill inside a save leaves behind: a directory without a manifest is never read
    torn = output / "checkpoints" / f"step-{STEPS:08d}-0000000a"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half")
    printed = run(finished.config, *overrides)
    assert f"going on from step {commit.progress.step}" in printed
    assert_bitwise(last(output), last(finished.output))


def listening(pid: int) -> set[int]:
    """The ports that the process listens at."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [Path(f"/proc/{pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
    entries = [line.split() for table in tables for line in table.splitlines()]
    found = [e[1] for e in entries if e[3] == "0A" and f"socket:[{e[9]}]" in sockets]
    return {int(address.rpartition(":")[2], 16) for address in found}


def lowest_given() -> int:
    return int(ports.RANGE.read_text().split()[0])


def test_one_rank_killed_ends_the_job_with_one_message(finished: Finished) -> None:
    process = start(finished.config, "output=one-killed", "tracking.mode=disabled")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    ranks = descendants(process.pid)
    assert len(ranks) == 2
    stores = [port for rank in ranks for port in listening(rank) if ports.LOWEST <= port < lowest_given()]
    assert len(stores) == 1, "the ranks' store is where the system puts nothing of its own"
    os.kill(ranks[1], signal.SIGKILL)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: local rank 1" in rest
    assert "ended with exit code -9" in rest
    assert "Traceback" not in rest


def test_ranks_do_not_outlive_their_launcher(finished: Finished, tmp_path: Path) -> None:
    """In a step of minutes, which they would end in peace."""
    process = warm.Popen(
        audited(["--nproc-per-node", "2", str(finished.config), "output=orphans", "tracking.mode=disabled"]),
        env=environment() | {FOLDER: str(tmp_path), STEP_SECONDS: str(SECONDS)},
        cwd=finished.config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    began = time.monotonic()
    while not trains(set(tmp_path.iterdir())):
        assert time.monotonic() - began < SECONDS
        time.sleep(0.05)
    ranks = descendants(process.pid)
    assert len(ranks) == 2
    process.kill()
    process.wait(timeout=30)
    deadline = time.monotonic() + 30
    while (left := [pid for pid in ranks if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    kept = list(left)
    for pid in kept:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not kept


def test_two_agents_train_as_one_job(finished: Finished) -> None:
    """--nnodes 2, a rank each, c10d rendezvous on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two-agents")
    flags += ("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1")
    overrides = ("output=agents", "tracking.mode=disabled")
    agents = [
        warm.Popen(
            command(finished.config, *overrides, flags=flags),
            env=environment(),
            cwd=finished.config.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        printed = [agent.communicate(timeout=SECONDS)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(printed)
    assert sum("on 2 ranks" in text for text in printed) == 1, "one job, one voice"
    assert_bitwise(last(finished.config.parent / "agents"), last(finished.output))


def test_every_key_of_a_run_is_declared_and_every_declared_one_is_told(finished: Finished) -> None:
    attempt = attempts(finished.output)[0]
    told, declared = set(series([attempt])), logged_keys(load_job(str(finished.config), []))
    assert told - set(declared) == set()
    assert {key for key, words in declared.items() if not sometimes(words)} - told == set()
    assert attempt.outcome == "finished"
    ((samples, split, curves),) = attempt.curves
    assert (samples, split) == (STEPS * BATCH - 10, "eval")
    assert list(curves) == ["click", "cart", "cart (joint)", "fav", "fav (joint)", "order", "order (joint)"]
    result = json.loads((finished.output / "result.json").read_text())["tasks"]["click"]["own"]
    assert sum(curves["click"]["calibration"]["rows"]) == result["rows"]
    assert sum(curves["click"]["scores"]["positives"]) == result["positives"]


def test_every_panel_of_the_workspace_shows_what_the_run_told(finished: Finished) -> None:
    job = load_job(str(finished.config), [])
    shown = keys_of(sections(job))
    assert len(shown) > 100
    assert untold_keys(job, shown, set(series(attempts(finished.output)))) == []
    assert {key.split("/")[0] for key in shown} == {key.split("/")[0] for key in logged_keys(job)}


def test_the_wandb_record_holds_every_task(finished: Finished) -> None:
    """Read back with wandb's own reader."""
    runs = list((finished.output / "wandb").glob("offline-run-*"))
    assert len(runs) == 1, "one run a job, however many ranks"
    reader = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    read = subprocess.run(
        reader,
        env=environment() | {"WANDB_DIR": str(finished.output)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    records = [json.loads(line) for line in read.stdout.splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    keys = {key for row in history for key in row}
    for task in ("click", "cart", "fav", "order"):
        for metric in ("auc", "log_loss", "ne", "calibration", "rows", "positives"):
            assert f"train/{task}/{metric}" in keys
            assert f"eval/{task}/{metric}" in keys
        assert f"train/{task}/loss" in keys
        assert f"train/{task}/weight" in keys
    for task in ("cart", "fav", "order"):
        assert f"eval/{task}/joint_auc" in keys
    assert "train/checkpoint_blocked_seconds" in keys
    own = series(attempts(finished.output)[:1])
    plots = {key for key in keys if key.startswith("curves/")}
    stamps = {"samples", "_runtime", "_step", "_timestamp"}
    assert keys - plots - stamps == set(own), "both records hold one set of keys"
    tables = {key for key, words in logged_keys(load_job(str(finished.config), [])).items() if "wandb alone" in words}
    assert "curves/order/joint_scores" in tables
    assert {key for key in tables if not any(plot.startswith(key) for plot in plots)} == set()
    samples = [row["samples"] for row in history]
    assert samples == sorted(samples)
    assert samples[-1] == STEPS * BATCH - 10
    (begun,) = [record["run"] for record in records if record["type"] == "run"]
    config = begun["config"]["update"]
    assert begun["run_group"] == "the-group"
    assert begun["job_type"] == "train"
    assert config["train"]["batch_size"] == BATCH
    assert config["world_size"] == 2
    size = config["size"]
    assert size["widths"] == {"expert_layers": config["model"]["expert_layers"]}
    assert f"network {size['dense_parameters']:,} parameters (" in finished.printed
    assert (
        f"), {size['flops_per_row']:,} FLOPs a row forward; tables {size['table_parameters']:,} p" in finished.printed
    )
    assert config["git"] == git_revision()


def test_wandb_changes_no_weight_whatever_becomes_of_it(finished: Finished) -> None:
    """Offline in `finished`; here switched off, and online at a port where nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = {"WANDB_BASE_URL": f"http://127.0.0.1:{nobody.getsockname()[1]}", "WANDB_API_KEY": "k" * 40}
        for mode, more in (("disabled", {}), ("online", dead)):
            output = finished.output.with_name(f"out-{mode}")
            words = command(finished.config, f"output={output}", f"tracking.mode={mode}", "tracking.telemetry.every=0")
            env = environment() | more
            done = warm.run(words, env=env, cwd=finished.config.parent, capture_output=True, text=True, timeout=SECONDS)
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("wandb cannot be reached" in done.stderr or "wandb failed" in done.stderr) == (mode == "online")
            assert_bitwise(last(output), last(finished.output))
