"""The generated log: what is written, that it follows the declared truth, and that the truth is the one declared."""

import collections
import datetime as dt
import hashlib
import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from jobs.generate import main
from pipeline.data.declared_truth import (
    CART,
    CART_LIFT,
    CITIES,
    CLICK,
    DEVICES,
    LATENT,
    ORDER,
    POSITIONS,
    SEGMENTS,
    TASK_TRUTHS,
    TASKS,
    Purpose,
    TruthSpec,
    stream,
)
from pipeline.data.generated_log import (
    HISTORY_DECAY,
    HISTORY_LENGTH,
    ClickHistory,
    LogSpec,
    Progress,
    generate_log,
    truth_probabilities,
    warm_up,
)
from pipeline.data.ground_truth import GroundTruth, draw_labels, exact_auc

WORLD = TruthSpec(seed=3, users=300, items=120, categories=10)
SPEC = LogSpec(WORLD, days=3, rows_per_day=4_000, row_group_rows=512)
DATES = ("2026-01-01", "2026-01-02", "2026-01-03")


def digest(root: Path) -> dict[str, str]:
    return {
        f"{p.relative_to(root)}": hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def read_day(root: Path, date: str) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(p, partitioning=None) for p in sorted((root / f"dt={date}").glob("*.parquet"))
    )


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("log")
    generate_log(f"{root}", SPEC)
    return root


@pytest.fixture(scope="module")
def default_world() -> GroundTruth:
    return GroundTruth(TruthSpec())


# What is written


def test_layout_is_hive_days_of_several_files_with_success_and_truth(log: Path) -> None:
    names = {name for name in digest(log) if "dt=" not in name}
    assert names == {"_truth.json"}
    for date in DATES:
        day = log / f"dt={date}"
        assert sorted(p.name for p in day.iterdir()) == ["_SUCCESS", "part-00000.parquet", "part-00001.parquet"]
        assert (day / "_SUCCESS").read_bytes() == b""
        assert all((day / "_SUCCESS").stat().st_mtime_ns >= p.stat().st_mtime_ns for p in day.iterdir())
        assert len(read_day(log, date)) == SPEC.rows_per_day


def test_schema_is_exact_and_nothing_is_nullable(log: Path) -> None:
    schema = pq.read_schema(log / f"dt={DATES[0]}" / "part-00000.parquet")
    kinds = {f.name: f.type for f in schema}
    integers = ("user_id", "item_id", "category_id", "hour", "position")
    assert kinds == {
        **dict.fromkeys(integers, pa.int64()),
        "event_time": pa.timestamp("ms"),
        **dict.fromkeys(("city", "device"), pa.string()),
        **dict.fromkeys(("age", "price"), pa.float32()),
        "history": pa.list_(pa.field("element", pa.int64(), nullable=False)),
        "history_weight": pa.list_(pa.field("element", pa.float32(), nullable=False)),
        **dict.fromkeys(TASKS, pa.int8()),
    }
    assert not any(f.nullable for f in schema)
    assert not schema.field("history").type.value_field.nullable
    assert not schema.field("history_weight").type.value_field.nullable


def test_row_groups_are_even_lz4_and_dictionary_encoded(log: Path) -> None:
    meta = [pq.ParquetFile(p).metadata for p in sorted((log / f"dt={DATES[1]}").glob("*.parquet"))]
    groups = [m.row_group(g) for m in meta for g in range(m.num_row_groups)]
    assert [m.num_row_groups for m in meta] == [4, 4]
    assert {g.num_rows for g in groups} == {500}  # 4,000 rows at most 512 a group: 8 even groups, no sliver
    columns = [groups[0].column(c) for c in range(groups[0].num_columns)]
    assert {c.compression for c in columns} == {"LZ4"}
    with_dictionary = {c.path_in_schema for c in columns if c.has_dictionary_page}
    assert {"city", "device", "category_id", "click", "history.list.element"} <= with_dictionary
    assert "event_time" not in with_dictionary


