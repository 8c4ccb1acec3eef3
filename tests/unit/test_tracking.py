"""Tracking can fail in every way and the training does not notice."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from pipeline.curves import binary_curves
from pipeline.journal import attempts
from pipeline.metrics import Metrics, binary_metrics
from pipeline.tracking import Tracking, git_revision
from schemas.job import JobConfig
from tests.logs import small_job


def metrics() -> Metrics:
    one_class = binary_metrics(torch.ones(3), logits_N=torch.zeros(3))
    both = binary_metrics(torch.tensor([0.0, 1.0, 1.0]), logits_N=torch.tensor([-1.0, 2.0, 0.5]))
    return Metrics({"click": both, "cart": one_class}, {})


def job(tmp_path: Path, mode: str = "offline") -> JobConfig:
    return small_job(tmp_path, tmp_path / "out", {"tracking": {"mode": mode}})


class Run:
    """A run that remembers, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.logged, self.ended = fails, [], None
        self.summary: dict[str, str] = {}

    def define_metric(self, *_: Any, **__: Any) -> None:
        self._maybe("define_metric")

    def log(self, values: dict[str, float]) -> None:
        self._maybe("log")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self._maybe("finish")
        self.ended = exit_code

    def _maybe(self, what: str) -> None:
        if self.fails == what:
            raise OSError("no space left on device")


def test_keys_are_split_task_metric_against_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    asked: dict[str, Any] = {}

    def init(**arguments: Any) -> Run:
        asked.update(arguments)
        return run

    monkeypatch.setattr(wandb, "init", init)
    tracking = Tracking(job(tmp_path), "train", {"seed": 0})
    tracking.metrics("eval", 640, metrics(), {"train/dense_lr": 0.1})
    tracking.finish("failed", "out of memory")
    assert (asked["group"], asked["job_type"], asked["mode"]) == ("small", "train", "offline")
    assert asked["config"] == {"seed": 0, "git": git_revision()}
    (logged,) = run.logged
    assert logged["samples"] == 640
    assert logged["train/dense_lr"] == 0.1
    assert logged["eval/click/auc"] == 1.0
    assert logged["eval/cart/rows"] == 3
    assert "eval/cart/auc" not in logged, "one class: undefined, so left out"
    assert run.ended == 1
    assert run.summary == {"outcome": "failed", "why": "out of memory"}
    (own,) = attempts(tmp_path / "out")
    assert own.points == [(own.points[0][0], 640, {key: v for key, v in logged.items() if key != "samples"})]
    assert (own.job, own.job_type, own.outcome, own.why) == ("small", "train", "failed", "out of memory")
    assert own.about == asked["config"]


def test_without_wandb_the_own_record_is_whole(tmp_path: Path) -> None:
    tracking = Tracking(job(tmp_path, "disabled"), "train", {}, samples=64)
    tracking.metrics("eval", 640, metrics(), {"train/dense_lr": 0.1})
    tracking.alert("late", "a file", "WARN")
    tracking.finish()
    (own,) = attempts(tmp_path / "out")
    assert own.samples == 64
    assert own.points[0][2]["eval/click/auc"] == 1.0
    assert [alert["title"] for alert in own.alerts] == ["late"]
    assert own.outcome == "finished"


def test_an_own_record_that_cannot_be_written_ends_neither_training_nor_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run()
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/journal").write_text("a file where the folder should be")
    tracking = Tracking(job(tmp_path), "train", {})
    tracking.values(1, {"a": 1.0})
    tracking.values(2, {"a": 2.0})
    assert [logged["samples"] for logged in run.logged] == [1, 2]
    assert capsys.readouterr().err.count("the run's own record cannot be written") == 1


@pytest.mark.parametrize("fails", ["define_metric", "log", "finish"])
def test_an_error_ends_tracking_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    monkeypatch.setattr(wandb, "init", lambda **_: Run(fails))
    tracking = Tracking(job(tmp_path), "train", {})
    tracking.metrics("train", 1, metrics(), {})
    tracking.metrics("train", 2, metrics(), {})
    tracking.finish()
    assert tracking.mode == "disabled"
    assert capsys.readouterr().err.count("wandb failed and is left out") == 1


def test_a_server_that_does_not_answer_means_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def init(mode: str, **_: Any) -> Run:
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("timed out")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    tracking = Tracking(job(tmp_path, "online"), "train", {})
    assert modes == ["online", "offline"]
    assert tracking.mode == "offline"


def test_mode_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(wandb, "init", lambda mode, **_: modes.append(mode) or Run())
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(key, raising=False)
    Tracking(job(tmp_path, "auto"), "train", {})
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    Tracking(job(tmp_path, "auto"), "train", {})
    monkeypatch.setenv("WANDB_MODE", "offline")
    Tracking(job(tmp_path, "auto"), "train", {})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert Tracking(job(tmp_path, "auto"), "train", {}).folder is None
    assert modes == ["offline", "online", "offline"]


def test_what_wandb_says_shows_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-wandb-key")

    def refuse(**_: Any) -> Run:
        raise OSError("https://me:canary-password@proxy answers 407 to canary-wandb-key")

    monkeypatch.setattr(wandb, "init", refuse)
    Tracking(job(tmp_path), "train", {})
    told = capsys.readouterr().err
    assert "is left out from here on: https://***@proxy answers 407 to ***" in told


def test_online_a_launch_has_one_run_and_offline_each_start_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **told: asked.append(told) or Run())
    for mode, launch in (("online", "a"), ("online", "a"), ("online", "b"), ("offline", "a"), ("online", "none")):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
        Tracking(job(tmp_path, mode), "train", {})
    ids = [told.get("id") for told in asked]
    assert ids[0] is not None
    assert ids[0] == ids[1] != ids[2]
    assert ids[3:] == [None, None]
    assert [told.get("resume") for told in asked] == ["allow", "allow", "allow", None, None]


def test_a_real_offline_run_takes_curves_and_artifacts(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    curves = {"click": binary_curves(torch.tensor([0.1, 0.4, 0.8]), torch.tensor([0.0, 1.0, 1.0]))}
    tracking = Tracking(job(tmp_path), "train", {})
    tracking.curves("eval", 3, curves)
    tracking.artifacts({"step": 3, "checkpoint": "x"}, str(tmp_path / "checkpoint"), {"fingerprint": "f" * 64})
    assert tracking.mode == "offline", "wandb took both"
    tracking.finish()
    reader = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    env = os.environ | {"WANDB_DIR": str(tmp_path / "out")}
    read = subprocess.run(reader, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "curves/click/calibration" in read
    assert "curves/click/scores" in read
    assert "small-model" in read
    assert "small-dataset" in read
    (own,) = attempts(tmp_path / "out")
    assert own.curves == [(3, "eval", curves)]
