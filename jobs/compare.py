"""Train several sides (architectures, spaces, settings) over seeds on one log, and say who gained and who paid.

    ./launch.sh compare JOB.yaml --out DIR                               single_task, shared_bottom, mmoe, ple; 5 seeds
    ./launch.sh compare JOB.yaml --out DIR --arch single_task ple --size 120000 --seeds 8 train.epochs=2
    ./launch.sh compare JOB.yaml --out DIR --sides SIDES.yaml --baseline now

SIDES.yaml gives each side its settings over the job's: `wide: {model.tower_layers: [64, 64]}`. The same command again
goes on where it stood: finished runs are kept, others resume. DIR gets report.html, results.parquet and results.csv.
"""

import argparse
import fcntl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.failure import reported
from pipeline.compare.runs import parent_of
from pipeline.compare.sides import ARCHS, DEFAULT_ARCHS, SPACES, file_sides, flag_sides, jobs_of
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.train.warm_start import find_parent
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import load_tree

STOPPED = 75


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = out.add_argument
    add("config", help="the job's YAML")
    add("overrides", nargs="*", metavar="key=value", help="settings of every side")
    add("--out", required=True, metavar="DIR", help="folder of the runs and the report")
    archs, spaces = f"sides by architecture: {', '.join(ARCHS)}", f"sides by space, of {', '.join(SPACES)}"
    add("--arch", action="extend", nargs="+", default=[], metavar="ARCH", help=archs)
    add("--space", action="extend", nargs="+", default=[], metavar="SPACE", help=spaces)
    add("--sides", metavar="SIDES.yaml", help="more sides: a mapping of settings for each name")
    add("--baseline", metavar="SIDE", help="what gains are over (single_task where it is a side, else the first)")
    add("--seeds", type=int, default=5, metavar="N", help="runs of each side, from the job's seed on (%(default)s)")
    add("--size", type=int, metavar="PARAMETERS", help="scale every side's dense network to so many parameters")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time (%(default)s)")
    add("--ranks", type=int, default=1, metavar="N", help="ranks of each run, on GPUs a GPU each (%(default)s)")
    return out


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The checked command line; the job and its settings may stand anywhere, behind a list of words too."""
    settings = [word for word in argv if "=" in word and not word.startswith("-")]
    words = [word for word in argv if word not in settings]
    jobs = [i for i, word in enumerate(words) if word.endswith((".yaml", ".yml")) and words[i - 1 : i] != ["--sides"]]
    if jobs:
        words = [words[jobs[0]], *words[: jobs[0]], *words[jobs[0] + 1 :]]
    out = parser().parse_intermixed_args(words)
    if out.overrides:
        raise InputError(f"'{out.overrides[0]}' is no setting; write key=value, such as train.batch_size=4096")
    out.overrides = settings
    for flag in ("seeds", "jobs", "ranks", "size"):
        value = getattr(out, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag}: takes a whole number of 1 or more, not {value}")
    if "://" in out.out:
        raise InputError(f"--out: '{out.out}' is a URL; name a local folder")
    return out


def sides_of(arguments: argparse.Namespace) -> dict[str, JobConfig]:
    """The checked job of each side; raises InputError."""
    asked = flag_sides(arguments.arch, arguments.space)
    if arguments.sides is not None:
        from_file = file_sides(arguments.sides)
        if twice := sorted(asked.keys() & from_file.keys()):
            raise InputError(f"{arguments.sides}: side '{twice[0]}' is one of the flags' too; rename it")
        asked |= from_file
    if not asked:
        asked = flag_sides(list(DEFAULT_ARCHS), [])
    tree = load_tree(arguments.config, arguments.overrides)
    return jobs_of(tree, arguments.config, asked, arguments.size)


def settled_parent(side: str, job: JobConfig, out: Path) -> JobConfig:
    """The job that begins from one checkpoint with every seed, and not from whichever is the newest when a run starts.

    Raises InputError where `warm_start.checkpoint` holds none that fits.
    """
    if job.warm_start is None:
        return job
    asked, found = job.warm_start.checkpoint.rstrip("/"), parent_of(side, out)
    if found is None or asked not in (found, found.rpartition("/")[0]):
        try:
            found = find_parent(job, fingerprints(job)).commit.path
        except InputError as error:
            raise InputError(f"side '{side}': {error}") from error
    return job.model_copy(update={"warm_start": job.warm_start.model_copy(update={"checkpoint": found})})


def baseline_of(asked: str | None, sides: Mapping[str, Any]) -> str:
    """The side that gains are over."""
    if asked is None:
        return "single_task" if "single_task" in sides else next(iter(sides))
    if asked not in sides:
        raise InputError(f"--baseline: no side '{asked}'; there are {', '.join(sides)}")
    return asked


@contextmanager
def sole_owner(out: Path) -> Iterator[None]:
    """Holds the folder; a second comparison there is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise InputError(f"--out: '{out}' cannot be written ({error.strerror}); name another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out: another comparison is at work in '{out}'; wait for it, or name another") from None
        yield


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code; raises InputError."""
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    sides = sides_of(arguments)
    baseline = baseline_of(arguments.baseline, sides)
    out = Path(arguments.out)
    with sole_owner(out):
        # here and not above: a mistake must not cost the seconds these take
        from pipeline.compare.campaign import campaign

        sides = {name: settled_parent(name, job, out) for name, job in sides.items()}
        return campaign(sides, baseline, arguments.seeds, out, arguments.jobs, arguments.ranks)


if __name__ == "__main__":
    with reported():
        sys.exit(main())
