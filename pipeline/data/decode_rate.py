"""How fast two days decode, side by side. No torch."""

import statistics
import time

import pyarrow as pa

from pipeline.data.parquet_file import open_parquet
from pipeline.data.reader import READ_ROWS
from pipeline.data.source_day import SourceDay

SAMPLES = 4
"""Row groups of each day, spread evenly over it."""
SAMPLE_ROWS = 65_536
"""Rows of each that are decoded, at most."""
ROUNDS = 3


def decode_rates(before: SourceDay, after: SourceDay) -> tuple[float, float]:
    """Rows/s of CPU time with which the columns of `after` come out of a sample of each day, strings as dictionaries.

    Medians of interleaved rounds. CPU time of one thread: waiting for storage does not count.
    """
    days = (before, after)
    texts = [f.name for f in after.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for day, found in zip(days, rates, strict=True):
            rows, began = 0, time.thread_time()
            for path, group in _spread(day):
                rows += _decode(day, path, group, after.schema.names, texts)
            found.append(rows / max(time.thread_time() - began, 1e-9))
    return statistics.median(rates[0]), statistics.median(rates[1])


def _spread(day: SourceDay) -> list[tuple[str, int]]:
    groups = [(file.path, index) for file in day.files for index, rows in enumerate(file.groups) if rows]
    count = min(SAMPLES, len(groups))
    return [groups[len(groups) * n // count] for n in range(count)]


def _decode(day: SourceDay, path: str, group: int, columns: list[str], texts: list[str]) -> int:
    rows = 0
    with open_parquet(day.fs, path, texts) as file:
        for batch in file.iter_batches(READ_ROWS, [group], columns, use_threads=False):
            rows += batch.num_rows
            if rows >= SAMPLE_ROWS:
                break
    return rows
