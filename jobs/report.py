"""Make a page of a run, of several side by side, or of days of daily retraining, from their own records.

    ./launch.sh report RUN                        RUN/report.html
    ./launch.sh report RUN RUN ... --out FILE     side by side
    ./launch.sh report DAILY [--days 30]          the last days of a daily job
    ./launch.sh report DAILY/days/2026-01-08      one day of it, in full

RUN is the `output` of a training, or where that is a URL its local folder (tracking.folder, by default runs/NAME);
DAILY is the `output` of a daily job. Nothing is fetched from wandb, and the page fetches nothing: it opens without a
network.
"""

import argparse
import sys
from pathlib import Path

from jobs.failure import reported
from pipeline.run_report.written import DAYS, FILE, report
from schemas.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("runs", nargs="+", metavar="RUN", help="outputs of runs, or of a daily job, or days of it")
    out.add_argument("--out", metavar="FILE", help=f"default: RUN/{FILE}; ./{FILE} for several runs, or a URL")
    out.add_argument("--days", type=int, default=DAYS, metavar="N", help=f"last days of a daily job (default {DAYS})")
    return out


def main(argv: list[str] | None = None) -> None:
    """Writes the page and prints where it is; raises InputError."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.days < 1:
        raise InputError(f"--days: {arguments.days} shows nothing; write 1 or more")
    places = [place.rstrip("/") or "/" for place in arguments.runs]
    page = report(places, arguments.days)
    here = len(places) > 1 or "://" in places[0]
    out = Path(arguments.out or (FILE if here else f"{places[0]}/{FILE}"))
    try:
        page.write(out)
    except OSError as error:
        raise InputError(f"--out: '{out}' cannot be written ({error.strerror}); name another file") from error
    print(out)


if __name__ == "__main__":
    with reported():
        main()
