"""A small comparison through the real command: killed in the middle, started again, added to, stopped, refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from pipeline.train.pace import PACE
from tests.distributed import warm
from tests.distributed.command import SECONDS, descendants, environment, run
from tests.logs import DAYS, set_key, small_config, write_config, write_log

STEPS = 120
BATCH = 32
SIDES = ("--arch", "single_task", "ple", "--size", "20000")
WARM = """
import subprocess
import types

from pipeline.compare import processes
from tests.distributed import warm

names = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT")}
processes.subprocess = types.SimpleNamespace(Popen=warm.Nested, **names)
"""
"""The runs of a comparison are forked as the comparison is."""


def compare(folder: Path, *words: str, out: str = "cmp") -> "subprocess.Popen[str]":
    """The command, started."""
    env = environment()
    env["PYTHONPATH"] += f":{folder / 'warm'}"
    command = [sys.executable, "-u", "-m", "jobs.compare", "job.yaml", "--out", out, *words]
    return warm.Popen(
        command,
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    printed, _ = process.communicate(timeout=SECONDS)
    return process.returncode, printed


def wait_for(there: Any, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, process.communicate(timeout=SECONDS)[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def commits(run_folder: Path) -> list[Path]:
    return sorted(run_folder.glob("checkpoints/step-*/manifest.json"))


@dataclass
class Compared:
    """Two sides, two seeds, killed inside the second run and gone on with."""

    folder: Path
    out: Path
    before: dict[str, int]
    """When the results that were there at the kill were written."""
    printed: str
    results: pd.DataFrame
    html: str


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("compare")
    write_log(folder / "log", DAYS[:2], STEPS * BATCH // 2)
    write_log(folder / "log", DAYS[2:], 300)
    config = small_config(folder / "log", "unused")
    for key, value in {"train.log_every": 10, "train.checkpoint_every": 20}.items():
        set_key(config, key, value)
    write_config(folder / "job.yaml", config)
    (folder / "warm").mkdir()
    (folder / "warm" / "sitecustomize.py").write_text(WARM)

    out = folder / "cmp"
    process = compare(folder, *SIDES, "--seeds", "2")
    wait_for(lambda: len(commits(out / "runs/ple/0")) > 1, process)
    ranks = descendants(process.pid)
    assert len(ranks) >= 2, "a launcher and a rank"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in ranks):
        assert time.monotonic() < deadline, "its runs go on without it"
        time.sleep(0.02)
    before = {str(path): path.stat().st_mtime_ns for path in out.glob("runs/*/*/result.json")}
    code, printed = finish(compare(folder, *SIDES, "--seeds", "2"))
    assert code == 0, printed
    results, html = pd.read_parquet(out / "results.parquet"), (out / "report.html").read_text()
    return Compared(folder, out, before, printed, results, html)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_finished_runs_are_not_repeated_and_the_one_cut_off_goes_on(compared: Compared) -> None:
    assert [Path(path).parts[-3:-1] for path in compared.before] == [("single_task", "0")]
    for path, written in compared.before.items():
        assert Path(path).stat().st_mtime_ns == written
        assert Path(path).with_name("run.log").read_text().count("tasks, 3,840 rows") == 1
    assert "1 of 4 runs have finished before" in compared.printed
    assert "run 2 of 4  ple, seed 0: started" in compared.printed
    log = (compared.out / "runs/ple/0/run.log").read_text()
    assert re.search(r"going on from step \d+0, ", log), log
    assert log.count("tasks, 3,840 rows") == 2


def test_the_run_cut_off_ends_as_if_it_had_not_been(compared: Compared) -> None:
    alone = compared.folder / "alone"
    config = compared.folder / "alone.yaml"
    config.write_text((compared.out / "runs/ple/0/job.yaml").read_text())
    run(config, f"output={alone}", flags=("--nproc-per-node", "1"))
    whole, cut = (json.loads((f / "result.json").read_text()) for f in (alone, compared.out / "runs/ple/0"))
    assert whole["tasks"] == cut["tasks"]
    assert whole["fingerprints"] == cut["fingerprints"]
    assert whole["samples"] == cut["samples"] == STEPS * BATCH
    # its rate is over both attempts, less what the kill took and a few steps after each start
    assert cut["timed_rows"] > STEPS * BATCH / 2
    assert cut["timed_rows"] < whole["timed_rows"]


def test_the_tables_are_those_of_pandas(compared: Compared) -> None:
    told, html = compared.results, compared.html
    auc = told[(told.metric == "auc") & ~told.joint].pivot(index="seed", columns=["task", "side"], values="value")
    assert auc.shape == (2, 8)
    for task in ("click", "cart", "fav", "order"):
        side, base = auc[task]["ple"], auc[task]["single_task"]
        difference = side - base
        interval = stats.ttest_rel(side, base).confidence_interval(0.95)
        gained = f"{difference.mean():+.4f} ±{(interval.high - interval.low) / 2:.4f}"
        assert re.search(rf"\n{task} +{re.escape(gained)}", compared.printed), gained
        assert f">{gained}<" in html
        for values in (side, base):
            half = stats.t.ppf(0.975, 1) * values.std() / 2**0.5
            assert f"{values.mean():.4f} ±{half:.4f}" in compared.printed
            assert f">{values.mean():.4f} ±{half:.4f}<" in html
    speed = told[told.metric == "rows_per_second"].groupby("side").value.mean()
    assert f">{speed['ple']:,.0f} ±" in html
    assert "INCOMPLETE" not in html


def test_results_hold_every_value_of_every_record(compared: Compared) -> None:
    told = compared.results.set_index(["side", "seed", "task", "joint", "metric"])
    for side in ("single_task", "ple"):
        for seed in (0, 1):
            record = json.loads((compared.out / f"runs/{side}/{seed}/result.json").read_text())
            for task, parts in record["tasks"].items():
                for part in {"own", "joint"} & parts.keys():
                    for metric, value in parts[part].items():
                        assert told.value[side, seed, task, part == "joint", metric] == value
            assert record["seed"] == seed
            assert record["arch"] == side
            assert abs(record["dense_parameters"] - 20_000) <= 400


def test_a_side_that_fails_is_told_and_the_others_stand(compared: Compared) -> None:
    (compared.folder / "bad.yaml").write_text("bad: {model.norm: batch, train.batch_size: 1}\n")
    code, printed = finish(compare(compared.folder, *SIDES, "--sides", "bad.yaml", "--seeds", "1"))
    assert code == 1
    assert "2 of 3 runs have finished before" in printed
    assert "bad, seed 0: FAILED: train.batch_size: 3,840 rows in steps of 1 leave a step of one row" in printed
    assert "its log: cmp/runs/bad/0/run.log" in printed
    assert "INCOMPLETE: 1 of 3 runs are missing: bad seed 0 (train.batch_size" in printed
    assert "INCOMPLETE: 1 of 3" in (compared.out / "report.html").read_text()
    told = pd.read_parquet(compared.out / "results.parquet")
    assert set(told.side) == {"single_task", "ple"}
    pd.testing.assert_frame_equal(told, pd.read_csv(compared.out / "results.csv"), check_dtype=False)
    assert "ple: one seed: nothing can be said" in printed


def test_another_setting_in_the_same_folder_is_refused(compared: Compared) -> None:
    code, printed = finish(compare(compared.folder, *SIDES, "--seeds", "2", "train.batch_size=16"))
    assert code == 2
    assert "error: cmp/runs/single_task/0: was run with other settings or rows; train.batch_size changed" in printed


def test_a_stop_has_every_run_commit(compared: Compared) -> None:
    words = ("--arch", "shared_bottom", "mmoe", "--seeds", "1", "--jobs", "2")
    out = compared.folder / "stopped"
    process = compare(compared.folder, *words, out="stopped")
    wait_for(lambda: all(commits(out / "runs" / side / "0") for side in ("shared_bottom", "mmoe")), process)
    code, printed = finish(compare(compared.folder, *words, out="stopped"))
    assert code == 2
    assert "another comparison is at work in 'stopped'" in printed
    process.send_signal(signal.SIGTERM)
    code, printed = finish(process)
    assert code == 75, printed
    assert "stopped; the same command goes on from there" in printed
    for side in ("shared_bottom", "mmoe"):
        log = (out / f"runs/{side}/0/run.log").read_text()
        assert re.search(r"stopped by SIGTERM at step \d+, committed|checkpoint  ", log), log


def test_every_commit_tells_what_the_run_has_cost(compared: Compared) -> None:
    for manifest in commits(compared.out / "runs/ple/0"):
        told = json.loads((manifest.parent / PACE).read_text())
        assert told["rss_bytes"] > 1 << 20
