"""The papers' experiments: the synthetic process by hand, networks of one size, trees on a job's columns, tables."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.papers.census import GROUPS
from benchmarks.papers.experiment import gains, read_results, table
from benchmarks.papers.intervals import interval
from benchmarks.papers.process import NOISE, D, draw
from benchmarks.papers.synthetic import BASELINE, SIDES, errors, job_of, network
from benchmarks.papers.synthetic import gains as synthetic_gains
from benchmarks.papers.trees import columns_of
from pipeline.sizes import parameters
from schemas.load import load_job, parse_job

ROOT = Path(__file__).resolve().parents[2]
CORRELATIONS = (0.0, 0.2, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_the_weights_have_the_declared_cosine(correlation: float) -> None:
    w1, w2 = draw(3, correlation).weight_2D.double().numpy()
    assert np.linalg.norm(w1) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(w2) == pytest.approx(1, abs=1e-6)
    assert w1 @ w2 == pytest.approx(correlation, abs=1e-6)
    if correlation < 1:  # the part of w2 beside w1 is the second of two orthonormal vectors
        u2 = (w2 - correlation * w1) / math.sqrt(1 - correlation**2)
        assert np.linalg.norm(u2) == pytest.approx(1, abs=1e-5)
        assert u2 @ w1 == pytest.approx(0, abs=1e-5)


def test_labels_are_those_of_the_formula_row_by_row() -> None:
    process = draw(5, 0.4)
    x_BD, y_B2 = process.rows(400, stream=2)
    by_hand = []
    for x in x_BD.double().tolist():
        row = []
        for w in process.weight_2D.double().tolist():
            z = math.fsum(a * b for a, b in zip(w, x, strict=True))
            sines = zip(process.alpha_M.tolist(), process.beta_M.tolist(), strict=True)
            row.append(z + math.fsum(math.sin(alpha * z + beta) for alpha, beta in sines))
        by_hand.append(row)
    noise = y_B2.double().numpy() - np.array(by_hand)
    assert process.expected(x_BD).double().numpy() == pytest.approx(np.array(by_hand), abs=1e-4)
    assert noise.std() == pytest.approx(NOISE, rel=0.1)
    assert abs(noise.mean()) < 4 * NOISE / math.sqrt(noise.size)


def test_labels_correlate_as_the_sines_of_a_bivariate_normal_do() -> None:
    process = draw(1, 0.5, inputs=16)
    _, y_B2 = process.rows(200_000, stream=0)
    random = np.random.default_rng(0)
    z = random.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 400_000)[..., None]
    y = z[..., 0] + np.sin(z * process.alpha_M.numpy() + process.beta_M.numpy()).sum(-1)
    expected = np.corrcoef(y.T)[0, 1]
    assert float(torch.corrcoef(y_B2.T)[0, 1]) == pytest.approx(expected, abs=0.01)


def test_a_correlation_changes_the_second_task_alone() -> None:
    one, other = draw(2, 0.2), draw(2, 1.0)
    assert torch.equal(one.weight_2D[0], other.weight_2D[0])
    assert torch.equal(one.alpha_M, other.alpha_M)
    assert not torch.equal(one.weight_2D[1], other.weight_2D[1])
    assert torch.equal(one.rows(4, 7)[0], other.rows(4, 7)[0])
    assert not torch.equal(one.rows(4, 7)[0], one.rows(4, 8)[0])


def test_a_cosine_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw(0, 1.5)


def test_the_synthetic_sides_are_of_one_size() -> None:
    sizes = {side: parameters(network(job_of(side, 14_800, 0.003, 600, 0), D)) for side in SIDES}
    assert max(sizes.values()) < 1.03 * min(sizes.values()), sizes


def test_synthetic_gains_are_differences_of_shares_of_variance() -> None:
    mse = {"single_task": [1.0, 2.0], "shared_bottom": [2.0, 4.0], "mmoe": [1.0, 4.0], "ple": [1.0, 1.0]}
    found = {(0.5, 0): {"mse": mse, "variance": [4.0, 8.0]}}
    assert errors(found, BASELINE, 0.5, 1) == [0.5]
    assert synthetic_gains(found, "mmoe", 0.5, 1) == [pytest.approx(0.5 - (0.25 + 0.5) / 2)]


def test_intervals_are_those_of_student() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(interval([1.0])[1])


def test_the_table_tells_sides_trees_and_papers(tmp_path: Path) -> None:
    rows = []
    for side, lift in (("single_task", 0.0), ("ple", 0.01)):
        for seed in (0, 1):
            rows.append((side, seed, "click", False, "auc", 0.7 + lift + 0.001 * seed))
            rows.append((side, seed, "click", True, "auc", 0.1))
            rows.append((side, seed, "vcr", False, "mse", 0.09 - lift))
            rows.append((side, seed, "click", False, "log_loss", 0.5))
    names = ("side", "seed", "task", "joint", "metric", "value")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), tmp_path / "r.parquet")
    values = read_results(tmp_path / "r.parquet")
    trees = {"click": {"values": [0.71, 0.71]}, "vcr": {"values": [0.08, 0.08]}}
    out = table(values, trees, {"a paper": {"click": ".7000"}})
    assert [line[0] for line in out] == ["", "single_task", "ple", "LightGBM, same columns", "a paper"]
    assert out[2][1].startswith("0.7105 +- ")
    assert out[3][1:] == ["0.7100 +- 0.0000", "0.0800 +- 0.0000"]
    assert out[4][1:] == [".7000", ""]
    assert gains(values, ["vcr"])[1] == ["ple", "+0.0100 +- 0.0000 *", "+0.0100 +- 0.0000 *"]


def test_trees_read_what_the_job_reads(tmp_path: Path) -> None:
    """Raw numbers, categories, encodings of earlier days, labels in their own spaces."""
    for day, click in (("2026-01-01", [1, 0, 1]), ("2026-01-02", [0, 1, 1])):
        folder = tmp_path / "log" / f"dt={day}"
        folder.mkdir(parents=True)
        columns = {
            "user_id": [1, 1, 2],
            "event_time": [0, 1, 2],
            "city": ["b", None, "b"],
            "price": [3.5, 4.5, 5.5],
            "click": pa.array(click, pa.int8()),
            "timed": pa.array([1, 1, 0], pa.int8()),
            "watched": [0.5, 0.25, 2.0],
        }
        pq.write_table(pa.table(columns), folder / "part-00000.parquet", write_page_checksum=True)
        (folder / "_SUCCESS").touch()
    job = parse_job(
        {
            "name": "small",
            "output": str(tmp_path / "out"),
            "data": {
                "path": str(tmp_path / "log"),
                "train": {"from": "2026-01-01", "to": "2026-01-01"},
                "eval": {"from": "2026-01-02", "to": "2026-01-02"},
            },
            "tables": {"city": {"rows": 9, "dim": 4}, "price": {"rows": 2, "dim": 4}},
            "features": [
                {"name": "city", "kind": "string", "missing": "unknown"},
                {"name": "price", "kind": "bucket", "boundaries": [4]},
                {"name": "user_count", "kind": "count", "column": "user_id", "transform": "none"},
            ],
            "tasks": [
                {"name": "click"},
                {"name": "watched", "kind": "regression", "given": "click", "indicator": "timed", "clip": [0, 1]},
            ],
            "model": {"arch": "ple"},
        },
        "small",
    )
    columns = columns_of(job)
    assert columns.names == ["city", "price", "user_count"]
    assert columns.categorical == [0]
    assert columns.value_NF[:, 0].tolist() == [0, 1, 0] * 2  # by falling frequency, a null a value of its own
    assert columns.value_NF[:, 1].tolist() == [3.5, 4.5, 5.5] * 2
    assert columns.value_NF[:, 2].tolist() == [0, 0, 0, 2, 2, 1]  # rows of the user on the day before
    assert columns.inside_NT[:, 1].tolist() == [True, False, False, False, True, False]
    assert columns.label_NT[:, 1].tolist() == [0.5, 0.25, 1.0] * 2


def test_the_jobs_leave_out_what_the_papers_leave_out() -> None:
    for tasks in GROUPS.values():
        named = f"[{', '.join(f'{{name: {task}}}' for task in tasks)}]"
        job = load_job(str(ROOT / "benchmarks/papers/census.yaml"), [f"tasks={named}"])
        read = {feature.source for feature in job.features}
        assert not read & {"education", "marital_status", "income", "instance_weight", "college", "never_married"}
