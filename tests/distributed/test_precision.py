"""`train.precision`: what auto becomes, which numbers stay in fp32, and that a run keeps what it began with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.files import plan
from pipeline.train import precision
from pipeline.train.loop import training_batches
from pipeline.train.run import START
from tests.distributed import warm
from tests.distributed.command import SECONDS, command, environment, run
from tests.distributed.ranks import run_ranks
from tests.distributed.training import build, train, train_part, whole
from tests.logs import DAYS, set_key, small_config, small_job, write_config, write_log

CASES = {
    # (asked, what each rank's hardware multiplies, what the run began in): what all ranks train in
    ("auto", (True, True), None): "bf16",
    ("auto", (False, False), None): "fp32",
    ("auto", (True, False), None): "fp32",
    ("auto", (False, True), None): "fp32",
    ("auto", (False, False), "bf16"): "bf16",
    ("auto", (True, True), "fp32"): "fp32",
    ("fp32", (True, True), None): "fp32",
    ("bf16", (False, False), None): "bf16",
    ("bf16", (True, False), "fp32"): "bf16",  # which the comparison with the commit then refuses by name
}


def settle(rank: int) -> list[str]:
    found = []
    for asked, native, begun in CASES:
        precision.multiplies_bf16 = lambda device, own=native[rank]: own
        job = small_job("log", changes={"train.precision": asked})
        found.append(precision.settled(job, torch.device("cpu"), begun).train.precision)
    return found


def test_all_ranks_train_in_one_precision() -> None:
    expected = list(CASES.values())
    assert run_ranks(2, settle) == [expected, expected]


@pytest.mark.parametrize("native", [True, False])
def test_outside_of_a_run_this_machine_decides(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: native)
    found = {
        asked: precision.local(small_job("log", changes={"train.precision": asked}), torch.device("cpu"))
        for asked in ("auto", "fp32", "bf16")
    }
    assert {asked: job.train.precision for asked, job in found.items()} == {
        "auto": "bf16" if native else "fp32",
        "fp32": "fp32",
        "bf16": "bf16",
    }


def test_a_cpu_is_asked_what_it_multiplies() -> None:
    """As Linux lists its instructions."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat")))
    instructions = set(flags.partition(":")[2].split())
    assert precision.multiplies_bf16(torch.device("cpu")) == bool(instructions & {"avx512_bf16", "amx_bf16"})


def both_modes(rank: int, configs: list[dict[str, Any]]) -> list[tuple[Tensor, Tensor]]:
    """Of each job, the logits of its first batch in training and in evaluation, weights alike."""
    out = []
    for config in configs:
        job, model, _, ranks = build(config, rank, 1)
        batch = next(training_batches(job, plan(job, job.data.train), ranks, START))
        out.append((model.train()(batch).detach(), model.eval()(batch).detach()))
    return out


def test_training_is_in_bf16_and_the_logits_and_the_evaluation_are_not(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, 300)
    configs = [small_config(tmp_path / "log", tmp_path / "out") for _ in range(2)]
    set_key(configs[1], "train.precision", "bf16")
    ((fp32, fp32_scored), (bf16, bf16_scored)) = run_ranks(1, both_modes, configs)[0]
    assert torch.equal(fp32, fp32_scored)
    assert torch.equal(bf16_scored, fp32_scored), "a model is evaluated as its weights would be scored elsewhere"
    assert not torch.equal(bf16, fp32)
    np.testing.assert_allclose(bf16, fp32, atol=0.02)
    rounded = bf16.bfloat16().float() == bf16
    assert rounded.float().mean() < 0.1, "logits of 8 bits would make ties of many rows"


def test_a_run_in_bf16_goes_on_bitwise(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, 300)
    config = small_config(tmp_path / "log", tmp_path / "out")
    set_key(config, "train.precision", "bf16")
    set_key(config, "train.checkpoint_every", 7)
    never, cut = 10**6, 7
    expected = whole(run_ranks(2, train_part, 2, config, str(tmp_path / "one go"), never))
    run_ranks(2, train_part, 2, config, str(tmp_path / "two goes"), cut)
    found = whole(run_ranks(2, train_part, 2, config, str(tmp_path / "two goes"), never))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_one_rank_and_two_agree_within_the_rounding_of_bf16(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, 300, seed=9)
    config = small_config(tmp_path / "log", tmp_path / "out")
    set_key(config, "train.precision", "bf16")
    (one,), (two, _) = run_ranks(1, train, 1, config), run_ranks(2, train, 2, config)
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-3)


@pytest.mark.parametrize("began", ["fp32", "bf16"])
def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path: Path, began: str) -> None:
    """Whatever the hardware of this machine: one of the two is not what auto is here."""
    write_log(tmp_path / "log", DAYS, 64)
    config = small_config(tmp_path / "log", tmp_path / "out")
    set_key(config, "train.precision", ...)
    path, one_rank = write_config(tmp_path / "job.yaml", config), ("--nproc-per-node", "1")
    assert f"(cpu, {began})" in run(path, f"train.precision={began}", flags=one_rank)
    again = run(path, flags=one_rank)
    assert f"(cpu, {began})" in again
    assert "trained to its end already" in again
    other = {"fp32": "bf16", "bf16": "fp32"}[began]
    line = command(path, f"train.precision={other}", flags=one_rank)
    told = warm.run(line, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert told.returncode == 2
    assert "train.precision changed" in told.stderr
