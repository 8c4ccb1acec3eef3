"""A published table, as text or as Parquet with the same columns -> rows that know their place. No torch."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ingest.lines import Format, Rows, tables
from pipeline.storage import reason
from schemas.errors import InputError

BATCH_ROWS = 1 << 16


def rows_of(fs: Any, path: str, form: Format) -> Iterator[Rows]:
    """The file's rows in its order. Raises InputError naming file, line or row, and column."""
    yield from _from_parquet(fs, path, form) if path.endswith(".parquet") else tables(fs, path, form)


def whole(fs: Any, path: str, form: Format) -> Rows:
    """A file small enough to be held: features of users, of items."""
    pieces = list(rows_of(fs, path, form))
    if not pieces:
        raise InputError(f"{path}: holds no rows; expected {form.what}")
    unit = "row" if path.endswith(".parquet") else "line"
    return Rows(
        pa.concat_tables([p.table for p in pieces]).combine_chunks(), path, pieces[0].first, form.what, unit=unit
    )


def dates(texts: pa.Array, form: str) -> pa.Array:
    """The date32 of each text, null where it is none: a month of 31 days too many, a digit too few is no date."""
    second = pc.strptime(texts, format=form, unit="s", error_is_null=True)
    same = pc.equal(pc.strftime(second, format=form), texts)
    return pc.if_else(pc.fill_null(same, False), second, None).cast(pa.date32())


def _from_parquet(fs: Any, path: str, form: Format) -> Iterator[Rows]:
    done = 0
    try:
        with fs.open(path, "rb") as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
            there = file.schema_arrow.names
            for name in form.columns:
                if name not in there:
                    raise InputError(f"{path}: no column '{name}' among {_some(there)}; expected {form.what}")
            for batch in file.iter_batches(BATCH_ROWS, columns=list(form.columns)):
                yield _cast(pa.Table.from_batches([batch]).select(list(form.columns)), path, done, form)
                done += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: no whole Parquet file, from row {done:,} on ({reason(error)}); copy it again"
        ) from error


def _cast(table: pa.Table, path: str, done: int, form: Format) -> Rows:
    columns = []
    for (name, kind), column in zip(form.columns.items(), table.columns, strict=True):
        try:
            columns.append(column.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{path}, from row {done:,}: column '{name}' of {column.type} is not to be read as {kind} "
                f"({reason(error)}); expected {form.what}"
            ) from error
    rows = Rows(pa.table(columns, names=list(form.columns)), path, done, form.what, unit="row")
    for name, column in zip(form.columns, columns, strict=True):
        if column.null_count and name not in form.may_be_empty:
            rows.refuse(pc.index(column.is_valid(), False).as_py(), f"column '{name}' is null")
    return rows


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
