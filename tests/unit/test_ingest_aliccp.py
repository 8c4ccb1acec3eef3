"""Ali-CCP: skeleton and common features in their own separators, joined through the disk."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import aliccp
from tests.published import batches, days_of, ingested, packaged_job, read_log, refusal, row, write_text


def features(*given: tuple[str, int, float]) -> str:
    """`205\\x0241\\x031.0`, joined by \\x01."""
    return "\x01".join(f"{field}\x02{number}\x03{value}" for field, number, value in given)


USER_A = [("101", 31319, 1.0), ("121", 38, 1.0), ("124", 3, 1.0), ("109_14", 71, 1.5), ("109_14", 72, 2.5)]
USER_B = [("101", 999, 1.0), ("150_14", 9, 0.69315)]
ITEM = [("205", 41, 1.0), ("206", 7, 1.0), ("210", 5, 1.0), ("210", 6, 1.0), ("508", 12, 2.19722), ("301", 2, 1.0)]
OTHER = [("205", 42, 1.0), ("216", 3, 1.0)]


def sample(number: int, click: int, conversion: int, index: str, given: list[tuple[str, int, float]]) -> str:
    return f"{number},{click},{conversion},{index},{len(given)},{features(*given)}\n"


def common(index: str, given: list[tuple[str, int, float]]) -> str:
    return f"{index},{len(given)},{features(*given)}\n"


SKELETON = sample(1, 1, 1, "bacff91692951881", ITEM) + sample(2, 0, 0, "c002", OTHER) + sample(3, 0, 1, "c002", ITEM)
COMMON = common("c002", USER_B) + common("bacff91692951881", USER_A)


def write(folder: Path, skeleton: str = SKELETON, shared: str = COMMON, end: str = ".csv") -> Path:
    write_text(folder / f"sample_skeleton_train{end}", skeleton)
    write_text(folder / f"common_features_train{end}", shared)
    write_text(folder / f"sample_skeleton_test{end}", sample(9, 1, 0, "t1", ITEM))
    write_text(folder / f"common_features_test{end}", common("t1", USER_A))
    return folder


def test_impressions_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ingested("aliccp", write(tmp_path), tmp_path / "events")
    assert "1 conversions without a click, kept" in capsys.readouterr().out
    assert days_of(log) == ["2000-01-01", "2000-01-02"]
    rows = read_log("aliccp", log, ["2000-01-01"]).sort_by("event_time")
    first, second, third = (row(rows, n) for n in range(3))
    assert [r["user_id"] for r in (first, second, third)] == [31319, 999, 999]
    assert [(r["click"], r["conversion"]) for r in (first, second, third)] == [(1, 1), (0, 0), (0, 1)]
    assert (first["item_id"], first["item_category"], first["item_shop"], first["position"]) == (41, 7, None, 2)
    assert (first["user_profile"], first["user_gender"], first["user_age"]) == (38, 3, None)
    assert (first["item_intentions"], first["user_item_categories"]) == ([5, 6], [12])
    assert first["user_item_categories_weight"] == pytest.approx([2.19722])
    assert (first["user_categories"], first["user_categories_weight"]) == ([72, 71], [2.5, 1.5])
    assert (second["item_id"], second["item_brand"], second["user_categories"]) == (42, 3, [])
    assert (second["user_intentions"], second["user_profile"]) == ([9], None)
    assert row(read_log("aliccp", log, ["2000-01-02"]), 0)["user_categories"] == [72, 71]


def test_many_parts_join_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    users = [f"{index:016x}" for index in range(60)]
    shared = "".join(common(u, [("101", 1000 + n, 1.0), ("121", n % 7, 1.0)]) for n, u in enumerate(users))
    of = random.integers(0, 60, 900).tolist()
    skeleton = "".join(sample(n, n % 2, 0, users[u], [("205", n, 1.0), ("206", u, 1.0)]) for n, u in enumerate(of))
    monkeypatch.setattr(aliccp, "PART_BYTES", 3000)
    monkeypatch.setattr(aliccp, "ROWS_AT_ONCE", 7)
    log = ingested("aliccp", write(tmp_path, skeleton, shared), tmp_path / "events")
    written = read_log("aliccp", log, ["2000-01-01"]).to_pandas()
    assert (np.diff(written.user_id) != 0).sum() == written.user_id.nunique() - 1, "a user's rows lie together"
    rows = written.sort_values("event_time")
    assert rows.item_id.tolist() == list(range(900))
    assert rows.user_id.tolist() == [1000 + u for u in of]
    assert rows.user_profile.tolist() == [u % 7 for u in of]
    assert rows.click.tolist() == [n % 2 for n in range(900)]
    assert not list((tmp_path / "events").glob(".*"))


def test_long_lists_keep_their_largest_and_single_fields_their_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [("101", 5, 1.0), ("101", 6, 1.0), *(("110_14", n, float(n % 5)) for n in range(10))]
    source = write(tmp_path, sample(1, 0, 0, "u", OTHER), common("u", many))
    log = ingested("aliccp", source, tmp_path / "events", "--longest", "3")
    said = capsys.readouterr().out
    assert "1 further ids of fields that have one, left out" in said
    assert "7 ids of lists longer than 3, left out" in said
    first = row(read_log("aliccp", log), 0)
    assert (first["user_id"], first["user_shops"], first["user_shops_weight"]) == (5, [4, 9, 3], [4, 4, 3])


def test_histories_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = read_log_names(ingested("aliccp", write(tmp_path), tmp_path / "events", "--longest", "0"))
    assert "take the features user_categories, user_shops, user_brands, user_intentions out" in capsys.readouterr().out
    assert names & {*aliccp.USER_LISTS, "user_shops_weight"} == set()
    assert {"user_item_shops", "user_item_shops_weight", "user_profile"} <= names


def read_log_names(log: Path) -> set[str]:
    import pyarrow.parquet as pq

    return set(pq.read_schema(next(log.glob("dt=*/*.parquet"))).names)


def test_compressed(tmp_path: Path) -> None:
    log = ingested("aliccp", write(tmp_path, end=".csv.gz"), tmp_path / "events")
    assert read_log("aliccp", log).num_rows == 4


@pytest.mark.parametrize(
    ("skeleton", "shared", "told"),
    [
        (SKELETON[:-3], COMMON, "sample_skeleton_train.csv, line 3: the file ends within this line"),
        (SKELETON, COMMON[:-3], "common_features_train.csv, line 2: the file ends within this line"),
        (SKELETON + sample(4, 0, 0, "gone", ITEM), COMMON, "train.csv, line 4: its common features 'gone' are not in"),
        (SKELETON, COMMON + common("c002", USER_A), "the index 'c002' stands there several times"),
        (SKELETON + "4,0,0,c002,1,205\x0241\n", COMMON, "train.csv, line 4: column 'features': no list of FIELD"),
        (SKELETON + "4,0,0,c002,1,205:41:1\n", COMMON, "train.csv, line 4: column 'features': no list of FIELD"),
        (SKELETON + "4,0,0,c002,1,205\x02x\x031\n", COMMON, "train.csv, line 4: column 'features': no list of FIELD"),
        (SKELETON + "4,0,0,c002,3,205\x024\x031\n", COMMON, "line 4: column 'number': 3 is not the number of features"),
        (SKELETON + "4,2,0,c002,1,205\x024\x031\n", COMMON, "line 4: column 'click': 2 is neither 0 nor 1"),
        (SKELETON + "4,0,0,c002\n", COMMON, "line 4: 4 columns instead of 6"),
        (SKELETON, COMMON + common("x", [("121", 3, 1.0)]), "line 3: column 'common': 'x' has no field 101"),
        (COMMON, COMMON, "sample_skeleton_train.csv, line 1: 3 columns instead of 6"),
    ],
)
def test_what_does_not_fit_is_refused_by_line(tmp_path: Path, skeleton: str, shared: str, told: str) -> None:
    assert told in refusal("aliccp", write(tmp_path / "from", skeleton, shared), tmp_path / "out")


def test_every_file_is_needed(tmp_path: Path) -> None:
    (write(tmp_path / "from") / "common_features_test.csv").unlink()
    assert "has no common_features_test.csv" in refusal("aliccp", tmp_path / "from", tmp_path / "out")


def test_the_packaged_job_reads_every_field(tmp_path: Path) -> None:
    log = ingested("aliccp", write(tmp_path), tmp_path / "events")
    job = packaged_job("aliccp", log)
    columns = {*aliccp.USER_FIELDS, *aliccp.USER_LISTS, *aliccp.ITEM_FIELDS, *aliccp.ITEM_LISTS}
    assert {feature.source for feature in job.features} == columns
    (batch,) = batches("aliccp", log)
    assert batch.labels_BT.sum(0).tolist() == [2, 2]
    assert sum(stage.sum() for stage in batch.space_BT[:, 0]) == 4
