"""Census-Income, groups 1 and 2 of the MMoE and PLE papers, with the job of census.yaml.

    python benchmarks/papers/census.py                  # both groups, 5 seeds, on UCI's whole training split
    python benchmarks/papers/census.py --tune --set dense_optimizer.lr=0.003

Group 1: income (above 50 K) and never married. Group 2: college and never married. single_task with tables of its own
for each task (a model a task), shared_bottom, mmoe and ple of one size are trained on the training split and scored on
the half of the test split that is published as validation; LightGBM on the same columns beside them, its rounds found
on a tenth of the training split. --tune trains on four fifths of the training split and scores the last: settings are
chosen there, and the validation split is looked at once they are fixed.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.papers.experiment import HERE, compared, forest, gains, ingested, parser, show, table  # noqa: E402

TRAINED, SCORED = "2000-01-01", "2000-01-02"
"""The days that stand for the splits."""
SIZE = 49_000
"""Parameters of each dense network."""
GROUPS = {"group 1": ("income", "never_married"), "group 2": ("college", "never_married")}
PUBLISHED = {
    "group 1": {
        "PLE paper, single": {"income": "0.9445", "never_married": "0.9923"},
        "PLE paper, PLE": {"income": "0.9522", "never_married": "0.9945"},
        "MMoE paper, single": {"income": "0.9398", "never_married": "0.9933"},
        "MMoE paper, shared bottom": {"income": "0.9361", "never_married": "0.9915"},
        "MMoE paper, MMoE": {"income": "0.9410", "never_married": "0.9926"},
        "torch-rechub, PLE": {"income": "0.9593", "never_married": "0.9950"},
    },
    "group 2": {
        "MMoE paper, single": {"college": "0.8843"},
        "MMoE paper, shared bottom": {"college": "0.8836"},
        "MMoE paper, MMoE": {"college": "0.8860"},
    },
}
TREES = [
    {"num_leaves": leaves, "learning_rate": 0.05, "colsample_bytree": 0.4, "cat_smooth": 20} for leaves in (15, 31)
]


def split_again(log: Path, target: Path) -> Path:
    """A log of the training split alone: four fifths of it as the first day, the rest as the second."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    if target.exists():
        return target
    rows = ds.dataset(log / f"dt={TRAINED}", format="parquet").to_table()
    held = np.random.default_rng(7).random(len(rows)) < 0.2
    for day, inside in ((TRAINED, ~held), (SCORED, held)):
        folder = target / f"dt={day}"
        folder.mkdir(parents=True)
        pq.write_table(rows.filter(pa.array(inside)), folder / "part-00000.parquet", write_page_checksum=True)
        (folder / "_SUCCESS").touch()
    return target


def held_out(columns: Any) -> Any:
    """A tenth of the rows, for the trees' number of rounds."""
    import numpy as np

    return np.random.default_rng(11).random(len(columns.day_N)) < 0.1


def main() -> int:
    """Runs what has not been run, and prints the tables."""
    arguments = parser("census", __doc__ or "", "census_income").parse_args()
    log = ingested("census", arguments.data, arguments.out / "events")
    out, choices, groups = arguments.out, TREES, GROUPS
    if arguments.tune:
        log, out = split_again(log, arguments.out / "tune" / "events"), arguments.out / "tune"
    quick = []
    if arguments.quick:
        arguments.seeds, choices, groups = 1, TREES[:1], {"group 1": GROUPS["group 1"]}
        quick = ["train.max_steps=4"]
    from schemas.load import load_job

    for group, tasks in groups.items():
        named = f"[{', '.join(f'{{name: {task}}}' for task in tasks)}]"
        settings = [f"data.path={log}", f"tasks={named}"]
        folder = out / group.replace(" ", "-")
        values = compared("census", SIZE, folder, arguments, [*settings, *quick])
        trees = forest(load_job(str(HERE / "census.yaml"), settings), held_out, choices, arguments, out)
        print(f"\nCensus-Income, {group}: AUC, mean over {arguments.seeds} seeds +- half of the 95 % interval\n")
        show(table(values, trees, PUBLISHED[group]))
        show(gains(values, regression=()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
