"""Write the generated event log, with labels of a declared truth."""

import argparse
import datetime as dt
import sys

from pipeline.data.declared_truth import TASKS, TruthSpec
from pipeline.data.generated_log import LogSpec, Progress, generate_log

DESCRIPTION = """\
Write a Parquet event log with click, cart, fav and order labels drawn from a declared ground truth, one Hive partition
(dt=YYYY-MM-DD) a day, and _truth.json beside it: the best AUC that any model can reach, per task and day.
The same settings write the same files. A finished log is left alone, an interrupted one is completed."""
SECONDS_BETWEEN_LINES = 5.0


def _parser() -> argparse.ArgumentParser:
    world, log = TruthSpec(), LogSpec()
    parser = argparse.ArgumentParser("./launch.sh generate", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--out", required=True, metavar="PATH", help="folder to write: a path or an fsspec URL (s3://..., gs://...)")
    add("--days", type=int, default=log.days, metavar="N", help="days to write (%(default)s)")
    add("--rows-per-day", type=int, default=log.rows_per_day, metavar="N", help="exposures a day (%(default)s)")
    add("--start", type=_date, default=log.start, metavar="DATE", help="the first day, YYYY-MM-DD (%(default)s)")
    add("--seed", type=int, default=world.seed, metavar="N", help="fixes users, items and every draw (%(default)s)")
    add("--users", type=int, default=world.users, metavar="N", help="users in the world (%(default)s)")
    add("--items", type=int, default=world.items, metavar="N", help="items in the world (%(default)s)")
    add("--categories", type=int, default=world.categories, metavar="N", help="item categories (%(default)s)")
    conflict = "how far click and order disagree about items: their correlation is -C, C in [0, 1] (%(default)s)"
    add("--conflict", type=float, default=world.conflict, metavar="C", help=conflict)
    drift = "how far an item's appeal moves a day, in logits; 0 stops it (%(default)s)"
    add("--drift", type=float, default=world.drift, metavar="D", help=drift)
    add("--row-group-rows", type=int, default=log.row_group_rows, metavar="N", help="rows a row group (%(default)s)")
    return parser


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write it as 2026-01-31") from None


class _Printer:
    """A line when a day ends, and every few seconds within a long one."""

    def __init__(self, days: int) -> None:
        self._days = days
        self._last = 0.0

    def __call__(self, p: Progress) -> None:
        if p.rows < p.total and p.seconds - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = p.seconds
        speed = p.written / p.seconds
        print(f"{p.date}  day {p.day + 1}/{self._days}  {p.rows:,}/{p.total:,} rows  {speed:,.0f} rows/s", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when the log is complete, 2 when the settings or the place are refused."""
    args = _parser().parse_args(argv)
    try:
        world = TruthSpec(args.seed, args.users, args.items, args.categories, args.conflict, args.drift)
        spec = LogSpec(world, args.days, args.rows_per_day, args.start, args.row_group_rows)
        done = generate_log(args.out, spec, _Printer(args.days))
    except (ValueError, OSError, ImportError) as error:  # fsspec asks for a missing driver with an ImportError
        print("generate:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if not done.rows:
        print(f"{args.out} already holds this log ({args.days} days x {args.rows_per_day:,} rows): nothing to do")
    else:
        speed = done.rows / done.seconds
        print(f"wrote {done.rows:,} rows to {args.out} in {done.seconds:.1f} s ({speed:,.0f} rows/s)")
    last = f"{spec.date(spec.days - 1)}"
    for task in TASKS:
        on = done.truth["days"][last][task]
        auc = "undefined (one class)" if on["auc"] is None else f"{on['auc']:.4f}"
        print(f"  {last}  {task:<5}  best AUC {auc}  {on['positives']:,} of {on['rows']:,} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
