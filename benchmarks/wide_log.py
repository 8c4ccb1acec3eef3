"""The wide log of the benchmarks: 47 required columns, LZ4, page checksums, many row groups. Seeded: the same bytes.

36 int64 ids of 100 to 1,000,000 kinds, 6 float32, a list of 0 to 5 ids, 4 int8 labels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY = "2026-01-01"
IDS, NUMBERS, LABELS, LIST_KINDS = 36, 6, 4, 10_000
KINDS = [10 ** (2 + n % 5) for n in range(IDS)]
GROUPS_A_FILE = 28


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SCHEMA = pa.schema(
    [
        _required("user_id", pa.int64()),
        _required("event_time", pa.timestamp("ms")),
        *(_required(f"id_{n}", pa.int64()) for n in range(IDS)),
        *(_required(f"x_{n}", pa.float32()) for n in range(NUMBERS)),
        _required("tags", pa.list_(_required("element", pa.int64()))),
        *(_required(f"y_{n}", pa.int8()) for n in range(LABELS)),
    ]
)


def write(root: Path, groups: int, rows: int) -> None:
    """Writes `groups` row groups of `rows` rows, one day."""
    folder = root / f"dt={DAY}"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for first in range(0, groups, GROUPS_A_FILE):
        path = folder / f"part-{first // GROUPS_A_FILE:05d}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="lz4", write_page_checksum=True) as writer:
            for _ in range(first, min(first + GROUPS_A_FILE, groups)):
                writer.write_table(_table(random, rows), row_group_size=rows)
    (folder / "_SUCCESS").touch()


def _table(random: np.random.Generator, rows: int) -> pa.Table:
    edges = np.concatenate([[0], np.cumsum(random.integers(0, 6, rows))]).astype(np.int32)
    columns = [pa.array(random.integers(0, 10**6, rows)), pa.array(np.arange(rows), pa.timestamp("ms"))]
    columns += [pa.array(random.integers(0, kinds, rows)) for kinds in KINDS]
    columns += [pa.array(random.random(rows).astype(np.float32)) for _ in range(NUMBERS)]
    tags = pa.array(random.integers(0, LIST_KINDS, edges[-1]))
    columns.append(pa.ListArray.from_arrays(pa.array(edges), tags, type=SCHEMA.field("tags").type))
    columns += [pa.array((random.random(rows) < 0.3).astype(np.int8)) for _ in range(LABELS)]
    return pa.table(columns, schema=SCHEMA)


def config(root: Path, **data: Any) -> dict[str, Any]:
    """The job that reads all of its columns."""
    tables = {f"id_{n}": {"rows": kinds, "dim": 8} for n, kinds in enumerate(KINDS)}
    features: list[dict[str, Any]] = [{"name": f"id_{n}", "kind": "id"} for n in range(IDS)]
    features += [{"name": f"x_{n}", "kind": "float"} for n in range(NUMBERS)]
    return {
        "name": "wide",
        "output": str(root / "out"),
        "data": {"path": str(root), "train": {"from": DAY, "to": DAY}, **data},
        "tables": tables | {"tags": {"rows": LIST_KINDS, "dim": 8}},
        "features": [*features, {"name": "tags", "kind": "ids", "pooling": "sum"}],
        "tasks": [{"name": f"y_{n}"} for n in range(LABELS)],
        "model": {"arch": "ple"},
        "train": {"batch_size": 8192},
    }
