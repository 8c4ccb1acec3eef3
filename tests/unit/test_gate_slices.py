"""Slices and single columns of held-out rows, against pandas."""

import datetime
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.data.files import plan
from pipeline.data.manifest import Manifest
from pipeline.gate.rows import column_of_rows
from pipeline.gate.slices import check_slices, slice_masks
from schemas.daily import GateConfig, SliceSpec
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from tests.logs import small_job, write_log

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
LAST = datetime.date(2026, 1, 4)
ROWS = 500


def users_of(seed: int) -> Any:
    """Other users on each day, some of them on several."""
    return lambda column: pa.array(np.random.default_rng([seed, column[0].as_py()]).zipf(1.5, len(column)) % 97)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gate") / "log"
    tenants = pa.array(
        np.array(["acme", "bolt", "core", None])[np.random.default_rng(3).choice(4, ROWS, p=[0.5, 0.2, 0.2, 0.1])]
    )
    write_log(root, DAYS, ROWS, row_group_rows=[90, 0, 70], files_per_day=2, user_id=users_of(1), tenant=tenants)
    return root


def planned(log: Path | str, day: datetime.date = LAST) -> tuple[JobConfig, Manifest]:
    job = small_job(log, "out")
    return job, plan(job, DayRange.model_validate({"from": day, "to": day}))


def pandas_of(log: Path, day: str) -> pd.DataFrame:
    parts = sorted((log / f"dt={day}").glob("*.parquet"))
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)


def gate(**slices: Any) -> GateConfig:
    return GateConfig(slices=[SliceSpec(name=name, **spec) for name, spec in slices.items()])


HELD = np.flatnonzero(np.random.default_rng(4).random(ROWS) < 0.3)


@pytest.mark.parametrize("rows", [HELD, np.arange(ROWS), HELD[:1], HELD[-1:], HELD[:0]], ids=len)
def test_a_column_of_rows_is_pandas_own(log: Path, rows: np.ndarray) -> None:
    job, manifest = planned(log)
    frame = pandas_of(log, DAYS[-1])
    users = column_of_rows(job, manifest, "user_id", rows)
    assert users.dtype == np.int64
    assert (users == frame["user_id"].to_numpy()[rows]).all()
    assert column_of_rows(job, manifest, "city", rows).tolist() == frame["city"].to_numpy()[rows].tolist()


def test_row_ids_run_over_days_and_files(log: Path) -> None:
    job = small_job(log, "out")
    manifest = plan(job, DayRange.model_validate({"from": DAYS[0], "to": DAYS[-1]}))
    rows = np.arange(0, manifest.rows, 7)
    whole = pd.concat([pandas_of(log, day) for day in DAYS], ignore_index=True)
    assert (column_of_rows(job, manifest, "item_id", rows) == whole["item_id"].to_numpy()[rows]).all()


def test_new_users_are_those_that_earlier_days_did_not_have(log: Path) -> None:
    job, manifest = planned(log)
    user = pandas_of(log, DAYS[-1])["user_id"].to_numpy()
    told: list[str] = []
    masks = slice_masks(
        job,
        gate(one={"column": "user_id", "new_days": 1}, two={"column": "user_id", "new_days": 2}),
        manifest,
        LAST,
        HELD,
        told.append,
    )
    for name, days in (("one", DAYS[2:3]), ("two", DAYS[1:3])):
        before = pd.concat([pandas_of(log, day) for day in days])["user_id"]
        assert (masks[name] == ~np.isin(user, before)[HELD]).all()
        assert 0 < masks[name].sum() < len(HELD)
    assert masks["one"].sum() > masks["two"].sum()
    assert told == []


