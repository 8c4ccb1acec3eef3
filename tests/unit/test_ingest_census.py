"""Census-Income: the real rows, from Parquet and from UCI's own format, through our own reader."""

import datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.ingest.census import COLUMNS, LABELS
from tests.published import (
    batches,
    days_of,
    ingested,
    packaged_job,
    read_log,
    refusal,
    row,
    shared,
    write_census,
    write_text,
)

LINE = (
    "58, Self-employed-not incorporated, 4, 34, Some college but no degree, 0, Not in universe, Divorced, "
    "Construction, Precision production craft & repair, White, All other, Male, Not in universe, Not in universe, "
    "Children or Armed Forces, 0, 0, 0, Head of household, South, Arkansas, Householder, Householder, 1053.55, "
    "MSA to MSA, Same county, Same county, No, Yes, 1, Not in universe, United-States, United-States, United-States, "
    "Native- Born in the United States, 0, Not in universe, 2, 52, 94, - 50000."
)
"""The second line of census-income.data."""
RICH = LINE.replace("Divorced", "Never married").replace("Some college but no degree", "Bachelors degree(BA AB BS)")
RICH = RICH.replace("- 50000.", "50000+.")


def write_small(folder: Path, train: str = f"{LINE}\n{RICH}\n", test: str = f"{RICH}\n") -> Path:
    write_text(folder / "census-income.data", train)
    write_text(folder / "census-income.test", test)
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested("census", shared("census_income"), tmp_path_factory.mktemp("census") / "events")


def test_rows_rates_and_correlations_are_those_of_the_data(log: Path) -> None:
    train, test = (read_log("census", log, [day]) for day in days_of(log))
    assert (train.num_rows, test.num_rows) == (199_523, 49_881)
    for name, rate in (("income", 0.062), ("never_married", 0.433), ("college", 0.196)):
        assert pc.mean(train.column(name)).as_py() == pytest.approx(rate, abs=5e-4)
    # the MMoE paper tells .1768 and .2373
    for found, income, college in ((train, 0.178, 0.240), (test, 0.178, 0.237)):
        together = found.select(LABELS).to_pandas().corr()
        assert abs(together.loc["income", "never_married"]) == pytest.approx(income, abs=5e-4)
        assert abs(together.loc["college", "never_married"]) == pytest.approx(college, abs=5e-4)


@pytest.mark.parametrize(("day", "split"), [(0, "train"), (1, "validation")])
def test_labels_are_those_that_come_with_the_data_and_every_column_is_as_it_was(
    log: Path, day: int, split: str
) -> None:
    found = read_log("census", log, [days_of(log)[day]])
    given = pq.read_table(shared("census_income") / f"{split}.parquet")
    wanted = {label: given.column(f"y_{label}") for label in LABELS}
    wanted |= {column: given.column(column) for column in COLUMNS if column != "income"}
    for name, column in wanted.items():
        assert found.column(name).equals(column.cast(found.column(name).type)), name
    assert set(found.column_names) == {*wanted, "user_id", "event_time"}


def test_ids_and_times_are_unique_and_lie_in_their_day(log: Path) -> None:
    whole = read_log("census", log).to_pandas()
    assert whole.user_id.tolist() == list(range(249_404))
    assert whole.event_time.is_unique
    assert whole.event_time.dt.strftime("%Y-%m-%d").value_counts().to_dict() == {
        "2000-01-01": 199_523,
        "2000-01-02": 49_881,
    }


def test_ucis_own_files_make_the_same_log(log: Path, tmp_path: Path) -> None:
    source, rows = shared("census_income"), 20_000
    write_census(tmp_path / "census-income.data", pq.read_table(source / "train.parquet").slice(0, rows))
    write_census(tmp_path / "census-income.test", pq.read_table(source / "validation.parquet").slice(0, rows))
    again = ingested("census", tmp_path, tmp_path / "events")
    for day in days_of(log):
        found, wanted = read_log("census", again, [day]), read_log("census", log, [day]).slice(0, rows)
        assert found.num_rows == rows
        numbered = ["user_id", "event_time"] if day == "2000-01-02" else []  # behind the whole training split
        assert found.drop_columns(numbered).equals(wanted.drop_columns(numbered))


def test_a_line_of_uci_by_hand(tmp_path: Path) -> None:
    log = ingested("census", write_small(tmp_path), tmp_path / "events")
    rows = read_log("census", log)
    first = row(rows, 0)
    assert first["event_time"] == datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    assert (first["age"], first["hispanic_origin"], first["year"]) == (58, "All other", "94")
    assert first["citizenship"] == "Native- Born in the United States"
    assert first["instance_weight"] == pytest.approx(1053.55)
    assert [[row(rows, n)[label] for label in LABELS] for n in range(3)] == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]


def test_compressed_files_do_as_well(tmp_path: Path) -> None:
    write_text(tmp_path / "census-income.data.gz", f"{LINE}\n")
    write_text(tmp_path / "census-income.test.gz", f"{RICH}\n")
    assert read_log("census", ingested("census", tmp_path, tmp_path / "events")).num_rows == 2


def test_the_packaged_job_reads_no_column_that_tells_a_label(tmp_path: Path) -> None:
    log = ingested("census", write_small(tmp_path), tmp_path / "events")
    job = packaged_job("census", log)
    inputs = {feature.source for feature in job.features}
    assert inputs & {"education", "marital_status", "income", "instance_weight", "user_id", *LABELS} == set()
    assert inputs == set(COLUMNS) - {"education", "marital_status", "income", "instance_weight"}
    (batch,) = batches("census", log)
    assert batch.labels_BT.sum(0).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (f"{LINE}\n{LINE[:-4]}", "line 2: the file ends within this line"),
        (f"{LINE}\n{LINE[:-12]}\n", "line 2: 41 columns instead of 42"),
        (f"{LINE}\n{LINE.replace('- 50000.', '-50K')}\n", "line 2: column 'income': '-50K' is neither"),
        (f"{LINE}\n{LINE.replace('1053.55', 'x')}\n", "line 2: column 'instance_weight': invalid value"),
        ("39, State-gov, 77516, Bachelors, 13, Never-married, <=50K\n", "line 1: 7 columns instead of 42"),
        ("<!DOCTYPE html><html>\n", "is a web page"),
        ("", "is empty"),
    ],
)
def test_what_is_no_split_of_the_census_is_refused(tmp_path: Path, train: str, told: str) -> None:
    message = refusal("census", write_small(tmp_path / "from", train=train), tmp_path / "out")
    assert "census-income.data" in message
    assert told in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "from/census-income.data", f"{LINE}\n")
    message = refusal("census", tmp_path / "from", tmp_path / "out")
    assert "has no census-income.test or test.parquet or validation.parquet" in message
    assert "it holds census-income.data" in message
