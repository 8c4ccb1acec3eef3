"""What the runs came to, as one long table: a row for each side, seed, task and metric, unrounded."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

Records = Mapping[tuple[str, int], Mapping[str, Any]]
"""The record of each finished run, by side and seed."""
SCHEMA = pa.schema(
    [
        pa.field("side", pa.string(), False),
        pa.field("seed", pa.int64(), False),
        pa.field("task", pa.string()),  # null: of the whole run
        pa.field("joint", pa.bool_(), False),  # of the joint probability over all exposures, not of the task's own
        pa.field("metric", pa.string(), False),
        pa.field("value", pa.float64(), False),
    ]
)
OF_A_RUN = (
    "rows_per_second",
    "seconds",
    "rss_bytes",
    "cuda_bytes",
    "dense_parameters",
    "table_parameters",
    "flops_per_row",
    "step",
    "samples",
)
"""What is told of a run as a whole."""


def results_table(records: Records) -> pa.Table:
    """Long form. Values that are not defined are left out."""
    rows: list[tuple[str, int, str | None, bool, str, float]] = []
    for (side, seed), record in records.items():
        rows += [(side, seed, None, False, key, record[key]) for key in OF_A_RUN if record[key] is not None]
        for task, told in record["tasks"].items():
            for part in ("own", "joint"):
                for metric, value in told.get(part, {}).items():
                    if value is not None:
                        rows.append((side, seed, task, part == "joint", metric, value))
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def write_results(table: pa.Table, folder: Path) -> list[Path]:
    """results.parquet and results.csv in the folder, each whole or not at all."""
    written = []
    for name in ("results.parquet", "results.csv"):
        draft = folder / f".{name}.draft"
        if name.endswith("parquet"):
            pq.write_table(table, draft, write_page_checksum=True)
        else:
            pyarrow.csv.write_csv(table, draft)
        os.replace(draft, folder / name)
        written.append(folder / name)
    return written
