"""AliExpress: the published pair of files and the prepared file make the same columns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.ingest import aliexpress
from tests.published import batches, days_of, ingested, packaged_job, read_log, refusal, row, write_text

PAGES, ITEMS = 6, 40


def split(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Search pages and impressions with the published numbers of columns."""
    random = np.random.default_rng(seed)
    pages = pd.DataFrame({f"user_{n}": random.integers(0, 30, PAGES) for n in range(1, 34)})
    pages["user_1"] = np.arange(3, 3 + PAGES)
    for n in range(9, 32):
        pages[f"user_{n}"] = random.random(PAGES).round(6)
    items = pd.DataFrame({f"item_{n}": random.random(ITEMS).round(6) for n in range(1, 50)})
    items["item_1"] = random.integers(3, 3 + PAGES, ITEMS)
    for n in (19, 34, 35, 36, 40, 41, 42):
        items[f"item_{n}"] = random.integers(0, 9, ITEMS)
    items["item_49"] = random.integers(0, 3, ITEMS)
    return pages, items


def prepared(pages: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """The preparation that MTReclib describes, with pandas."""
    categories = [*(f"user_{n}" for n in (*range(1, 9), 32, 33)), *(f"item_{n}" for n in (19, 34, 35, 36, 40, 41, 42))]
    rest = [n for n in range(2, 49) if n not in (19, 34, 35, 36, 40, 41, 42)]
    numbers = [*(f"user_{n}" for n in range(9, 32)), *(f"item_{n}" for n in rest)]
    both = items.merge(pages, left_on="item_1", right_on="user_1")
    out = both[categories].set_axis(["search_id", *(f"categorical_{n}" for n in range(1, 17))], axis=1)
    out = pd.concat([out, both[numbers].set_axis([f"numerical_{n}" for n in range(1, 64)], axis=1)], axis=1)
    return out.assign(click=(both.item_49 > 0).astype(int), conversion=(both.item_49 == 2).astype(int))


def write_published(folder: Path, country: str = "nl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("train", "test")):
        for frame, kind in zip(split(seed), ("user", "item"), strict=True):
            frame.to_csv(folder / f"{country}_{kind}_{name}.csv", header=False, index=False)
    return folder


def write_prepared(folder: Path, end: str = ".csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("train", "test")):
        prepared(*split(seed)).to_csv(folder / f"{name}{end}", index=False)
    return folder


def test_both_forms_make_the_same_log(tmp_path: Path) -> None:
    one = ingested("aliexpress", write_published(tmp_path / "a"), tmp_path / "one")
    other = ingested("aliexpress", write_prepared(tmp_path / "b", ".csv.gz"), tmp_path / "other")
    assert days_of(one) == ["2000-01-01", "2000-01-02"]
    rows = read_log("aliexpress", one)
    assert rows.num_rows == 2 * ITEMS
    assert rows.equals(read_log("aliexpress", other))
    wanted = prepared(*split(0))
    found = rows.slice(0, ITEMS).to_pandas()
    np.testing.assert_array_equal(found.user_id, wanted.search_id)
    for name in (*aliexpress.CATEGORICAL, *aliexpress.LABELS):
        np.testing.assert_array_equal(found[name], wanted[name])
    np.testing.assert_allclose(found[aliexpress.NUMERICAL], wanted[aliexpress.NUMERICAL], rtol=1e-6)


LINE = (
    "3,8,0,0,0,8,4,31,0,3,0,0,1,0,0,1,0,1.0,0.0,0.10526300000000001,0.555556,1.0,0.22222199999999998,0.333333,"
    "0.22222199999999998,0.1381,0.21635,0.08975,0.18785,0.07715,0.0714,0.05165,0.05485,0.05065,0.04725,0.6195,0.73679,"
    "0.82916,0.18596,0.18492999999999998,0.07152,0.0,0.0,0.03848,0.6,0.34,0.0005099999999999999,0.779758,0.001556,"
    "0.05784299999999999,0.59633,0.442353,0.037859,0.022775,0.267322,0.296752,0.550516,0.144544,0.0,0.0,1.0,0.0,0.0,"
    "0.275016,0.1818,0.052289999999999996,0.30713,0.30307,0.249969,0.28226999999999997,0.1603,0.145979,"
    "0.8178890000000001,0.119395,0,0,0,0.47871,0.319446,0.373299,0,0\n"
)
"""The first row of AliExpress_NL/train.csv."""


def test_a_published_row_by_hand(tmp_path: Path) -> None:
    header = ",".join(aliexpress.PREPARED.columns) + "\n"
    write_text(tmp_path / "train.csv", header + LINE)
    write_text(tmp_path / "test.csv", header + LINE)
    first = row(read_log("aliexpress", ingested("aliexpress", tmp_path, tmp_path / "events")), 0)
    assert (first["user_id"], first["categorical_1"], first["categorical_7"]) == (3, 8, 31)
    assert first["numerical_63"] == pytest.approx(0.373299)
    assert (first["click"], first["conversion"]) == (0, 0)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_does_not_fit_is_refused_by_line(tmp_path: Path) -> None:
    source = write_published(tmp_path / "cut")
    text = (source / "nl_item_train.csv").read_text()
    (source / "nl_item_train.csv").write_text(text[:-30])
    assert "nl_item_train.csv, line 40: the file ends within" in refusal("aliexpress", source, tmp_path / "out")
    (source / "nl_item_train.csv").write_text(text.rpartition(",")[0] + ",3\n")
    message = refusal("aliexpress", source, tmp_path / "out")
    assert "line 40: column 'item_49': 3 is none of 0 (shown), 1 (clicked), 2 (bought)" in message
    (source / "nl_item_train.csv").write_text("77" + text)
    assert "line 1: column 'item_1'" in (message := refusal("aliexpress", source, tmp_path / "out"))
    assert "is no search page of" in message
    (source / "nl_item_train.csv").write_text((source / "nl_user_train.csv").read_text())
    assert "line 1: 33 columns instead of 49" in refusal("aliexpress", source, tmp_path / "out")


def test_a_page_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    source = write_published(tmp_path / "from")
    pages = source / "nl_user_test.csv"
    pages.write_text(pages.read_text() * 2)
    assert "nl_user_test.csv: a search page stands there several times" in refusal(
        "aliexpress", source, tmp_path / "out"
    )


def test_prepared_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    source = write_prepared(tmp_path / "from")
    edit(source / "train.csv", "numerical_63", "numerical_64")
    assert "train.csv, line 1: no column 'numerical_63'" in refusal("aliexpress", source, tmp_path / "out")


def test_one_country_at_a_time_and_all_its_files(tmp_path: Path) -> None:
    source = write_published(tmp_path / "from")
    write_published(source, "es")
    assert "holds several countries (es, nl)" in refusal("aliexpress", source, tmp_path / "out")
    assert "has no train.csv" in refusal("aliexpress", tmp_path, tmp_path / "out")


def test_the_packaged_job_reads_every_feature(tmp_path: Path) -> None:
    log = ingested("aliexpress", write_prepared(tmp_path), tmp_path / "events")
    job = packaged_job("aliexpress", log)
    assert {feature.source for feature in job.features} == {*aliexpress.CATEGORICAL, *aliexpress.NUMERICAL}
    (batch,) = batches("aliexpress", log)
    rows = read_log("aliexpress", log)
    assert sorted(batch.dense_BF[:, 0].tolist()) == sorted(rows.column("numerical_1").to_pylist())
    assert batch.labels_BT.sum(0).tolist() == [sum(rows.column(name).to_pylist()) for name in aliexpress.LABELS]
