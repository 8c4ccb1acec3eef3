"""KuaiRand-Pure with the job of kuairand.yaml: click, long view, like, profile enter, completion given click.

    python benchmarks/papers/kuairand.py                # 5 seeds
    python benchmarks/papers/kuairand.py --tune --set train.epochs=2

single_task with tables of its own for each task (a model a task), shared_bottom, mmoe and ple of one size are trained
on the first ten days and scored on the last two; LightGBM on the same columns beside them, its leaves and rounds found
on the tenth day. No embedding of users or videos: both see them through counts and target encodings of earlier days.
--tune trains on nine days and scores the tenth: settings are chosen there, and the last two days are looked at once
they are fixed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.papers.experiment import HERE, compared, forest, gains, ingested, parser, show, table  # noqa: E402

TUNE = ["data.train.to=2022-05-03", "data.eval.from=2022-05-04", "data.eval.to=2022-05-04"]
SIZE = 177_000
"""Parameters of each dense network."""
TREES = [
    {
        "num_leaves": n,
        "learning_rate": 0.05,
        "min_child_samples": 50,
        "colsample_bytree": 0.4,
        "reg_lambda": 5.0,
        "cat_smooth": 50,
    }
    for n in (7, 15, 31)
]


def main() -> int:
    """Runs what has not been run, and prints the tables."""
    arguments = parser("kuairand", __doc__ or "", "kuairand_pure").parse_args()
    log = ingested("kuairand", arguments.data, arguments.out / "events")
    out, choices = arguments.out, TREES
    settings = [f"data.path={log}", f"data.history.folder={arguments.out / 'statistics'}"]
    if arguments.tune:
        out, settings = arguments.out / "tune", [*settings, *TUNE]
    quick = []
    if arguments.quick:
        arguments.seeds, choices, quick = 1, TREES[:1], ["train.max_steps=4"]
    from schemas.load import load_job

    values = compared("kuairand", SIZE, out / "runs", arguments, [*settings, *quick])
    job = load_job(str(HERE / "kuairand.yaml"), settings)
    last = job.data.train.last.toordinal()
    trees = forest(job, lambda columns: columns.day_N == last, choices, arguments, out)
    days = f"{job.data.eval.first} to {job.data.eval.last}" if job.data.eval else ""
    print(f"\nKuaiRand-Pure, {days}: AUC, of vcr MSE; mean over {arguments.seeds} seeds +- half of the 95 % interval\n")
    show(table(values, trees, {}))
    show(gains(values, regression=["vcr"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
