"""What a scoring run wrote of each row, read back. No torch.

    URL/NAME.json                    the metrics and what they are of; written last, so that it vouches for the rest
    URL/NAME/rank-00000.parquet      what each rank predicted

Shapes: N rows, T tasks.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import filesystem, reason
from schemas.errors import InputError

FORMAT = 1
ROW, LOGIT, LABEL, SPACE, EXPOSED = "row", "logit.", "label.", "space.", "exposed."
"""The columns; of the last four one a task, whose name follows."""
ATTEMPT = b"fulcrum.attempt"
"""In the files' metadata: which run of the scoring wrote them."""
AGAIN = "score the model again"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One model's predictions of the rows that were evaluated."""

    row_N: npt.NDArray[np.int64]
    """Global row ids of the evaluation manifest, ascending."""
    tasks: list[str]
    logit_TN: npt.NDArray[np.float32]
    """Logits, or values of a regression task."""
    label_TN: npt.NDArray[np.float32]
    space_TN: npt.NDArray[np.bool_]
    """Whether the row belongs to the task's own space."""
    exposed_TN: npt.NDArray[np.bool_] | None
    """Whether the task could happen at all on the row; None where no task has an indicator."""


def part_name(rank: int) -> str:
    """The file of one rank."""
    return f"rank-{rank:05}.parquet"


def scored(url: str, name: str) -> dict[str, Any] | None:
    """What URL/NAME.json says; None where the model was not scored to its end.

    Raises InputError for a file that cannot be read, or of another format.
    """
    fs, root = filesystem(f"{url}/{name}.json")
    try:
        fs.invalidate_cache()
        told = json.loads(fs.cat_file(root))
    except FileNotFoundError:
        return None
    except Exception as error:  # each driver has exceptions of its own; and what was cut short is no JSON
        raise InputError(f"{url}/{name}.json: cannot be read ({reason(error)}); remove it and {AGAIN}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise InputError(f"{url}/{name}.json: no scores that this version reads; remove it and {AGAIN}")
    return told


def read_predictions(url: str, name: str) -> Predictions:
    """The predictions of a model that was scored to its end.

    Raises InputError where there are none, or the files are not all of one run, or rows are missing or twice there.
    """
    told = scored(url, name)
    if told is None:
        raise InputError(f"{url}: holds no {name}.json, so the model was not scored to its end; {AGAIN}")
    written = told.get("predictions")
    if written is None:
        raise InputError(f"{url}/{name}.json: scored without predictions; {AGAIN} with score.predictions=true")
    tables = [_part(f"{url}/{name}/{file}", written["attempt"]) for file in written["files"]]
    schema = tables[0].schema
    for file, table in zip(written["files"], tables, strict=True):
        if table.schema.names != schema.names:
            raise InputError(f"{url}/{name}/{file}: other columns than the first file's; {AGAIN}")
    table = pa.concat_tables(tables)
    row_N = table.column(ROW).to_numpy()
    order_N = np.argsort(row_N, kind="stable")
    row_N = row_N[order_N]
    if len(row_N) != written["rows"] or (len(row_N) > 1 and not (np.diff(row_N) > 0).all()):
        raise InputError(
            f"{url}/{name}: {len(row_N):,} rows where {name}.json promises {written['rows']:,}, each once; {AGAIN}"
        )
    tasks = [column.removeprefix(LOGIT) for column in schema.names if column.startswith(LOGIT)]

    def of_tasks(kind: str, dtype: type) -> npt.NDArray[Any]:
        out_TN: npt.NDArray[Any] = np.empty((len(tasks), len(row_N)), dtype)
        for task, out_N in zip(tasks, out_TN, strict=True):
            out_N[:] = table.column(f"{kind}{task}").to_numpy()[order_N]
        return out_TN

    return Predictions(
        row_N,
        tasks,
        of_tasks(LOGIT, np.float32),
        of_tasks(LABEL, np.float32),
        of_tasks(SPACE, np.bool_),
        of_tasks(EXPOSED, np.bool_) if any(column.startswith(EXPOSED) for column in schema.names) else None,
    )


def _part(url: str, attempt: str) -> pa.Table:
    """One rank's file, of this attempt."""
    fs, path = filesystem(url)
    try:
        with fs.open(path, "rb") as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            table = file.read()
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(f"{url}: cannot be read ({reason(error)}); {AGAIN}") from error
    if (table.schema.metadata or {}).get(ATTEMPT) != attempt.encode():
        raise InputError(f"{url}: of another run of the scoring than the model's .json; {AGAIN}")
    return table
