"""A checkpoint's predictions do not depend on the sharding plan or the number of ranks."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.distributed.ranks import run_ranks
from tests.distributed.training import evaluation, predict, save
from tests.logs import DAYS, TASKS, set_key, small_config, write_log

TOLERANCE = 1e-5
PLANS = ("table_wise", "row_wise", "column_wise", "data_parallel", "mixed")
MIXED = {"user": "column_wise", "item": "row_wise", "session": "data_parallel", "city": "table_wise"}
TABLES = ("user", "item", "session", "city", "price_bucket")


def config_of(kind: str, log: Path) -> dict:
    config = small_config(log, log / "unused")
    for table in TABLES:
        sharding = MIXED.get(table, "table_wise") if kind == "mixed" else kind
        set_key(config, f"tables.{table}.sharding", sharding)
        set_key(config, f"tables.{table}.init_scale", 3.0)  # so that rows differ by far more than the tolerance
    set_key(config, "model.activation", "tanh")
    return config


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("predictions") / "log"
    write_log(log, DAYS, 150, seed=1)
    return log


@pytest.fixture(scope="module")
def reference(log: Path) -> dict[int, list[float]]:
    """A checkpoint trained on two ranks under a mixed plan, and its predictions on one rank with whole tables."""
    run_ranks(2, save, 2, config_of("mixed", log), str(log / "checkpoints"))
    predictions = run_ranks(1, predict, 1, [config_of("table_wise", log)], str(log / "checkpoints"))
    return predictions[0][0]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_plan_predicts_the_same(log: Path, reference: dict[int, list[float]], world: int) -> None:
    ranks = run_ranks(world, predict, world, [config_of(kind, log) for kind in PLANS], str(log / "checkpoints"))
    assert np.std(list(reference.values()), axis=0).min() > 1000 * TOLERANCE, "a mix-up of rows would show"
    for plan, kind in enumerate(PLANS):
        rows = [row for rank in ranks for row in rank[plan]]
        assert sorted(rows) == list(range(150)), (kind, "each row once")
        together = {row: logits for rank in ranks for row, logits in rank[plan].items()}
        for row, logits in together.items():
            np.testing.assert_allclose(
                logits, reference[row], rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{kind}, row {row}"
            )


@pytest.mark.parametrize("world", [1, 2])
def test_the_evaluation_is_sklearns(log: Path, reference: dict[int, list[float]], world: int) -> None:
    """The job's own metrics of the evaluation day against sklearn on the gathered predictions, to 1e-9."""
    from sklearn.metrics import log_loss, roc_auc_score

    day = pq.read_table(log / f"dt={DAYS[-1]}")
    labels = {task: day.column(task).to_numpy().astype(int) for task in TASKS}
    logits = np.array([reference[row] for row in range(day.num_rows)])
    # the very predictions: those of this number of ranks, whose last bits may differ from the reference's
    ranks = run_ranks(world, predict, world, [config_of("table_wise", log)], str(log / "checkpoints"))
    own = np.array([row for _, row in sorted((k, v) for rank in ranks for k, v in rank[0].items())])
    np.testing.assert_allclose(own, logits, rtol=TOLERANCE, atol=TOLERANCE)
    p = 1 / (1 + np.exp(-own))
    metrics = run_ranks(world, evaluation, world, config_of("table_wise", log), str(log / "checkpoints"))[0]
    for k, task in enumerate(TASKS):
        space = np.ones(len(p), bool) if task == "click" else labels["click"] == 1
        found = metrics.own[task]
        assert (found.rows, found.positives) == (space.sum(), labels[task][space].sum())
        assert found.auc == pytest.approx(roc_auc_score(labels[task][space], p[space, k]), abs=1e-9)
        assert found.log_loss == pytest.approx(log_loss(labels[task][space], p[space, k]), abs=1e-9)
        if task != "click":
            joint = metrics.joint[task]
            assert joint.auc == pytest.approx(roc_auc_score(labels[task], p[:, 0] * p[:, k]), abs=1e-9)
            assert joint.log_loss == pytest.approx(log_loss(labels[task], p[:, 0] * p[:, k]), abs=1e-9)
