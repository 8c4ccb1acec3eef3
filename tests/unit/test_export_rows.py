"""The bundle's encoding of a row is training's, for every kind of feature: drawn rows, odd values put into them, as a
table and as mappings. What one refuses the other refuses.
"""

import datetime
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.checks import Where
from pipeline.data.encode import Encoder as TrainingEncoder
from pipeline.data.history import scoring_day
from pipeline.export.preprocessing import write_preprocessing
from pipeline.export.runtime.arrow import column_of
from pipeline.export.runtime.columns import by_field, checked, columns_of
from pipeline.export.runtime.encode import Encoded, Encoder
from pipeline.export.runtime.errors import FieldError
from schemas.errors import InputError
from schemas.load import parse_job
from tests.logs import DAYS, set_key, small_config, write_log

ROWS, BATCHES = 200, 400
WORDS = ["a", "", None, "Łódź", "x" * 300, "e\u0301", "é"]
MISSING = {"missing": "unknown"}
PLAIN = {"transform": "none", "default": 0.2}
LOGIT = {"transform": "logit", "default": 0.2, "days": 1}
FEATURES: list[dict[str, Any]] = [
    {"name": "word", "kind": "string", **MISSING},
    {"name": "word_known", "kind": "string", "column": "word", "vocabulary": "words.parquet", **MISSING},
    {"name": "large", "kind": "id", "hash": True, **MISSING},
    {"name": "large_known", "kind": "id", "column": "large", "vocabulary": "large.parquet", **MISSING},
    {"name": "large_row", "kind": "id", "column": "large", "table": "item", **MISSING},
    {"name": "large_number", "kind": "float", "column": "large", "transform": "log1p", "missing": 0.0},
    {"name": "step", "kind": "bucket", "column": "x", "boundaries": np.linspace(-1, 1, 40).tolist(), "missing": 0.1},
    {"name": "edge", "kind": "bucket", "column": "x", "boundaries": [-0.0, 0.1, 1e300], "missing": -5},
    {"name": "x", "kind": "float", "missing": 0.3},
    {"name": "log_x", "kind": "float", "column": "x", "transform": "log1p", "missing": 0.3},
    {"name": "item_count", "kind": "count", "column": "item_id", "per_day": True},
    {"name": "pair_count", "kind": "count", "columns": ["user_id", "word"]},
    {"name": "tag_count", "kind": "count", "column": "tags"},
    {"name": "large_click", "kind": "target_encoding", "column": "large", "task": "click"},
    {"name": "tag_click", "kind": "target_encoding", "column": "tags", "task": "click"} | PLAIN,
    {"name": "word_order", "kind": "target_encoding", "column": "word", "task": "order"} | LOGIT,
    {"name": "word_watch", "kind": "target_encoding", "column": "word", "task": "watch", "transform": "lift"},
    {"name": "seen", "kind": "history", "by": "word", "column": "item_id", "table": "item", "last": 3},
    {"name": "sessions", "kind": "history", "by": "large", "column": "session", "table": "session", "hash": True},
]
NUMBERS = [
    0.0,
    -0.0,
    5e-324,
    1e-46,
    np.nan,
    None,
    0.1,
    1e300,
    -1e300,
    np.inf,
    -np.inf,
    2 / 39 - 1,
    3.4028235e38,
    3.5e38,
]
ODD: dict[str, list[Any]] = {
    "x": NUMBERS,
    "price": [*NUMBERS, 10.0, 9.999999, 20.0, 40.0, -1.0],
    "age": [*NUMBERS, 1e40],
    "word": ["", None, "a", "A", "é", "e\u0301", "\x00", "a\x00", "\U0001d4b3", "a" * 5000, "\ufeff", "\uffff"],
    "large": [None, 0, 5, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**53 + 1],
    "user_id": [0, -1, 49, 50, 2**31, -(2**63), 2**63 - 1],
    "item_id": [0, -1, 39, 40, 2**31 - 1, -(2**31)],
    "session": [0, -(2**63), 2**63 - 1, -1],
    "city": ["Oslo", "", None, "łódź"],
    "tags": [None, [], ["a", None], [None], ["zz"], ["a"] * 300],
    "recent": [[], None, [None], [-1, 40, 2**62], [1] * 1000],
}
WEIGHTS = [0.0, -0.0, 1e-45, 1e-46, 3.4e38, np.inf, np.nan, -1.0, None, 1.0]