def test_a_flipped_bit_in_a_page_is_found_by_its_checksum(log: Path, tmp_path: Path) -> None:
    whole = log / f"dt={DATES[0]}" / "part-00000.parquet"
    age = pq.ParquetFile(whole).metadata.row_group(0).column(6)
    assert age.path_in_schema == "age"
    broken = bytearray(whole.read_bytes())
    broken[age.data_page_offset + age.total_compressed_size // 4] ^= 1
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(broken)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.ParquetFile(torn, page_checksum_verification=True).read()


def test_rows_come_in_time_order_within_their_day_and_in_range(log: Path) -> None:
    for date in DATES:
        rows = read_day(log, date)
        ms = column(rows, "event_time").astype("datetime64[ms]")
        assert (np.diff(ms) >= np.timedelta64(0)).all()
        assert set(ms.astype("datetime64[D]").astype(str)) == {date}
        assert (column(rows, "hour") == ms.astype("datetime64[h]").astype(int) % 24).all()
        bounds = (("user_id", WORLD.users), ("item_id", WORLD.items), ("category_id", 10), ("position", POSITIONS))
        for name, end in bounds:
            assert column(rows, name).min() >= 0
            assert column(rows, name).max() < end
        assert set(rows["city"].to_pylist()) <= set(CITIES)
        assert set(rows["device"].to_pylist()) == set(DEVICES)
        assert column(rows, "price").min() > 0


def test_funnel_is_clean_and_labels_are_bits(log: Path) -> None:
    for date in DATES:
        rows = read_day(log, date)
        labels = {task: column(rows, task) for task in TASKS}
        assert all(set(np.unique(label)) == {0, 1} for label in labels.values())
        assert not any(labels[task][labels["click"] == 0].any() for task in TASKS[1:])


# The same settings, the same bytes


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(log: Path, tmp_path: Path) -> None:
    generate_log(f"{tmp_path / 'again'}", SPEC)
    assert digest(tmp_path / "again") == digest(log)
    other = LogSpec(TruthSpec(seed=4, users=300, items=120, categories=10), 1, 4_000, row_group_rows=512)
    generate_log(f"{tmp_path / 'other'}", other)
    assert read_day(tmp_path / "other", DATES[0])["item_id"] != read_day(log, DATES[0])["item_id"]


def test_days_are_a_prefix_and_traffic_leaves_the_world_alone(log: Path, tmp_path: Path) -> None:
    generate_log(f"{tmp_path / 'short'}", LogSpec(WORLD, 1, 4_000, row_group_rows=512))
    assert read_day(tmp_path / "short", DATES[0]) == read_day(log, DATES[0])
    generate_log(f"{tmp_path / 'busy'}", LogSpec(WORLD, 1, 6_000, row_group_rows=1_000))
    for key, names in (("item_id", ("category_id", "price")), ("user_id", ("age", "city"))):
        few, many = (
            {tuple(row.values()) for row in read_day(root, DATES[0]).select([key, *names]).to_pylist()}
            for root in (log, tmp_path / "busy")
        )
        ids = {row[0] for row in few} & {row[0] for row in many}
        assert len(ids) > 100
        assert {row for row in few if row[0] in ids} == {row for row in many if row[0] in ids}


def test_a_finished_log_is_left_alone(log: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in log.rglob("*")}
    assert generate_log(f"{log}", SPEC).rows == 0
    assert {p: p.stat().st_mtime_ns for p in log.rglob("*")} == before


def test_other_settings_in_the_same_place_are_refused_by_name(log: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings: .*rows_per_day 4000 \(asked: 4001\).*choose another --out"):
        generate_log(f"{log}", LogSpec(WORLD, 3, 4_001, row_group_rows=512))


def test_days_that_were_not_generated_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dt=2026-01-01").mkdir()
    with pytest.raises(ValueError, match="holds days that were not generated"):
        generate_log(f"{tmp_path}", SPEC)
    assert not (tmp_path / "_truth.json").exists()


def test_an_unreadable_truth_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_truth.json").write_text("{")
    with pytest.raises(ValueError, match=r"_truth.json is not readable .* remove"):
        generate_log(f"{tmp_path}", SPEC)


def test_an_interrupted_log_is_completed_to_the_same_bytes(log: Path, tmp_path: Path) -> None:
    def stop_in_day_2(at: Progress) -> None:
        if (at.day, at.rows) == (1, 2_000):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_log(f"{tmp_path}", SPEC, stop_in_day_2)
    assert (tmp_path / f"dt={DATES[0]}" / "_SUCCESS").exists()
    assert sorted(p.name for p in (tmp_path / f"dt={DATES[1]}").iterdir()) == ["part-00000.parquet"]
    first = tmp_path / f"dt={DATES[0]}" / "part-00000.parquet"
    written = first.stat().st_mtime_ns
    assert generate_log(f"{tmp_path}", SPEC).rows == 8_000
    assert first.stat().st_mtime_ns == written
    assert digest(tmp_path) == digest(log)


def test_a_file_is_hidden_until_whole_and_a_failed_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_writing: list[str] = []

    def full(*_: object, **__: object) -> None:
        while_writing.extend(p.name for p in (tmp_path / f"dt={DATES[0]}").iterdir())
        raise OSError("No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        generate_log(f"{tmp_path}", SPEC)
    assert while_writing == [".part-00000.parquet.tmp"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["_truth.json", f"dt={DATES[0]}"]


def test_any_fsspec_url_will_do(log: Path) -> None:
    generate_log("memory://made/log", SPEC)
    fs = fsspec.filesystem("memory")
    try:
        made = {p.removeprefix("/made/log/"): fs.cat_file(p) for p in fs.find("/made/log")}
    finally:
        fs.rm("/made", recursive=True)
    assert made == {f"{p.relative_to(log)}": p.read_bytes() for p in log.rglob("*") if p.is_file()}


# Histories


def test_click_history_is_the_last_clicks_latest_first() -> None:
    rng, history = np.random.default_rng(0), ClickHistory(6)
    naive: dict[int, collections.deque[int]] = {u: collections.deque(maxlen=HISTORY_LENGTH) for u in range(6)}
    for clicks in (3, 40, 0, 200, 7):  # of 200 clicks, some users have far more than a ring holds
        user = rng.choice(5, size=clicks, p=(0.6, 0.2, 0.1, 0.07, 0.03))
        item = rng.integers(1_000, size=clicks)
        history.add(user, item)
        for u, i in zip(user.tolist(), item.tolist(), strict=True):
            naive[u].append(i)
        items, weights = history.snapshot()
        assert items.to_pylist() == [list(reversed(naive[u])) for u in range(6)]
        for row in weights.to_pylist():
            np.testing.assert_allclose(row, HISTORY_DECAY ** np.arange(len(row)), rtol=1e-6)


def test_histories_are_the_clicks_of_earlier_days_only(log: Path) -> None:
    history = ClickHistory(WORLD.users)
    warm_up(GroundTruth(WORLD), history)
    for date in DATES:
        rows = read_day(log, date)
        user = column(rows, "user_id")
        opening = history.snapshot()[0].to_pylist()
        assert rows["history"].to_pylist() == [opening[u] for u in user]
        lengths = [len(h) for h in rows["history"].to_pylist()]
        assert [len(w) for w in rows["history_weight"].to_pylist()] == lengths
        clicked = column(rows, "click") == 1
        history.add(user[clicked], column(rows, "item_id")[clicked])


def test_some_users_start_without_a_history_and_most_with_one(default_world: GroundTruth) -> None:
    history = ClickHistory(default_world.spec.users)
    warm_up(default_world, history)
    length = history.snapshot()[0].value_lengths().to_numpy()
    assert 0.02 < np.mean(length == 0) < 0.25
    assert length.max() == HISTORY_LENGTH


# The truth


@pytest.mark.parametrize("conflict", [0.0, 0.6, 1.0])
def test_click_and_order_disagree_as_declared(conflict: float) -> None:
    truth = GroundTruth(TruthSpec(seed=5, users=50, items=6_000, categories=40, conflict=conflict))

    def correlation(effect_IT: np.ndarray, task: int) -> float:
        return float(np.corrcoef(effect_IT[:, CLICK].ravel(), effect_IT[:, task].ravel())[0, 1])

    # 6,000 independent pairs: three standard errors are .04
    assert correlation(truth.item_effect_IT, ORDER) == pytest.approx(-conflict, abs=0.04)
    assert correlation(truth.item_effect_IT, CART) == pytest.approx(0.3, abs=0.04)
    assert correlation(truth.item_drift(1), ORDER) == pytest.approx(-conflict, abs=0.04)
    # 40 category centres carry most of a latent factor: about 40 x LATENT independent pairs
    assert correlation(truth.item_latent_ITK, ORDER) == pytest.approx(-conflict, abs=3 / np.sqrt(40 * LATENT))


def test_drift_is_a_random_walk_that_0_stops() -> None:
    still = GroundTruth(TruthSpec(users=50, items=2_000, drift=0.0))
    assert not still.item_drift(4).any()
    moving = GroundTruth(TruthSpec(users=50, items=2_000, drift=0.1))
    assert not moving.item_drift(0).any()
    for day in (1, 4):
        assert moving.item_drift(day).std() == pytest.approx(0.1 * np.sqrt(day), rel=0.05)
    step = moving.item_drift(4) - moving.item_drift(3)
    assert step.std() == pytest.approx(0.1, rel=0.05)


def test_written_labels_are_calibrated_to_the_true_probabilities(tmp_path: Path) -> None:
    world = TruthSpec(seed=7, users=300, items=120, categories=10)
    generate_log(f"{tmp_path}", LogSpec(world, 2, 60_000))
    truth, rows = GroundTruth(world), read_day(tmp_path, DATES[1])
    p = truth_probabilities(truth, 1, rows)
    clicked = column(rows, "click") == 1
    for task in TASKS:
        space = np.ones(len(rows), bool) if task == "click" else clicked
        score, label = getattr(p, task)[space].astype(np.float64), column(rows, task)[space]
        for part in np.array_split(np.argsort(score), 8):
            error = label[part].mean() - score[part].mean()
            assert abs(error) < 4.5 * np.sqrt((score[part] * (1 - score[part])).sum()) / len(part), task


def test_a_cart_lifts_an_order_by_the_declared_logits(default_world: GroundTruth) -> None:
    rng = stream(1, Purpose.ROWS, 0)
    shown = default_world.draw_exposures(rng, 150_000)
    p = default_world.day(0).probabilities(shown.user, shown.item, shown.hour, shown.device, shown.position)
    labels = draw_labels(rng, p)
    click, cart, order = (labels[task] == 1 for task in ("click", "cart", "order"))

    def logit(q: np.ndarray) -> np.ndarray:
        return np.log(q) - np.log1p(-q)

    lift = logit(p.order_carted.astype(np.float64)) - logit(p.order_uncarted.astype(np.float64))
    np.testing.assert_allclose(lift, CART_LIFT, atol=1e-3)
    for space, expected in ((click & cart, p.order_carted), (click & ~cart, p.order_uncarted)):
        spread = np.sqrt((expected[space] * (1 - expected[space])).sum())
        assert abs(int(order[space].sum()) - expected[space].sum()) < 4.5 * spread
    assert order[click & cart].mean() > 2 * order[click & ~cart].mean()
    np.testing.assert_allclose(p.order, p.cart * p.order_carted + (1 - p.cart) * p.order_uncarted, rtol=1e-5)


def test_recorded_auc_is_that_of_the_true_probabilities(log: Path) -> None:
    record = json.loads((log / "_truth.json").read_text())
    assert record["spec"] == SPEC.recorded()
    truth = GroundTruth(WORLD)
    for day, date in enumerate(DATES):
        rows = read_day(log, date)
        p, told = truth_probabilities(truth, day, rows), record["days"][date]
        clicked = column(rows, "click") == 1
        for task in TASKS:
            space = np.ones(len(rows), bool) if task == "click" else clicked
            label, score = column(rows, task), getattr(p, task)
            assert told[task]["rows"] == space.sum()
            assert told[task]["positives"] == label.sum()
            assert told[task]["auc"] == pytest.approx(roc_auc_score(label[space], score[space]), abs=1e-12)
            if task != "click":
                joint = told["joint"][task]
                assert joint["rows"] == len(rows)
                assert joint["auc"] == pytest.approx(roc_auc_score(label, p.click * score), abs=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_exact_auc_gives_ties_half(kind: type) -> None:
    rng = np.random.default_rng(2)
    for levels in (2, 7, 10_000):
        score = (rng.integers(levels, size=3_000) / levels).astype(kind)
        label = (rng.random(3_000) < 0.2 + 0.5 * score).astype(np.int8)
        assert exact_auc(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert exact_auc(np.ones(4), np.array([0, 1, 0, 1], np.int8)) == 0.5
    assert exact_auc(np.ones(4), np.ones(4, np.int8)) is None


def test_default_world_has_the_declared_rates_and_can_be_learnt(default_world: GroundTruth) -> None:
    rng, today = stream(1, Purpose.ROWS, 1), default_world.day(4)
    shown = default_world.draw_exposures(rng, 150_000)
    row = (shown.user, shown.item, shown.hour, shown.device, shown.position)
    p = today.probabilities(*row)
    labels = draw_labels(rng, p)
    click = labels["click"] == 1
    best = exact_auc(p.click, labels["click"])
    assert best is not None
    assert 0.75 < best < 0.82
    for task in TASK_TRUTHS:
        space = np.ones(len(click), bool) if task.name == "click" else click
        assert labels[task.name][space].mean() == pytest.approx(task.rate, rel=0.2)  # four days of drift included
        if task.name != "click":
            assert 0.70 < (exact_auc(getattr(p, task.name)[click], labels[task.name][click]) or 0.0) < 0.80
    # What no feature shows (a user's own effect and taste, an item's own latent, the drift) must be a small part.
    segment = default_world.user_segment_U
    centre = np.stack([default_world.taste_UK[segment == s].mean(axis=0) for s in range(SEGMENTS)])[segment]
    of = default_world.item_category_I
    kind = np.stack([default_world.item_latent_ITK[of == c].mean(axis=0) for c in range(of.max() + 1)])[of]
    own = np.einsum("nk,nk->n", default_world.taste_UK[shown.user], default_world.item_latent_ITK[shown.item, CLICK])
    shared = np.einsum("nk,nk->n", centre[shown.user], kind[shown.item, CLICK])
    hidden = own - shared + default_world.user_effect_UT[shown.user, CLICK]
    hidden += default_world.item_drift(4)[shown.item, CLICK]
    learnable = exact_auc(today.logits(*row)[:, CLICK] - hidden, labels["click"])
    assert learnable is not None
    assert (learnable - 0.5) / (best - 0.5) > 0.9


def test_exposures_follow_the_declared_popularity(default_world: GroundTruth) -> None:
    shown = default_world.draw_exposures(stream(0, Purpose.ROWS, 2), 200_000)
    position = np.bincount(shown.position, minlength=POSITIONS) / 200_000
    declared = 1.0 / (np.arange(POSITIONS) + 8.0)
    np.testing.assert_allclose(position, declared / declared.sum(), atol=0.004)
    items = np.sort(np.bincount(shown.item, minlength=5_000))[::-1]
    declared = 1.0 / (np.arange(5_000) + 10.0)
    assert items[:100].sum() / 200_000 == pytest.approx(declared[:100].sum() / declared.sum(), abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"users": 1}, "users is 1; it must be 2 or more"),
        ({"conflict": 1.5}, r"conflict is 1.5; it must lie in \[0, 1\]"),
        ({"conflict": float("nan")}, "conflict is nan"),
        ({"drift": -0.1}, "drift is -0.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_world_that_cannot_be_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TruthSpec(**wrong)


# The command


def test_command_writes_then_has_nothing_to_do_then_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--out", f"{tmp_path / 'log'}", "--rows-per-day", "2000", "--users", "100", "--items", "50"]
    assert main([*place, "--days", "2", "--start", "2026-02-28"]) == 0
    said = capsys.readouterr().out
    assert "2026-03-01  day 2/2  2,000/2,000 rows" in said
    assert "wrote 4,000 rows" in said
    assert "click  best AUC 0." in said
    assert (tmp_path / "log" / "dt=2026-03-01" / "_SUCCESS").exists()
    assert main([*place, "--days", "2", "--start", "2026-02-28"]) == 0
    assert "already holds this log" in capsys.readouterr().out
    assert main([*place, "--days", "3", "--start", "2026-02-28"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "days 2 (asked: 3)" in said


@pytest.mark.parametrize(
    "wrong", [["--days", "0"], ["--conflict", "2"], ["--start", "9999-12-30"], ["--out", "no://a"]]
)
def test_command_refuses_in_one_line(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", f"{tmp_path / 'log'}", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "log").exists()


def test_command_refuses_a_file_in_the_place_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("mine")
    assert main(["--out", f"{tmp_path / 'log'}", "--rows-per-day", "10"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "log").read_text() == "mine"


def test_start_is_a_date() -> None:
    assert LogSpec(start=dt.date(2024, 2, 28)).date(1) == dt.date(2024, 2, 29)
    with pytest.raises(SystemExit):
        main(["--out", "x", "--start", "yesterday"])