def test_missing_and_unfinished_days_are_told_and_passed_over(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "log"
    shutil.copytree(log, copy)
    shutil.rmtree(copy / f"dt={DAYS[2]}")
    (copy / f"dt={DAYS[1]}" / "_SUCCESS").unlink()
    job, manifest = planned(copy)
    told: list[str] = []
    masks = slice_masks(job, gate(new={"column": "user_id", "new_days": 4}), manifest, LAST, HELD, told.append)
    first = pandas_of(copy, DAYS[0])["user_id"]
    assert (masks["new"] == ~pandas_of(copy, DAYS[-1])["user_id"].isin(first).to_numpy()[HELD]).all()
    assert told == ["slice new: of 4 earlier days 3 are missing, and passed over: 2025-12-31, 2026-01-02, 2026-01-03"]


def test_an_earlier_day_need_not_have_the_jobs_other_columns(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "log"
    shutil.copytree(log, copy)
    write_log(copy, DAYS[2:3], ROWS, user_id=users_of(1), city=None, click=None)
    job, manifest = planned(copy)
    masks = slice_masks(job, gate(new={"column": "user_id", "new_days": 1}), manifest, LAST, HELD)
    before = pandas_of(log, DAYS[2])["user_id"]
    assert (masks["new"] == ~pandas_of(log, DAYS[-1])["user_id"].isin(before).to_numpy()[HELD]).all()


def test_the_tail_is_of_all_rows_of_the_day(log: Path) -> None:
    job, manifest = planned(log)
    user = pandas_of(log, DAYS[-1])["user_id"]
    masks = slice_masks(job, gate(tail={"column": "user_id", "tail": 0.3}), manifest, LAST, HELD)
    rising = user.value_counts().rename_axis("user").reset_index().sort_values(["count", "user"])
    tail = rising["user"][rising["count"].cumsum() <= 0.3 * ROWS]
    assert (masks["tail"] == user.isin(tail).to_numpy()[HELD]).all()
    assert 0.2 < user.isin(tail).mean() <= 0.3


def test_the_most_frequent_values_are_slices_by_name(log: Path) -> None:
    job, manifest = planned(log)
    frame = pandas_of(log, DAYS[-1])
    masks = slice_masks(
        job,
        gate(tenant={"column": "tenant", "values": 2}, place={"column": "city", "values": 99}),
        manifest,
        LAST,
        HELD,
    )
    top = frame["tenant"].value_counts().index[:2]
    assert [name for name in masks if name.startswith("tenant")] == [f"tenant={name}" for name in top]
    for name in top:
        assert (masks[f"tenant={name}"] == (frame["tenant"] == name).to_numpy()[HELD]).all()
    places = [mask for name, mask in masks.items() if name.startswith("place=")]
    assert len(places) == frame["city"].nunique()
    assert (np.sum(places, axis=0) == 1).all()


def test_nulls_are_in_no_slice(log: Path) -> None:
    job, manifest = planned(log)
    null_N = pandas_of(log, DAYS[-1])["tenant"].isna().to_numpy()
    spec = {
        "a": {"column": "tenant", "values": 9},
        "b": {"column": "tenant", "tail": 0.99},
        "c": {"column": "tenant", "new_days": 9},
    }
    masks = slice_masks(job, gate(**spec), manifest, LAST, np.arange(ROWS), lambda words: None)
    assert null_N.any()
    assert not np.any([mask[null_N] for mask in masks.values()])
    with pytest.raises(
        InputError, match=r"dt=2026-01-04/part-00000\.parquet, row group 0, row \d+: column 'tenant' .* is null"
    ):
        column_of_rows(job, manifest, "tenant", np.arange(ROWS))


def test_what_is_wrong_is_named_with_key_and_file(log: Path) -> None:
    job, manifest = planned(log)
    check_slices(job, gate(x={"column": "city", "values": 1}), manifest)
    for spec, told in (
        ({"column": "tenent", "values": 1}, r"slices\.x\.column: .*part-00000\.parquet: column 'tenent' is missing"),
        ({"column": "price", "tail": 0.5}, r"part-00000\.parquet: column 'price' .*slices\.x\.column\) holds float"),
    ):
        with pytest.raises(InputError, match=told):
            slice_masks(job, gate(x=spec), manifest, LAST, HELD)
        with pytest.raises(InputError, match=told):
            check_slices(job, gate(x=spec), manifest)
    with pytest.raises(InputError, match=r"do not ascend within the 500 of the manifest; score"):
        column_of_rows(job, manifest, "city", np.array([3, 500]))


def test_a_damaged_page_is_found(log: Path, tmp_path: Path) -> None:
    """Page checksums are verified: a flipped bit of the column does not become another user."""
    copy = tmp_path / "log"
    shutil.copytree(log, copy)
    job, manifest = planned(copy)
    path = sorted((copy / f"dt={DAYS[-1]}").glob("*.parquet"))[0]
    data = bytearray(path.read_bytes())
    data[60] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"part-00000\.parquet, row group 0: cannot be decoded"):
        column_of_rows(job, manifest, "user_id", np.arange(ROWS))


def test_only_row_groups_with_held_out_rows_are_read(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "log"
    shutil.copytree(log, copy)
    job, manifest = planned(copy)
    sorted((copy / f"dt={DAYS[-1]}").glob("*.parquet"))[1].unlink()
    assert len(column_of_rows(job, manifest, "user_id", np.arange(240))) == 240
    with pytest.raises(InputError, match="vanished"):
        column_of_rows(job, manifest, "user_id", np.arange(260))


def test_a_log_in_an_object_store(log: Path) -> None:
    url = "memory://gate-slices/log"
    write_log(url, DAYS[2:], ROWS, row_group_rows=[90, 0, 70], files_per_day=2, user_id=users_of(1))
    spec = {"new": {"column": "user_id", "new_days": 2}, "tail": {"column": "city", "tail": 0.4}}
    told: list[str] = []
    masks = slice_masks(*planned(url)[:1], gate(**spec), planned(url)[1], LAST, HELD, told.append)
    local = slice_masks(*planned(log)[:1], gate(**spec), planned(log)[1], LAST, HELD)
    assert (masks["tail"] == local["tail"]).all()
    assert masks["new"].sum() > local["new"].sum(), "a day less to have been seen on"
    assert told == ["slice new: of 2 earlier days 1 are missing, and passed over: 2026-01-02"]