class Both:
    """Training's encoder and the bundle's, over one log."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(1)
        tags = [[["a", "b", "Ω", ""][i] for i in rng.integers(0, 4, rng.integers(0, 4))] for _ in range(ROWS)]
        large = rng.integers(0, 7, ROWS).astype(np.uint64) + np.uint64(2**63 - 3)
        words = pa.array([WORDS[i] for i in rng.integers(0, len(WORDS), ROWS)])
        columns = {"word": words, "large": pa.array(large), "x": pa.array(rng.normal(0, 100, ROWS))}
        write_log(root / "log", DAYS, ROWS, tags=pa.array(tags), watch=pa.array(rng.random(ROWS)), **columns)
        pq.write_table(pa.table({"value": ["a", "", "é", "Oslo"]}), root / "words.parquet")
        known = pa.array([2**63 + 1, 5, 2**63 - 1, 0], pa.uint64())
        pq.write_table(pa.table({"value": known}), root / "large.parquet")
        config = small_config(root / "log", root / "out")
        sizes = {"word": 11, "word_known": 9, "large": 17, "large_known": 9, "step": 41, "edge": 4}
        config["tables"] |= {name: {"rows": rows, "dim": 8} for name, rows in sizes.items()}
        config["tasks"].append({"name": "watch", "kind": "regression"})
        for feature in FEATURES:
            named = {"vocabulary": str(root / feature["vocabulary"])} if "vocabulary" in feature else {}
            config["features"].append(feature | named)
        set_key(config, "data.train.from", DAYS[1])
        set_key(config, "data.history", {"from": DAYS[0]})
        self.job = parse_job(config, "test")
        day = datetime.date.fromisoformat(DAYS[2])
        (root / "bundle").mkdir()
        told = write_preprocessing(self.job, root / "bundle", day, lambda _: None)
        self.fields, self.features = told.fields, json.loads(json.dumps(told.features))
        self._bundle = Encoder(self.features, root / "bundle")
        self._training = TrainingEncoder(self.job, None, scoring_day(self.job, day, print), None, labels=False)
        self._where = Where(f"log/dt={day}/part.parquet", 0, 0)
        names = sorted({field["name"] for field in told.fields} | {"event_time"})
        path = root / "log" / f"dt={day}" / "part-00000.parquet"
        self.rows = pq.read_table(path, partitioning=None).select(names).combine_chunks().to_batches()[0]

    def training(self, batch: pa.RecordBatch) -> Encoded | None:
        """What training reads of the rows; None where it refuses them."""
        try:
            rows = self._training(batch, np.arange(batch.num_rows), self._where)
        except InputError:
            return None
        names = [feature["name"] for feature in self.features if feature["kind"] in ("ids", "history")]
        lists = [(rows.lists[n].id_M, rows.lists[n].offset_N, rows.lists[n].weight_M) for n in names]
        return Encoded(rows.number_FN.T, rows.id_IN.T, lists)

    def bundle(self, batch: pa.RecordBatch, as_rows: bool) -> Encoded | None:
        """What the bundle reads of them."""
        try:
            if as_rows:
                mappings = [{field["name"]: row[field["name"]] for field in self.fields} for row in batch.to_pylist()]
                return self._bundle(columns_of(by_field(mappings, self.fields), self.fields), batch.num_rows)
            columns = {field["name"]: column_of(batch, field) for field in self.fields}
            return self._bundle(checked(columns, self.fields), batch.num_rows)
        except FieldError:
            return None


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("rows"))


def assert_alike(both: Both, batch: pa.RecordBatch) -> bool:
    """Whether the rows are taken; both ways of the bundle say of them what training says."""
    wanted = both.training(batch)
    for as_rows in (False, True):
        got = both.bundle(batch, as_rows)
        assert (got is None) == (wanted is None), batch.to_pylist()
        if got is None or wanted is None:
            continue
        np.testing.assert_array_equal(got.number_NF, wanted.number_NF.astype(np.float32))
        np.testing.assert_array_equal(got.id_NI, wanted.id_NI)
        for mine, theirs in zip(got.lists, wanted.lists, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_array_equal(mine[1], theirs[1])
            if theirs[2] is not None:
                np.testing.assert_array_equal(mine[2], theirs[2])
    return wanted is not None


def test_rows_as_the_log_has_them(both: Both) -> None:
    for batch in (both.rows, both.rows.slice(17, 50), both.rows.slice(3, 1), both.rows.slice(0, 0)):
        assert assert_alike(both, batch)


def test_rows_with_odd_values(both: Both) -> None:
    rng, taken = np.random.default_rng(2), Counter[bool]()
    for _ in range(BATCHES):
        rows = both.rows.take(pa.array(rng.integers(0, ROWS, rng.integers(1, 9)))).to_pylist()
        for _ in range(rng.integers(1, 4)):
            name = list(ODD)[rng.integers(len(ODD))]
            rows[rng.integers(len(rows))][name] = ODD[name][rng.integers(len(ODD[name]))]
        if rng.random() < 0.3:
            length = int(rng.integers(0, 4))
            weights = rng.integers(0, len(WEIGHTS), length + int(rng.random() < 0.1))
            rows[0] |= {"history": rng.integers(-2, 45, length).tolist()}
            rows[0] |= {"history_weight": [WEIGHTS[i] for i in weights]}
        batch = pa.RecordBatch.from_pylist(rows, schema=both.rows.schema)
        if rng.random() < 0.3:
            at = batch.schema.get_field_index("word")
            batch = batch.set_column(at, "word", batch.column("word").dictionary_encode())
        taken[assert_alike(both, batch)] += 1
    assert min(taken[True], taken[False]) > BATCHES / 8, taken
