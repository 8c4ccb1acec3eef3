"""Where gates lean when two tasks agree, and when they are opposites: the declared truth of a log, read off telemetry.

    python benchmarks/gates.py [--seeds 5] [--out DIR] [key=value ...]

The generated log, the labels of two tasks drawn anew on every exposure. `agree`: both from the row's probability of
a click, each drawn by itself. `oppose`: the second from the opposite, the same logit's distance on the other side of
the mean. CGC with an expert a task and a shared one, as generated.yaml is trained; a seed draws log and weights.
Printed: the weight that each gate gives its task's own expert at the end, and the cosine of the tasks' gradients, mean
over the run. --out keeps gates.svg, heat maps of the gates over the rows trained.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from jobs.generate import main as generate  # noqa: E402
from pipeline.compare.statistics import estimate  # noqa: E402
from pipeline.data.declared_truth import TruthSpec  # noqa: E402
from pipeline.data.generated_log import truth_probabilities  # noqa: E402
from pipeline.data.ground_truth import GroundTruth  # noqa: E402
from pipeline.journal import attempts, series  # noqa: E402
from pipeline.report.plots import drawing  # noqa: E402
from pipeline.report.text import aligned  # noqa: E402
from schemas.load import load_tree  # noqa: E402

DAYS, ROWS = 4, 60_000
TASKS = ("click", "order")
TRUTHS = ("agree", "oppose")
Series = dict[str, list[tuple[int, float]]]


def write_log(folder: Path, seed: int, truth: str) -> None:
    """The generated log with both labels drawn anew."""
    words = ["--seed", str(seed), "--days", str(DAYS), "--rows-per-day", str(ROWS), "--start", "2026-01-01"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert generate(["--out", str(folder), *words]) == 0
    world = GroundTruth(TruthSpec(seed))
    for day in range(DAYS):
        for number, file in enumerate(sorted((folder / f"dt=2026-01-0{day + 1}").glob("*.parquet"))):
            table = pq.read_table(file, partitioning=None)
            p_N = truth_probabilities(world, day, table).click.astype(np.float64)
            logit_N = np.log(p_N / (1 - p_N))
            other_N = logit_N if truth == "agree" else 2 * logit_N.mean() - logit_N
            drawn = np.random.default_rng([seed, day, number])
            for name, z_N in zip(TASKS, (logit_N, other_N), strict=True):
                at = table.schema.get_field_index(name)
                label_N = pa.array(drawn.random(len(z_N)) < 1 / (1 + np.exp(-z_N)))
                field = table.schema.field(name)
                table = table.set_column(at, field, label_N.cast(pa.int8()).cast(field.type))
            pq.write_table(table, file, write_page_checksum=True)


def trained(folder: Path, seed: int, truth: str, overrides: list[str]) -> Series:
    """What the training told, by key."""
    import yaml

    write_log(folder / "log", seed, truth)
    tree: dict[str, Any] = load_tree(str(ROOT / "jobs/configs/generated.yaml"), overrides)
    tree |= {"seed": seed, "output": str(folder / "out"), "tasks": [{"name": name} for name in TASKS]}
    tree["model"] |= {"arch": "cgc"}
    tree["model"].pop("levels", None)
    train = {"from": "2026-01-01", "to": "2026-01-03"}
    tree["data"] = {"path": str(folder / "log"), "train": train}
    tree["train"] |= {"batch_size": 1024}
    tree["tracking"] = {"mode": "disabled", "report": False, "telemetry": {"every": 20, "rows": 2048}}
    config = folder / "job.yaml"
    config.write_text(yaml.safe_dump(tree, sort_keys=False))
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "jobs.launch", "train", "--nproc-per-node", "1", str(config)]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return series(attempts(folder / "out"))


def own_share(told: Series, task: str) -> float:
    """At the end."""
    return told[f"gates/1/{task}/{task}.0"][-1][1]


def picture(told: dict[str, Series]) -> str:
    """A heat map a truth: a row a gate and expert, from the first look to the last."""
    rows = [(task, f"{owner}.0") for task in TASKS for owner in (task, "shared")]
    with drawing("Gate weights over the rows trained, where tasks agree and where they are opposites", 10, 2.8, 2) as (
        drawn,
        axes,
    ):
        for axis, truth in zip(axes, TRUTHS, strict=True):
            weights = [[value for _, value in told[truth][f"gates/1/{gate}/{expert}"]] for gate, expert in rows]
            shown = axis.imshow(weights, aspect="auto", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
            axis.set_yticks(range(len(rows)), [f"{gate} -> {expert}" for gate, expert in rows])
            axis.set_title(f"the tasks {truth}", fontsize=10)
            axis.set_xlabel("look")
            axis.grid(visible=False)
        drawn.figure.colorbar(shown, ax=list(axes), label="weight")
    return drawn.svg


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="(%(default)s)")
    parser.add_argument("--out", metavar="DIR", help="keeps gates.svg")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every job")
    arguments = parser.parse_args()
    found: dict[str, list[Series]] = {truth: [] for truth in TRUTHS}
    for seed in range(arguments.seeds):
        for truth in TRUTHS:
            with tempfile.TemporaryDirectory() as scratch:
                found[truth].append(trained(Path(scratch), seed, truth, arguments.overrides))
            shares = "  ".join(f"{task} {own_share(found[truth][-1], task):.2f}" for task in TASKS)
            print(f"seed {seed}  {truth:6}  weight of the own expert: {shares}", flush=True)
    print(f"\n{machine()}")
    lines = [["the tasks", *(f"{task}: own expert" for task in TASKS), "gradients' cosine"]]
    for truth, each in found.items():
        cosines = [float(np.mean([value for _, value in told["gradients/cosine/click~order"]])) for told in each]
        columns = [*([own_share(told, task) for told in each] for task in TASKS), cosines]
        lines.append([truth, *(_interval(values) for values in columns)])
    paired = [[own_share(b, task) - own_share(a, task) for a, b in zip(*found.values(), strict=True)] for task in TASKS]
    lines.append(["oppose - agree", *(_interval(values) for values in paired), ""])
    print(aligned(lines))
    if arguments.out:
        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        svg = picture({truth: each[0] for truth, each in found.items()})
        (Path(arguments.out) / "gates.svg").write_text(svg + "\n", encoding="utf-8")


def _interval(values: list[float]) -> str:
    told = estimate(values)
    return f"{told.mean:.2f}" + (f" +- {told.half:.2f}" if told.half is not None else "")


if __name__ == "__main__":
    main()
