"""A log of 47 columns as recommenders have them, and a job that reads 46: what benchmarks of decoding read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.job import JobConfig
from schemas.load import parse_job

DAY = "2026-01-01"
CARDINALITIES = tuple(int(n * 1e3) for n in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 200, 300, 500, 1_000, 5_000))
WORDS = (3, 24, 200, 2_000)
SMALL = (24, 50, 7)
LABELS = 4


def wide_table(rows: int, seed: int = 0) -> pa.Table:
    """14 ids of 10 to 5,000,000 values, 4 strings, 10 numbers that never repeat, 10 rounded ones, 3 small integers, 4
    labels, user and time; ids are drawn with a long tail. All columns nullable, none with a null.
    """
    rng = np.random.default_rng(seed)

    def long_tail(values: int) -> np.ndarray:
        return (values * rng.random(rows) ** 3).astype(np.int64)

    midnight = np.datetime64(DAY, "ms").astype(np.int64)
    columns: dict[str, Any] = {
        "user_id": long_tail(1_000_000),
        "event_time": pa.array(np.sort(rng.integers(0, 86_400_000, rows)) + midnight, pa.timestamp("ms")),
    }
    columns |= {f"id_{n}": long_tail(values) for n, values in enumerate(CARDINALITIES)}
    for n, values in enumerate(WORDS):
        words = pa.array([f"word-{word:04d}" for word in range(values)])
        columns[f"string_{n}"] = words.take(pa.array(long_tail(values)))
    columns |= {f"float_{n}": rng.standard_normal(rows).astype(np.float32) for n in range(10)}
    columns |= {f"rounded_{n}": (rng.integers(0, 1_000, rows) / 100).astype(np.float32) for n in range(10)}
    columns |= {f"small_{n}": rng.integers(0, values, rows).astype(np.int32) for n, values in enumerate(SMALL)}
    columns |= {f"label_{n}": (rng.random(rows) < 0.1).astype(np.int8) for n in range(LABELS)}
    return pa.table(columns)


def put_day(root: Path, table: pa.Table, **options: Any) -> None:
    """The table as the one file of the one day of a log."""
    folder = root / f"dt={DAY}"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-00000.parquet", **options)
    (folder / "_SUCCESS").touch()


def wide_job(log: Path, lanes: int, every: int = 1) -> JobConfig:
    """A job over the wide log that reads every `every`-th column of each kind."""
    ids = [f"id_{n}" for n in range(len(CARDINALITIES))][::every]
    small = [f"small_{n}" for n in range(len(SMALL))][::every]
    strings = [f"string_{n}" for n in range(len(WORDS))][::every]
    floats = [f"{kind}_{n}" for kind in ("float", "rounded") for n in range(10)][::every]
    features: list[dict[str, Any]] = [
        {"name": name, "kind": "id", "hash": True, "table": "all"} for name in ["user_id", *ids, *small]
    ]
    features += [{"name": name, "kind": "string", "table": "all"} for name in strings]
    features += [{"name": name, "kind": "float"} for name in floats]
    tree = {
        "name": "wide",
        "output": "unused",
        "data": {"path": str(log), "train": {"from": DAY, "to": DAY}, "lanes": lanes},
        "tables": {"all": {"rows": 1000, "dim": 8}},
        "features": features,
        "tasks": [{"name": f"label_{n}"} for n in range(LABELS)[::every]],
        "model": {"arch": "ple"},
    }
    return parse_job(tree, "wide")
