"""Count the values of a job's features, say which share rows, write vocabulary files.

    ./launch.sh vocabulary CONFIG.yaml [key=value ...]                                 count, and say what to change
    ./launch.sh vocabulary CONFIG.yaml --write DIR --min-count 5 [--max-rows 1000000]  DIR/TABLE.parquet a table
    ./launch.sh vocabulary CONFIG.yaml --write NEW --min-count 5 --extend OLD          old values keep their rows

Reads the training days (data.train) once, the columns of ids, lists of ids and strings alone.
"""

import argparse
import sys

from jobs.failure import reported
from pipeline.data.files import plan
from pipeline.data.vocabulary import Progress, Survey, Writer
from pipeline.data.vocabulary_report import report, written
from schemas.errors import InputError
from schemas.load import load_job

SECONDS_BETWEEN_LINES = 5.0
LEAST_MEMORY_MIB = 16


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh vocabulary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("config", help="the job's YAML")
    add("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    add("--write", metavar="DIR", help="folder for the vocabularies: a path or an fsspec URL")
    add("--min-count", type=int, default=1, metavar="N", help="leave out values with fewer look-ups (%(default)s)")
    add("--max-rows", type=int, metavar="M", help="keep the M most frequent values of a table")
    add("--extend", metavar="DIR", help="vocabularies whose values keep their rows; new values come behind them")
    add("--target", type=float, default=0.1, metavar="X", help="share of values that may share a row (%(default)s)")
    memory = "for the counts; beyond it distinct values are estimated (%(default)s MiB)"
    add("--memory", type=int, default=2048, metavar="MIB", help=memory)
    return out


class Printer:
    """A line of progress every few seconds."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, p: Progress) -> None:
        """Prints it, unless the last one is fresh."""
        if p.seconds - self._last >= SECONDS_BETWEEN_LINES:
            self._last = p.seconds
            speed = p.rows / p.seconds
            left = (p.total - p.rows) / speed
            print(f"{p.rows:,}/{p.total:,} rows  {speed:,.0f} rows/s  {left:,.0f} s left", flush=True)


def check(arguments: argparse.Namespace) -> None:
    """Raises InputError for options that make no sense."""
    if arguments.write is None and (arguments.extend or arguments.max_rows is not None or arguments.min_count != 1):
        raise InputError("--min-count, --max-rows and --extend say what --write DIR writes; add it")
    if arguments.min_count < 1 or (arguments.max_rows is not None and arguments.max_rows < 1):
        raise InputError("--min-count and --max-rows take a whole number of 1 or more")
    if not 0 < arguments.target < 1:
        raise InputError(f"--target: {arguments.target} is no share between 0 and 1; write 0.1 for a tenth")
    if arguments.memory < LEAST_MEMORY_MIB:
        raise InputError(f"--memory: {arguments.memory} MiB hold no counts; give {LEAST_MEMORY_MIB} or more")


def main(argv: list[str] | None = None) -> None:
    """Runs the command; raises InputError."""
    arguments = parser().parse_intermixed_args(sys.argv[1:] if argv is None else argv)
    check(arguments)
    job = load_job(arguments.config, arguments.overrides)
    # to write the files that the job names, they need not be there yet
    survey = Survey(job, arguments.memory << 20, declared=arguments.write is None)
    writer = None
    if arguments.write is not None:
        writer = Writer(survey, arguments.write, arguments.min_count, arguments.max_rows, arguments.extend)
    manifest = plan(job, job.data.train)
    survey.count(manifest, Printer())
    print(f"{manifest.rows:,} rows of {job.data.train.first} to {job.data.train.last}\n")
    print(report(survey.lines(), arguments.target))
    if writer is not None:
        print(f"\n{written(writer.write(), writer.left_out, arguments.extend)}")


if __name__ == "__main__":
    with reported():
        main()
