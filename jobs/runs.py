"""List, show, compare and watch runs and days of retraining in the terminal.

    ./launch.sh runs [FOLDER ...]                    every run and daily job below (default: runs/)
    ./launch.sh runs show RUN                        one run in full; DAILY/days/2026-01-08: one day
    ./launch.sh runs compare RUN RUN ...             evaluations and settings side by side
    ./launch.sh runs watch RUN                       lines as they are told, until it ends

RUN is the `output` of a run (where that is a URL, its tracking.folder, by default runs/NAME), DAILY that of a daily
job. All of it comes from the runs' own records; neither wandb nor a network is asked.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.failure import reported
from pipeline.run_report.days import days_at, root_of
from pipeline.run_terminal.found import places, run_at
from pipeline.run_terminal.listing import listing
from pipeline.run_terminal.show import compared, shown, shown_day
from pipeline.run_terminal.watch import Watch
from schemas.errors import InputError

ACTIONS = ("list", "show", "compare", "watch")
FOLDER = "runs"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("words", nargs="*", metavar="[ACTION] RUN", help=f"one of {', '.join(ACTIONS)} (default list), then folders")
    add("--days", type=int, default=14, metavar="N", help="last days of a daily job to list (default %(default)s)")
    seconds = "watch: give up after so long without a word (default %(default)s)"
    add("--seconds", type=float, default=600, metavar="S", help=seconds)
    return out


def arguments_of(argv: Sequence[str]) -> tuple[str, list[str], argparse.Namespace]:
    """The action, the folders, the options. Raises InputError."""
    given = parser().parse_intermixed_args(argv)
    action, folders = ("list", given.words)
    if folders and folders[0] in ACTIONS:
        action, folders = folders[0], folders[1:]
    folders = [folder.rstrip("/") or "/" for folder in folders]
    if given.days < 1:
        raise InputError(f"--days: {given.days} shows nothing; write 1 or more")
    if not given.seconds > 0:
        raise InputError(f"--seconds: {given.seconds:g} waits for nothing; write more than 0")
    if action in ("show", "watch") and len(folders) != 1:
        raise InputError(f"{action}: name one run; `./launch.sh runs` lists them")
    return action, folders or [FOLDER], given


def _show(place: str, days: int) -> str:
    root = root_of(place)
    if root is None:
        return shown(run_at(place))
    if root[1]:
        return shown_day(days_at(root[0], 1, (root[1],)))
    return listing(places([place]), days)


def _watch(place: str, seconds: float) -> int:
    root = root_of(place)
    if root is not None and root[1]:
        raise InputError(f"{place}: a day is watched at its daily job: ./launch.sh runs watch {root[0]}")
    folder = Path(place)
    if "://" in place:
        raise InputError(f"{place}: name the local folder of its record, tracking.folder (by default runs/NAME)")
    if not folder.is_dir():
        raise InputError(f"{place}: is not there; name the `output` of a run, which makes it as it begins")
    return Watch(folder, lambda text: print(text, flush=True), seconds, place if root is not None else "").run()


def main(argv: list[str] | None = None) -> int:
    """Runs the command; its exit code. Raises InputError."""
    action, folders, given = arguments_of(sys.argv[1:] if argv is None else argv)
    if action == "watch":
        return _watch(folders[0], given.seconds)
    if action == "show":
        print(_show(folders[0], given.days))
    elif action == "compare":
        print(compared([run_at(folder) for folder in folders]))
    else:
        print(listing(places(folders), given.days))
    return 0


if __name__ == "__main__":
    with reported():
        sys.exit(main())
