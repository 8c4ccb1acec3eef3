"""`./launch.sh score` on real ranks: training's own evaluation bit for bit, row for row at any number of ranks."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from jobs.score import prepare
from pipeline.predictions import Predictions, read_predictions, scored
from pipeline.train.result import RESULT
from pipeline.train.stop import STOPPED
from schemas.errors import InputError
from tests.distributed.command import kill_all, run, start
from tests.logs import DAYS, set_key, small_config, write_config, write_log
from tests.unit.test_holdout import drawn

ROWS = 900
SHARE = 0.4
TASKS = ["click", "cart", "fav", "order", "watch"]


def score(folder: Path, out: str, ranks: int, *overrides: str, models: tuple[str, ...] = ("a", "b")) -> str:
    words = [f"score.models.{name}={name}/checkpoints" for name in models]
    flags = ("score", "--nproc-per-node", str(ranks))
    return run(folder / "score.yaml", f"score.out={out}", *words, *overrides, flags=flags)


@dataclass
class Scored:
    folder: Path
    results: dict[str, dict[str, Any]]
    printed: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Two models of unlike structure, trained and evaluated; both scored on two ranks and on three."""
    folder = tmp_path_factory.mktemp("score")
    random = np.random.default_rng(0)
    watch, shown = random.random(ROWS).astype(np.float32), (random.random(ROWS) < 0.9).astype(np.int8)
    write_log(folder / "log", DAYS, ROWS, row_group_rows=200, watch=watch, shown=shown)
    for name in ("a", "b"):
        config = small_config("log", name)
        config["tasks"].append({"name": "watch", "kind": "regression", "indicator": "shown"})
        config["train"]["batch_size"] = 64
        if name == "b":
            config["features"].append({"name": "user_again", "kind": "id", "column": "user_id", "table": "user"})
            set_key(config, "model", {"arch": "mmoe", "experts": 2, "expert_layers": [9], "tower_layers": [5]})
        run(write_config(folder / f"{name}.yaml", config))
    write_config(folder / "score.yaml", small_config("log", "unused") | {"train": config["train"]})
    results = {name: json.loads((folder / name / RESULT).read_text()) for name in ("a", "b")}
    printed = score(folder, "two", 2)
    score(folder, "three", 3)
    return Scored(folder, results, printed)


def test_its_metrics_are_the_evaluations_of_training_bit_for_bit(trained: Scored) -> None:
    for out in ("two", "three"):
        for name in ("a", "b"):
            told = scored(str(trained.folder / out), name)
            assert told is not None
            result = trained.results[name]
            assert told["tasks"] == result["tasks"]
            assert (told["step"], told["samples"]) == (result["step"], result["samples"])
            assert told["rows"] == result["fingerprints"]["evaluation"]
            assert told["held"] is None
            assert told["checkpoint"].startswith(f"{name}/checkpoints/step-")
    assert f"{trained.results['a']['tasks']['click']['own']['auc']:.4f}" in trained.printed
    assert "scored      two/a.json" in trained.printed


def test_each_row_is_the_same_at_any_number_of_ranks(trained: Scored) -> None:
    for name in ("a", "b"):
        two, three = (read_predictions(str(trained.folder / out), name) for out in ("two", "three"))
        assert two.tasks == three.tasks == TASKS
        assert two.row_N.tolist() == list(range(ROWS))
        for field in ("row_N", "logit_TN", "label_TN", "space_TN", "exposed_TN"):
            assert np.array_equal(getattr(two, field), getattr(three, field)), field
    assert len(list((trained.folder / "three" / "a").glob("rank-*.parquet"))) == 3


def checked(found: Predictions, tasks: dict[str, Any]) -> None:
    """The told metrics are those of the rows, by scikit-learn."""
    parent = {"cart": 0, "fav": 0, "order": 0}
    p_TN = 1 / (1 + np.exp(-found.logit_TN.astype(np.float64)))
    for k, name in enumerate(found.tasks):
        own_N, told = found.space_TN[k], tasks[name]["own"]
        label_N, logit_N = found.label_TN[k][own_N], found.logit_TN[k][own_N]
        assert told["rows"] == own_N.sum()
        if name == "watch":
            assert told["mse"] == pytest.approx(mean_squared_error(label_N, logit_N), rel=1e-5)
            continue
        assert told["auc"] == pytest.approx(roc_auc_score(label_N, logit_N))
        assert told["log_loss"] == pytest.approx(log_loss(label_N, p_TN[k][own_N]), rel=1e-6)
        if name in parent:
            joint, up = tasks[name]["joint"], parent[name]
            both_N = (found.label_TN[k] > 0) & (found.label_TN[up] > 0)
            assert joint["auc"] == pytest.approx(roc_auc_score(both_N, p_TN[k] * p_TN[up]))
            assert joint["log_loss"] == pytest.approx(log_loss(both_N, p_TN[k] * p_TN[up]), rel=1e-6)


def test_the_metrics_follow_from_the_rows(trained: Scored) -> None:
    log = pd.read_parquet(trained.folder / "log" / f"dt={DAYS[2]}")
    for name in ("a", "b"):
        found = read_predictions(str(trained.folder / "two"), name)
        checked(found, trained.results[name]["tasks"])
        for k, task in enumerate(TASKS[:4]):
            assert np.array_equal(found.label_TN[k], log[task].to_numpy().astype(np.float32))
        assert found.exposed_TN is not None
        assert np.array_equal(found.exposed_TN[4], log["shown"].to_numpy() == 1)


