"""Rewrite an event log into the recommended layout, and say what it gained."""

import argparse
import datetime as dt
import os
import sys
import threading
import time
from collections.abc import Sequence

from pipeline.data.compaction import FILE_BYTES, Compaction, Settings
from pipeline.data.decode_rate import decode_rates
from pipeline.data.parquet_layout import ROW_GROUP_ROWS
from pipeline.data.source_day import SourceDay, days_of, source_day
from schemas.errors import InputError
from schemas.load import load_job

DESCRIPTION = """\
Rewrite a Parquet event log into the layout that decodes fastest: required columns wherever a day holds no null, LZ4,
page checksums, dictionaries for what repeats and byte-stream split for other 8-byte numbers, row groups and files of
even size. Rows, their order, columns and types stay. Every file is read again and compared with its source before the
day is shown. A finished day is left alone, an interrupted one is written again by the same command."""
SECONDS_BETWEEN_LINES = 5.0
LANES = 16
"""`data.lanes` by default: streams that whole row groups are dealt to."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser("./launch.sh compact", description=DESCRIPTION, allow_abbrev=False)
    add = out.add_argument
    add("--from", dest="source", required=True, metavar="PATH", help="root of the log: a path or an fsspec URL")
    add("--out", required=True, metavar="PATH", help="root of the new log: a path or an fsspec URL outside the first")
    add("--days", nargs=2, type=_date, metavar=("FROM", "TO"), help="both included (default: every day there is)")
    kept = out.add_mutually_exclusive_group()
    kept.add_argument(
        "--columns", action="extend", nargs="+", metavar="NAME", help="keep these alone, and user_id and event_time"
    )
    kept.add_argument("--config", metavar="JOB.yaml", help="keep the columns that this job reads, and those two")
    add("--row-group-rows", type=_count, default=ROW_GROUP_ROWS, metavar="N", help="rows a row group (%(default)s)")
    add("--file-mb", type=_count, default=FILE_BYTES >> 20, metavar="N", help="MiB a file, about (%(default)s)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--threads", type=_count, default=cores, metavar="N", help="files written at once (here: %(default)s)")
    add("--allow-unfinished", action="store_true", help="take days that have no _SUCCESS")
    return out


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write it as 2026-01-31") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


class _Printer:
    """A line every few seconds; told of rows by all threads."""

    def __init__(self, rows: int) -> None:
        self._rows, self._done = rows, 0.0
        self._began = self._last = time.perf_counter()
        self._lock = threading.Lock()
        self.day = ""

    def __call__(self, rows: float) -> None:
        with self._lock:
            self._done += rows
            now = time.perf_counter()
            if now - self._last < SECONDS_BETWEEN_LINES:
                return
            self._last = now
            speed = self._done / (now - self._began)
            left = (self._rows - self._done) / speed
            print(
                f"{self.day}  {self._done:,.0f}/{self._rows:,} rows  {speed:,.0f} rows/s  {left:,.0f} s to go",
                flush=True,
            )


def compact(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises InputError."""
    settings = Settings(arguments.row_group_rows, arguments.file_mb << 20, arguments.threads)
    compaction = Compaction(arguments.source, arguments.out, settings)
    fs, root = compaction.fs, compaction.root.rstrip("/")
    columns = load_job(arguments.config, []).columns if arguments.config else arguments.columns
    if arguments.days and arguments.days[1] < arguments.days[0]:
        raise InputError("--days: the last day lies before the first; swap them")
    dates = _between(*arguments.days) if arguments.days else days_of(fs, root)
    days = [source_day(fs, root, date, columns, not arguments.allow_unfinished) for date in dates]
    finished = [compaction.finished(day) for day in days]
    todo = [day for day, done in zip(days, finished, strict=True) if not done]
    printer = _Printer(sum(day.rows for day in todo))
    began = time.perf_counter()
    for number, (day, done) in enumerate(zip(days, finished, strict=True), 1):
        if done:
            print(f"{day.date}  day {number}/{len(days)}  already compacted: left alone", flush=True)
            continue
        printer.day = f"{day.date}  day {number}/{len(days)}"
        compaction.rewrite(day, printer)
    compaction.copy_truth()
    seconds = time.perf_counter() - began
    rows = sum(day.rows for day in todo)
    if todo:
        print(f"wrote and verified {rows:,} rows in {seconds:.1f} s ({rows / seconds:,.0f} rows/s)")
    print("\n".join(_report(days, [compaction.written(day.date) for day in days])))


def _between(first: dt.date, last: dt.date) -> list[dt.date]:
    return [first + dt.timedelta(n) for n in range((last - first).days + 1)]


def _report(before: Sequence[SourceDay], after: Sequence[SourceDay]) -> list[str]:
    """The table of what was gained, a line a day, and what is left to know."""
    titles = ("files", "row groups", "MB", "nullable columns", "decodes, M rows/s")
    lines = ["", f"{'day':<10}  {'rows':>12}" + "".join(f"  {title:>18}" for title in titles) + "   faster"]
    for old, new in zip(before, after, strict=True):
        rates = decode_rates(old, new) if new.rows else (0.0, 0.0)
        pairs = [
            f"{len(old.files):,} -> {len(new.files):,}",
            f"{old.row_groups:,} -> {new.row_groups:,}",
            f"{_mb(old):,.1f} -> {_mb(new):,.1f}",
            f"{_nullable_columns(old)} -> {_nullable_columns(new)}",
            f"{rates[0] / 1e6:.2f} -> {rates[1] / 1e6:.2f}",
        ]
        faster = f"{rates[1] / rates[0]:.2f} x" if rates[0] else "-"
        lines.append(f"{new.date}  {new.rows:>12,}" + "".join(f"  {pair:>18}" for pair in pairs) + f"  {faster:>7}")
    still = {name: sum(name in day.nullable for day in after) for day in after for name in day.nullable}
    for name, days in sorted(still.items()):
        lines.append(f"column '{name}' holds nulls on {days} of {len(after)} days and stays nullable there")
    groups = sum(day.row_groups for day in after)
    if groups < 4 * LANES:
        lines.append(
            f"{groups} row groups in all: training over these days alone deals them to {LANES} lanes, and lanes that "
            "share one both decode its head; a smaller --row-group-rows, or a smaller data.lanes, avoids that"
        )
    return lines


def _mb(day: SourceDay) -> float:
    return sum(file.size for file in day.files) / 1e6


def _nullable_columns(day: SourceDay) -> int:
    return len({name.partition(".")[0] for name in day.nullable})


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    compact(parser().parse_args(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    from jobs.failure import reported

    with reported():
        main()
