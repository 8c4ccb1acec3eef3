"""Write a published data set as an event log."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.failure import reported
from pipeline.ingest.catalogue import DATASETS
from pipeline.ingest.dataset import Dataset, Ingested, Progress, ingest
from schemas.errors import InputError

DESCRIPTION = """\
Write a published data set, in its published files, as an event log: dt=YYYY-MM-DD partitions in the recommended
layout, with 0/1 labels. The files are fetched by you, under the publishers' terms; docs/ingest.md says where, what
each column is, and which job trains on the log."""
SECONDS_BETWEEN_LINES = 5.0
ROOT = Path(__file__).parents[1]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    out = argparse.ArgumentParser(
        "./launch.sh ingest", description=DESCRIPTION, formatter_class=raw, allow_abbrev=False
    )
    commands = out.add_subparsers(dest="dataset", required=True, metavar="DATASET", title="data sets")
    for name, dataset in DATASETS.items():
        command = commands.add_parser(
            name, help=f"{dataset.about.title} ({dataset.about.licence})", description=_about(dataset),
            formatter_class=raw, allow_abbrev=False,
        )  # fmt: skip
        add = command.add_argument
        add("--from", dest="source", required=True, metavar="DIR", help="folder of the published files, or a URL")
        add("--out", required=True, metavar="DIR", help="root of the log to write: a path or an fsspec URL")
        for option in dataset.options:
            add(
                option.flag, help=option.help, default=option.default, type=option.kind, nargs=option.values,
                metavar=option.metavar, choices=option.choices,
            )  # fmt: skip
        groups = f"rows a row group (default: {dataset.row_group_rows:,})"
        add("--row-group-rows", type=_count, metavar="N", help=groups)
    return out


def _about(dataset: Dataset) -> str:
    about = dataset.about
    return (
        f"{about.title} as an event log.\n\n{about.rows}\n\nFiles in --from: {about.files}\n\n"
        f"Source:  {about.source}\nLicence: {about.licence}\nCite:    {about.cite}"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


class _Printer:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, what: str, rows: int, seconds: float) -> None:
        if seconds - self._last >= SECONDS_BETWEEN_LINES:
            self._last = seconds
            print(f"{what}  {rows:,} rows  {rows / seconds:,.0f} rows/s", flush=True)


def _report(done: Ingested, dataset: Dataset, out: str) -> list[str]:
    """The table of what the log holds, and the next command."""
    width = max(14, *(len(label) + 2 for label in done.labels))
    lines = ["", f"{'day':<10}  {'rows':>12}" + "".join(f"{label:>{width}}" for label in done.labels)]
    total = sum(day.rows for day in done.days.values())
    sums = {label: sum(day.positives[label] for day in done.days.values()) for label in done.labels}
    rows = [(f"{date}", day.rows, day.positives) for date, day in done.days.items()]
    for name, count, positives in [*rows, ("all", total, sums)]:
        rates = "".join(f"{positives[label] / count:>{width}.4%}" for label in done.labels)
        lines.append(f"{name:<10}  {count:>12,}{rates}")
    command = [_from_here(ROOT / "launch.sh"), "train", _from_here(ROOT / f"jobs/configs/{dataset.about.name}.yaml")]
    if out.rstrip("/") != f"runs/{dataset.about.name}/events":
        command.append(f"data.path={out}")
    return [*lines, "", f"next: {shlex.join(command)}"]


def _from_here(path: Path) -> str:
    """As one types it in the folder in which this runs."""
    here = Path.cwd()
    if not path.is_relative_to(here):
        return str(path)
    shown = path.relative_to(here)
    return f"./{shown}" if len(shown.parts) == 1 else str(shown)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; raises InputError."""
    arguments = vars(parser().parse_args(sys.argv[1:] if argv is None else argv))
    dataset = DATASETS[arguments.pop("dataset")]
    source, out, group = (arguments.pop(name) for name in ("source", "out", "row_group_rows"))
    if out.rstrip("/") == source.rstrip("/"):
        raise InputError("--out: is --from; the published files are left as they are: choose another folder")
    done = ingest(dataset, source, out, arguments, group, Progress(_Printer()))
    for line in done.told:
        print(line)
    rows = sum(day.rows for day in done.days.values())
    if done.fresh:
        print(f"wrote {rows:,} rows to {out} in {done.seconds:.1f} s ({rows / done.seconds:,.0f} rows/s)")
    else:
        print(f"{out} already holds this log ({rows:,} rows): left alone")
    print("\n".join(_report(done, dataset, out)))


if __name__ == "__main__":
    with reported():
        main()