def test_held_out_rows_alone_and_what_is_there_is_passed_over(trained: Scored) -> None:
    """The rows are those that plain integers draw; a second call reads nothing."""
    holdout = f"data.holdout={{share: {SHARE}}}"
    printed = score(trained.folder, "held", 1, holdout, models=("a",))
    log = pd.read_parquet(trained.folder / "log" / f"dt={DAYS[2]}")
    wanted = [row for row, user in enumerate(log["user_id"]) if drawn(user, DAYS[2], SHARE)]
    found = read_predictions(str(trained.folder / "held"), "a")
    assert found.row_N.tolist() == wanted
    whole = read_predictions(str(trained.folder / "two"), "a")
    assert np.allclose(found.logit_TN, whole.logit_TN[:, wanted], atol=1e-6)
    told = scored(str(trained.folder / "held"), "a")
    assert told is not None
    assert told["held"] == SHARE
    checked(found, told["tasks"])
    assert f"evaluating on the held-out rows of {ROWS} rows" in printed
    before = (trained.folder / "held" / "a.json").stat().st_mtime_ns
    assert "a: scored already, passed over" in score(trained.folder, "held", 1, holdout, models=("a",))
    assert (trained.folder / "held" / "a.json").stat().st_mtime_ns == before


CHANGES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "another checkpoint": ("score.models.a=b/checkpoints",),
    "held-out rows": ("data.holdout={share: 0.5}",),
    "all rows under a holdout": ("data.holdout={share: 0.5, eval: all}",),
    "another day": (f"data.eval={{from: {DAYS[1]}, to: {DAYS[1]}}}",),
    "another funnel": ("data.funnel=drop",),
    "without rows": ("score.predictions=false",),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_scored_anew(trained: Scored, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder)
    words = ["score.yaml", "score.out=two", "score.models.a=a/checkpoints", *CHANGES[what]]
    _, scoring = prepare(words)
    assert (scoring is None) == (what == "nothing")


def test_a_missing_file_is_scored_anew(trained: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder)
    part = trained.folder / "three" / "b" / "rank-00002.parquet"
    hidden = part.with_name("hidden")
    part.rename(hidden)
    words = ["score.yaml", "score.out=three", "score.models.b=b/checkpoints"]
    try:
        assert prepare(words)[1] is not None
        with pytest.raises(InputError, match=r"rank-00002\.parquet: cannot be read"):
            read_predictions("three", "b")
    finally:
        hidden.rename(part)
    assert prepare(words)[1] is None


REFUSED = {
    "no models": ([], r"score: names no model; give score\.out=DIR"),
    "no checkpoint": (["score.models.a=nowhere"], r"score\.models\.a: 'nowhere' is no committed checkpoint"),
    "no evaluation": (["score.models.a=a/checkpoints", "data.eval=null"], r"data\.eval: missing"),
    "a bad name": (["score.models={..: a/checkpoints}"], r"score\.models"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_any_rank_starts(trained: Scored, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder)
    words, said = REFUSED[what]
    out = ["score.out=refused"] if words else []
    with pytest.raises(InputError, match=said):
        prepare(["score.yaml", *out, *words])


def test_files_of_two_runs_do_not_belong_together(trained: Scored, tmp_path: Path) -> None:
    for out in ("two", "three"):
        assert read_predictions(str(trained.folder / out), "a")
    for name in ("rank-00000.parquet", "rank-00001.parquet"):
        place = tmp_path / "a" / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((trained.folder / "two" / "a" / name).read_bytes())
    told = json.loads((trained.folder / "two" / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(told))
    assert len(read_predictions(str(tmp_path), "a").row_N) == ROWS
    (tmp_path / "a" / name).write_bytes((trained.folder / "three" / "a" / name).read_bytes())
    with pytest.raises(InputError, match=r"rank-00001\.parquet: of another run of the scoring"):
        read_predictions(str(tmp_path), "a")
    # of the same run, with rows missing
    first = pq.read_table(trained.folder / "two" / "a" / name)
    pq.write_table(first.slice(1), tmp_path / "a" / name)
    with pytest.raises(InputError, match=rf"a: {ROWS - 1:,} rows where a\.json promises {ROWS:,}, each once"):
        read_predictions(str(tmp_path), "a")
    with pytest.raises(InputError, match=r"holds no b\.json, so the model was not scored to its end"):
        read_predictions(str(tmp_path), "b")


def test_killed_or_stopped_while_it_writes_it_is_run_again(trained: Scored) -> None:
    folder = trained.folder
    write_log(folder / "long", DAYS[:1], 60_000, watch=np.zeros(60_000, np.float32), shown=np.ones(60_000, np.int8))
    day = f"data.eval={{from: {DAYS[0]}, to: {DAYS[0]}}}"
    words = ("data.path=long", day, "train.batch_size=16", "data.lanes=2", "score.out=cut")
    words += ("score.models.a=a/checkpoints",)

    def begun() -> "subprocess.Popen[str]":
        process = start(folder / "score.yaml", *words, flags=("score", "--nproc-per-node", "2"))
        assert process.stdout is not None
        assert any("evaluating on" in line for line in process.stdout), "it ended before"
        time.sleep(0.3)
        return process

    process = begun()
    kill_all(process)
    assert list((folder / "cut" / "a").glob(".rank-*.draft")), "killed while it wrote"
    assert scored(str(folder / "cut"), "a") is None
    process = begun()
    os.kill(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == STOPPED, printed
    assert "stopped by SIGTERM" in printed
    assert scored(str(folder / "cut"), "a") is None
    run(folder / "score.yaml", *words, "train.batch_size=4096", flags=("score", "--nproc-per-node", "1"))
    assert len(read_predictions(str(folder / "cut"), "a").row_N) == 60_000
    assert sorted(path.name for path in (folder / "cut" / "a").iterdir()) == ["rank-00000.parquet"]
