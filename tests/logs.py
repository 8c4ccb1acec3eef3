"""Small event logs and a small valid job to train on them, for tests.

write_log(tmp_path / "log", DAYS, 60)
config = small_config(tmp_path / "log", tmp_path / "out")     # a plain tree, to be changed at will
set_key(config, "tasks.cart.weight", 2)
job = parse_job(config, "test")                               # or: small_job(log, out, {"tasks.cart.weight": 2})
path = write_config(tmp_path / "job.yaml", config)            # for `python -m jobs.launch`
"""

import copy
import datetime
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from schemas.job import JobConfig
from schemas.load import parse_job

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
"""small_config trains on all days but the last and evaluates on the last."""
USERS, ITEMS = 50, 40
CITIES = ("Oslo", "Lima", "Kyoto", "Graz", "Łódź", "Porto")
TASKS = ("click", "cart", "fav", "order")

Column: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[Any] | np.ndarray
Override: TypeAlias = Column | Callable[[pa.Array], Column] | None
"""A column's values (of one day, or of one file), a function of the column it replaces, or None to leave it out."""


def small_table(rows: int, seed: int = 0, day: str = DAYS[0]) -> pa.Table:
    """Rows of a log that small_config can read; labels follow users and items, funnel kept."""
    random = np.random.default_rng([seed, datetime.date.fromisoformat(day).toordinal()])
    user_N, item_N = random.integers(0, USERS, rows), random.integers(0, ITEMS, rows)
    appeal_N = np.sin(user_N) + np.cos(item_N)
    click_N = random.random(rows) < 1 / (1 + np.exp(-2 * appeal_N))
    midnight = datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00")
    lengths = random.integers(0, 5, rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    recent_offsets = pa.array(np.concatenate([[0], np.cumsum(lengths[::-1])]).astype(np.int32))
    ids = int(lengths.sum())
    return pa.table(
        {
            "user_id": pa.array(user_N),
            "event_time": pa.array(
                [midnight + datetime.timedelta(seconds=s) for s in random.integers(0, 86_400, rows).tolist()],
                pa.timestamp("ms", "UTC"),
            ),
            "item_id": pa.array(item_N, pa.int32()),
            "session": pa.array(random.integers(-(2**63), 2**63 - 1, rows)),
            "history": pa.ListArray.from_arrays(offsets, pa.array(random.integers(0, ITEMS, ids))),
            "history_weight": pa.ListArray.from_arrays(offsets, pa.array(random.random(ids).astype(np.float32) + 0.1)),
            "recent": pa.ListArray.from_arrays(recent_offsets, pa.array(random.integers(0, ITEMS, ids))),
            "city": pa.array(CITIES).take(pa.array(random.integers(0, len(CITIES), rows))),
            "price": pa.array(random.lognormal(3, 1, rows).astype(np.float32)),
            "age": pa.array(random.integers(15, 80, rows).astype(np.float64)),
            "click": pa.array(click_N.astype(np.int8)),
            "cart": pa.array((click_N & (random.random(rows) < 0.5)).astype(np.int8)),
            "fav": pa.array((click_N & (random.random(rows) < 0.3)).astype(np.int8)),
            "order": pa.array(click_N & (random.random(rows) < 0.3)),
        }
    )


def write_log(
    root: Path | str,
    days: Sequence[str] = DAYS,
    rows_per_day: int = 60,
    seed: int = 0,
    row_group_rows: int | Sequence[int] = 1000,
    files_per_day: int = 1,
    success: bool = True,
    **columns: Override,
) -> list[str]:
    """Writes dt=DAY/part-N.parquet with page checksums, and _SUCCESS; returns the files' paths in order.

    `row_group_rows` may be the sizes of the row groups of every file in turn (0 = an empty one; the last size repeats).
    `root` may be any fsspec URL. `columns` replace, add or (None) leave out columns on every day.
    """
    fs, base = fsspec.core.url_to_fs(str(root))
    paths = []
    for day in days:
        table = override(small_table(rows_per_day, seed, day), columns)
        folder = f"{base}/dt={day}"
        fs.makedirs(folder, exist_ok=True)
        edges = [rows_per_day * n // files_per_day for n in range(files_per_day + 1)]
        for number, (begin, end) in enumerate(itertools.pairwise(edges)):
            paths.append(f"{folder}/part-{number:05d}.parquet")
            with fs.open(paths[-1], "wb") as file:
                write_parquet(file, table.slice(begin, end - begin), row_group_rows)
        if success:
            fs.touch(f"{folder}/_SUCCESS")
    return paths


def write_parquet(where: Any, table: pa.Table, row_group_rows: int | Sequence[int] = 1000) -> None:
    """One Parquet file with page checksums; `row_group_rows` as in write_log."""
    sizes = [row_group_rows] if isinstance(row_group_rows, int) else list(row_group_rows)
    with pq.ParquetWriter(where, table.schema, write_page_checksum=True) as writer:
        done = group = 0
        while done < table.num_rows:
            size = sizes[min(group, len(sizes) - 1)]
            writer.write_table(table.slice(done, size), row_group_size=max(1, size))
            done, group = done + size, group + 1


def override(table: pa.Table, columns: dict[str, Override]) -> pa.Table:
    """The table with columns replaced, added or left out."""
    for name, value in columns.items():
        if callable(value):
            value = value(table.column(name).combine_chunks())
        index = table.schema.get_field_index(name)
        if value is None:
            table = table.remove_column(index)
        elif index < 0:
            table = table.append_column(name, _array(value))
        else:
            table = table.set_column(index, name, _array(value))
    return table


def _array(values: Column) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)


def put(column: pa.Array, row: int, value: Any, kind: pa.DataType | None = None) -> pa.Array:
    """The column with one row's value changed, as an override: `age=lambda c: put(c, 7, math.nan)`."""
    values = column.to_pylist()
    values[row] = value
    return pa.array(values, kind or column.type)


SMALL: dict[str, Any] = {
    "name": "small",
    "tables": {
        "user": {"rows": USERS, "dim": 8},
        "item": {"rows": ITEMS, "dim": 16},
        "session": {"rows": 30, "dim": 8},
        "city": {"rows": 20, "dim": 8},
        "price_bucket": {"rows": 5, "dim": 8},
    },
    "features": [
        {"name": "user", "kind": "id", "column": "user_id"},
        {"name": "item", "kind": "id", "column": "item_id"},
        {"name": "session", "kind": "id", "hash": True},
        {"name": "history", "kind": "ids", "table": "item", "pooling": "mean", "weights": "history_weight"},
        {"name": "recent", "kind": "ids", "table": "item", "pooling": "sum"},
        {"name": "city", "kind": "string"},
        {"name": "price_bucket", "kind": "bucket", "column": "price", "boundaries": [10, 20, 40, 80]},
        {"name": "price", "kind": "float", "transform": "log1p"},
        {"name": "age", "kind": "float", "transform": "standardize", "mean": 45, "std": 18},
    ],
    "tasks": [
        {"name": "click"},
        {"name": "cart", "given": "click"},
        {"name": "fav", "given": "click"},
        {"name": "order", "given": "click"},
    ],
    "model": {
        "arch": "ple",
        "levels": 2,
        "task_experts": 1,
        "shared_experts": 1,
        "expert_layers": [8],
        "tower_layers": [4],
    },
    # fp32: what tests compare, they compare to five digits and more
    "train": {"batch_size": 32, "log_every": 2, "checkpoint_every": 1000, "timeout_seconds": 60, "precision": "fp32"},
    # no report: it is no part of what most runs are made for; those that look at it ask for it
    "tracking": {"mode": "disabled", "report": False},
}


def small_config(data: Path | str, output: Path | str, days: Sequence[str] = DAYS) -> dict[str, Any]:
    """A valid job over write_log's columns, every kind of feature in it; a fresh tree, free to be changed."""
    config = copy.deepcopy(SMALL)
    train: dict[str, Any] = {"from": days[0], "to": days[-2] if len(days) > 1 else days[0]}
    data_config = {"path": str(data), "train": train, "shuffle_rows": 64, "lanes": 4}
    if len(days) > 1:
        data_config["eval"] = {"from": days[-1], "to": days[-1]}
    return {"name": config.pop("name"), "output": str(output), "data": data_config, **config}


def set_key(config: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets one key of the tree, features and tasks by name: `features.price.transform`; `...` removes it."""
    node: Any = config
    *path, last = dotted.split(".")
    for part in path:
        node = next(item for item in node if item["name"] == part) if isinstance(node, list) else node[part]
    key = next(i for i, item in enumerate(node) if item["name"] == last) if isinstance(node, list) else last
    if value is ...:
        del node[key]
    else:
        node[key] = value


def small_job(
    data: Path | str, output: Path | str = "unused", changes: dict[str, Any] | None = None, days: Sequence[str] = DAYS
) -> JobConfig:
    """The checked small job with dotted keys changed."""
    config = small_config(data, output, days)
    for dotted, value in (changes or {}).items():
        set_key(config, dotted, value)
    return parse_job(config, "small.yaml")


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """The tree as YAML, for a command line."""
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
