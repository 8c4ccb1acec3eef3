"""What a value that is listed anew should begin with: the out-of-vocabulary row, or a row from the seed.

    python benchmarks/growth.py [--seeds N] [--rows-per-day N]

A generated log of five days in which a third of the items is not seen before the fourth. The parent trains three days
through a vocabulary of the items with 20 look-ups or more, the others being unknown; its children train the fourth,
warm, and are evaluated on the fifth: on `all` rows, and on the `new` ones, whose item was listed anew. Others train the
fourth without the rows of new items, as where all rows of a new user are held out: what they predict of the `new` rows
is told as `held`.

    old     the vocabulary stays as it was
    copy    the vocabulary grows by items with 5 look-ups; their rows begin as the out-of-vocabulary row
    seed    it grows; their rows stay as the table was initialised

Printed: log loss and AUC of click, means over seeds, and the mean of `copy` - `seed` with its 95 % interval.
The claims: `copy` is ahead in AUC where a new row is not trained (`held`), as good as `old` there, and elsewhere within
0.001 of `seed` in log loss.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DAYS = [f"2026-01-0{n}" for n in range(1, 8)]
"""The sixth holds the fifth's rows of new items, the seventh the fourth's of known ones."""
SIDES = ("old", "copy", "seed")
ITEMS = 5000
NEW = np.random.default_rng(7).random(ITEMS) < 1 / 3
"""Items not seen before the fourth day."""


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/growth.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each side (%(default)s)")
    out.add_argument("--rows-per-day", type=int, default=100_000, metavar="N", help="exposures (%(default)s)")
    return out


def rows_of(log: Path, day: str) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(path).read() for path in sorted((log / f"dt={day}").glob("*.parquet"))])


def write_day(log: Path, day: str, table: pa.Table) -> None:
    folder = log / f"dt={day}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pq.write_table(table, folder / "part-00000.parquet", write_page_checksum=True)
    (folder / "_SUCCESS").touch()


def tree(folder: Path, name: str, days: tuple[str, str], evaluated: str, items: Path, seed: int) -> dict[str, Any]:
    """A job of one side, as plain data."""
    import yaml

    config = yaml.safe_load((ROOT / "jobs/configs/generated.yaml").read_text())
    config |= {"output": str(folder / name), "seed": seed, "tracking": {"mode": "disabled"}}
    config["data"] = {"path": str(folder / "log"), "train": {"from": days[0], "to": days[1]}}
    config["data"]["eval"] = {"from": evaluated, "to": evaluated}
    config["train"] |= {"batch_size": 1024}  # so that a day has some steps
    config["features"] = [
        {**feature, "vocabulary": str(items)} if feature["name"] == "item" else feature
        for feature in config["features"]
        if feature["name"] != "history"  # it would train the rows that are held out
    ]
    return config


def trained(config: dict[str, Any], ranks: Any) -> dict[str, float]:
    """The job's click metrics; run again on another day it evaluates alone."""
    from pipeline.data.freeze import plan_job
    from pipeline.train.run import run_job
    from schemas.load import parse_job

    job = parse_job(config, "benchmark")
    reads = plan_job(job, None)
    with contextlib.redirect_stdout(io.StringIO()):
        run_job(job, reads.training, reads.evaluation, ranks, {})
    return json.loads(Path(job.output, "result.json").read_text())["tasks"]["click"]["own"]


def one_seed(folder: Path, seed: int, old: Path, ranks: Any) -> dict[str, dict[str, float]]:
    """Each side's metrics of click, by `all` or `new` and the metric."""
    import pipeline.train.warm_start as warm_start
    from pipeline.data.vocabulary_growth import grow
    from schemas.events import DayRange
    from schemas.load import parse_job

    parent = tree(folder, f"parent{seed}", (DAYS[0], DAYS[2]), DAYS[4], old, seed)
    trained(parent, ranks)
    days = DayRange.model_validate({"from": DAYS[3], "to": DAYS[3]})
    more = Path(grow(parse_job(parent, "benchmark"), days, None, str(folder / "new"), 5, lambda _: None)["item"].path)
    listed = warm_start._listed
    out: dict[str, dict[str, float]] = {}
    for side in SIDES:
        warm_start._listed = listed if side == "copy" else lambda *_: {}
        out[side] = {}
        for rows, day, train in (("all", DAYS[4], DAYS[3]), ("new", DAYS[5], DAYS[3]), ("held", DAYS[5], DAYS[6])):
            items = old if side == "old" else more
            child = tree(folder, f"{side}{seed}{train}", (train, train), day, items, seed + 100)
            child["warm_start"] = {"checkpoint": f"{folder}/parent{seed}/checkpoints"}
            found = trained(child, ranks)
            out[side] |= {f"{rows} {name}": found[name] for name in ("log_loss", "auc")}
    warm_start._listed = listed
    return out


def main() -> None:
    arguments = parser().parse_args()
    from benchmarks.papers.intervals import interval
    from jobs.generate import main as generate
    from jobs.vocabulary import main as count
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log, rows = folder / "log", str(arguments.rows_per_day)
        with contextlib.redirect_stdout(io.StringIO()):
            generate(["--out", str(log), "--days", "5", "--rows-per-day", rows, "--items", str(ITEMS)])
            for day in DAYS[:3]:
                table = rows_of(log, day)
                write_day(log, day, table.filter(pa.array(~NEW[table["item_id"].to_numpy()])))
            job = folder / "job.json"
            job.write_text(
                json.dumps(tree(folder, "none", (DAYS[0], DAYS[2]), DAYS[4], folder / "old/item.parquet", 0))
            )
            count([str(job), "--write", str(folder / "old"), "--min-count", "20"])
        old = folder / "old" / "item.parquet"
        known = pq.read_table(old)["value"]
        fourth, fifth = rows_of(log, DAYS[3]), rows_of(log, DAYS[4])
        came = fourth.filter(pc.invert(pc.is_in(fourth["item_id"], known.combine_chunks())))["item_id"]
        write_day(log, DAYS[5], fifth.filter(pc.is_in(fifth["item_id"], came.combine_chunks())))
        write_day(log, DAYS[6], fourth.filter(pc.is_in(fourth["item_id"], known.combine_chunks())))
        print(
            f"{len(known):,} items known; {len(rows_of(log, DAYS[5])):,} of {len(fifth):,} rows are of others",
            flush=True,
        )
        with process_group(600) as ranks:
            found = [one_seed(folder, seed, old, ranks) for seed in range(arguments.seeds)]
    print(f"{'':14}{'old':>10}{'copy':>10}{'seed':>10}   copy - seed")
    for key in found[0]["copy"]:
        means = [interval([each[side][key] for each in found])[0] for side in SIDES]
        mean, half = interval([each["copy"][key] - each["seed"][key] for each in found])
        print(f"{key:14}" + "".join(f"{value:10.4f}" for value in means) + f"   {mean:+.5f} +- {half:.5f}")


if __name__ == "__main__":
    main()
