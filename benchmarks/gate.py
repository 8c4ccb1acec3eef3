"""What the gate refuses: a planted loss in one task, replicas, the model itself; false refusals and power.

    python benchmarks/gate.py                            # the campaign, 20 seeds, a temporary folder
    python benchmarks/gate.py campaign --out runs/gate   # keeps the models, and trains none that is there
    python benchmarks/gate.py family power speed

    campaign   models of the packaged job, one a seed, each trained warm on the fourth generated day from one parent,
               which has seen the three before, and scored on the fifth. For each seed its model is champion, and
               challengers are: the same with noise on the logits of `order` until its AUC is .005 lower, the same
               of `click`, the model of the next seed (a replica), itself
    family     champion and challenger equally good, in worlds drawn anew: how often any of 21 comparisons that depend
               on each other is refused at a confidence of .95 and no tolerance, and how often without the correction
    power      losses of 0 to .01 planted in the AUC of `order`: how often they are refused, by this rule and by others
    speed      seconds of the bootstrap for 7 samples of 200,000 rows, 3 metrics each, on one core

Everything that is printed of the campaign is what `pipeline.gate` decided with its default settings, but for the
number of resamples where --resamples says another.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from tests.exposures import auc_of_task, drawn, generated_job, planted  # noqa: E402

CONFIG = ROOT / "jobs/configs/generated.yaml"
TASKS = ("click", "cart", "fav", "order")
PLANTED = 0.005
QUIET = ["train.log_every=100000", "train.checkpoint_every=100000", "tracking.mode=disabled"]


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/gate.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)} (campaign)")
    out.add_argument("--seeds", type=int, default=20, metavar="N", help="models of the campaign (%(default)s)")
    out.add_argument("--rows-per-day", type=int, default=280_000, metavar="N", help="of the campaign's log")
    out.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the campaign's gate (%(default)s)")
    out.add_argument("--worlds", type=int, default=400, metavar="N", help="of family, a quarter of them in power")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder of the log and the models (a temporary one)")
    return out


# ---- real models


def launched(words: list[str]) -> None:
    """Runs the real command on one rank; what it printed, where it failed."""
    command = [sys.executable, "-m", "jobs.launch", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def models(out: Path, seeds: int, rows_per_day: int) -> None:
    """Log, models and scores below the folder, as far as they are not there."""
    from pipeline.data.generated_log import LogSpec, generate_log

    log = out / "log"
    generate_log(str(log), LogSpec(rows_per_day=rows_per_day))
    runs = {"parent": ["data.train.to=2026-01-03", "data.eval=null"]}
    for seed in range(seeds):
        day = [f"seed={seed}", "data.train.from=2026-01-04", f"warm_start.checkpoint={out}/parent/checkpoints"]
        runs[f"seed-{seed}"] = [*day, "data.eval=null"]
    for name, settings in runs.items():
        if not (out / name / "result.json").exists():
            began = time.monotonic()
            job = [str(CONFIG), f"output={out}/{name}", f"data.path={log}", *settings]
            launched(["train", "--nproc-per-node", "1", *job, *QUIET])
            print(f"  {name} trained in {time.monotonic() - began:.0f} s", flush=True)
    checkpoints = [f"score.models.seed-{seed}={out}/seed-{seed}/checkpoints" for seed in range(seeds)]
    job = [str(CONFIG), f"data.path={log}", f"score.out={out}/scores", *checkpoints]
    launched(["score", "--nproc-per-node", "1", *job, "tracking.mode=disabled"])


def campaign(arguments: argparse.Namespace, out: Path) -> None:
    """A line a kind of challenger, over the seeds."""
    from pipeline.data.files import plan
    from pipeline.gate.rows import column_of_rows
    from pipeline.gate.verdict import Verdict, judge
    from pipeline.predictions import Predictions, read_predictions
    from schemas.daily import GateConfig
    from schemas.load import load_job

    models(out, arguments.seeds, arguments.rows_per_day)
    job = load_job(str(CONFIG), [f"data.path={out}/log"])
    gate = GateConfig(resamples=arguments.resamples)
    assert job.data.eval is not None
    scores = str(out / "scores")
    found: dict[str, list[Verdict]] = {}
    user_N = None
    for seed in range(arguments.seeds):
        old = read_predictions(scores, f"seed-{seed}")
        if user_N is None:
            user_N = column_of_rows(job, plan(job, job.data.eval), "user_id", old.row_N)
        sides: dict[str, Callable[[], Predictions]] = {
            "order less .005": lambda old=old, seed=seed: planted(old, "order", PLANTED, seed),
            "click less .005": lambda old=old, seed=seed: planted(old, "click", PLANTED, seed),
            "replica": lambda seed=seed: read_predictions(scores, f"seed-{(seed + 1) % arguments.seeds}"),
            "itself": lambda old=old: old,
        }
        for name, challenger in sides.items():
            found.setdefault(name, []).append(judge(job, gate, old, challenger(), {}, user_N, seed))
        print(f"  seed {seed} judged", flush=True)
    assert user_N is not None
    users = len(np.unique(user_N))
    sizes = f"{len(user_N):,} held-out rows of {users:,} users, {arguments.seeds} seeds"
    print(f"\n{sizes}, {arguments.resamples:,} resamples\n")
    for name, verdicts in found.items():
        _told(name, verdicts)
    first = read_predictions(scores, "seed-0")
    _sizes(job, first, read_predictions(scores, "seed-1"), user_N)


def _told(name: str, verdicts: list) -> None:
    """How many were refused, by which comparisons, and the deltas of AUC."""
    refused = [verdict for verdict in verdicts if not verdict.blessed]
    print(f"{name}: {len(refused)} of {len(verdicts)} refused")
    blocks: dict[str, int] = {}
    for verdict in verdicts:
        for c in verdict.comparisons:
            if c.verdict == "worse":
                key = f"{c.task} {c.space} {c.metric}"
                blocks[key] = blocks.get(key, 0) + 1
    if blocks:
        print(f"  worse: {', '.join(f'{key} {count}' for key, count in blocks.items())}")
    critical = [verdict.critical for verdict in verdicts if verdict.critical is not None]
    print(f"  critical value {np.mean(critical):.2f}")
    head = ["", "mean delta", "least", "largest", "mean noise", "largest", "seen from"]
    print("".join(f"{word:>24}" if not at else f"{word:>12}" for at, word in enumerate(head)))
    for metric in ("auc", "log_loss", "calibration"):
        for task, space in [*((task, "own") for task in TASKS), *((task, "joint") for task in TASKS[1:])]:
            of = [c for v in verdicts for c in v.comparisons if (c.task, c.space, c.metric) == (task, space, metric)]
            delta = np.array([c.delta for c in of])
            noise = np.array([c.delta - c.low for c in of])
            seen = np.mean([c.detectable for c in of])
            values = [delta.mean(), delta.min(), delta.max(), noise.mean(), noise.max(), seen]
            print(f"{f'{task} {space} {metric}':>24}" + "".join(f"{value:>+12.4f}" for value in values))
    print(flush=True)


def _sizes(job, old, new, user_N) -> None:  # type: ignore[no-untyped-def]
    """What is seen on fewer users."""
    from pipeline.gate.verdict import judge
    from schemas.daily import GateConfig

    print("loss of AUC that is refused in four of five cases, by held-out rows: replica, and planted noise\n")
    code_N = np.unique(user_N, return_inverse=True)[1]
    for share in (0.02, 0.05, 0.1, 0.25, 0.5, 1.0):
        kept_N = code_N % 100 < 100 * share
        sides = [
            dataclasses.replace(
                side,
                row_N=side.row_N[kept_N],
                logit_TN=side.logit_TN[:, kept_N],
                label_TN=side.label_TN[:, kept_N],
                space_TN=side.space_TN[:, kept_N],
            )
            for side in (old, new, planted(old, "order", PLANTED, 0))
        ]
        for name, other in (("replica", sides[1]), ("planted", sides[2])):
            verdict = judge(job, GateConfig(), sides[0], other, {}, user_N[kept_N], 1)
            told = [c for c in verdict.comparisons if c.metric == "auc" and (name == "replica" or c.task == "order")]
            words = ", ".join(f"{c.task} {c.space} {c.detectable or float('nan'):.4f} ({c.positives:,})" for c in told)
            print(f"{int(kept_N.sum()):>9,} rows, {name}: {words}", flush=True)


# ---- simulation


def family(arguments: argparse.Namespace, out: Path) -> None:
    """False refusals over worlds in which nothing is worse."""
    from pipeline.gate.verdict import judge
    from schemas.daily import GateConfig

    job, gate = generated_job(), GateConfig(resamples=400)
    print("share of worlds in which one of 21 comparisons is refused, though nothing is worse\n")
    print("users  rows a user  worlds  no tolerance  default tolerances  each comparison by itself  unsure")
    for users, rows_a_user in ((300, 5), (1000, 5), (4000, 2)):
        counts = np.zeros(4, int)
        for seed in range(arguments.worlds):
            world = drawn(seed, users=users, rows_a_user=rows_a_user)
            verdict = judge(job, gate, world.predicted(0.5), world.predicted(0.5), {}, world.user_N, seed)
            judged = [c for c in verdict.comparisons if c.judges]
            counts += [
                any(c.low > 0 for c in judged),
                not verdict.blessed,
                any(c.delta > 1.645 * c.error for c in judged),
                any(c.verdict == "unsure" for c in judged),
            ]
        none, default, alone, unsure = (f"{count / arguments.worlds:.3f}" for count in counts)
        words = f"{users:>5}  {rows_a_user:>11}  {arguments.worlds:>6}  {none:>12}  {default:>18}  {alone:>25}"
        print(f"{words}  {unsure:>6}", flush=True)


LOSSES = (0.0, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01)


def power(arguments: argparse.Namespace, out: Path) -> None:
    """Refusals of planted losses of AUC, by rule."""
    from pipeline.gate.verdict import judge
    from schemas.daily import GateConfig

    job, gate, at = generated_job(), GateConfig(resamples=400), TASKS.index("order")
    worlds, tolerance = max(1, arguments.worlds // 4), gate.tolerance.auc
    large = drawn(10**6, users=100_000, rows_a_user=5)
    model = large.predicted(0.3)
    scales = {loss: noise_of(model, planted(model, "order", loss, 1), at) if loss else 0.0 for loss in LOSSES}
    print("AUC of order on clicked rows, tolerance .002; both models have noise of their own besides")
    print("noise: c x SE of three verdicts over 21 comparisons; share of worlds refused, by rule\n")
    print("   rows  true loss   noise  delta > t and > noise  delta - noise > t  delta > t  delta > noise")
    for users in (4_000, 16_000, 64_000):
        noise: dict[float, list[float]] = {loss: [] for loss in LOSSES}
        delta: dict[float, list[float]] = {loss: [] for loss in LOSSES}
        for seed in range(worlds):
            world = drawn(seed, users=users, rows_a_user=5)
            old, new = world.predicted(0.3), world.predicted(0.3)
            before = auc_of_task(old, "order")
            more_N = world.rng.normal(size=len(world.user_N)).astype(np.float32)
            for loss, scale in scales.items():
                logit_TN = new.logit_TN.copy()
                logit_TN[at] += np.float32(scale) * more_N
                worse = dataclasses.replace(new, logit_TN=logit_TN)
                delta[loss].append(before - auc_of_task(worse, "order"))
                if seed < 3 and loss in (0.0, 0.005):
                    verdict = judge(job, gate, old, worse, {}, world.user_N, seed)
                    told = [c for c in verdict.comparisons if (c.task, c.space, c.metric) == ("order", "own", "auc")]
                    noise[loss].append(told[0].delta - told[0].low)
        margin = float(np.mean(noise[0.0] + noise[0.005]))
        for loss in LOSSES:
            of = np.array(delta[loss])
            rules = [
                (of > tolerance) & (of > margin),
                of - margin > tolerance,
                of > tolerance,
                of > margin,
            ]
            both, beyond, tolerated, seen = (f"{rule.mean():.2f}" for rule in rules)
            words = f"{5 * users:>7,}  {loss:>9.4f}  {margin:.4f}  {both:>21}  {beyond:>17}  {tolerated:>9}"
            print(f"{words}  {seen:>13}", flush=True)


def noise_of(model, worse, at: int) -> float:  # type: ignore[no-untyped-def]
    """Deviation of what was added to a task's logits."""
    return float((worse.logit_TN[at] - model.logit_TN[at]).std())


def speed(arguments: argparse.Namespace, out: Path) -> None:
    """CPU seconds of judging, by number of users."""
    from pipeline.gate.verdict import judge
    from schemas.daily import GateConfig

    job = generated_job()
    print("rows     users    comparisons  CPU seconds of judge, 1,000 resamples")
    for users, rows_a_user in ((20_000, 10), (100_000, 2)):
        world = drawn(1, users=users, rows_a_user=rows_a_user)
        old, new = world.predicted(0.3), world.predicted(0.3)
        began = time.process_time()
        verdict = judge(job, GateConfig(), old, new, {}, world.user_N, 1)
        took = time.process_time() - began
        print(f"{len(world.user_N):>7,}  {users:>7,}  {len(verdict.comparisons):>11}  {took:>12.1f}", flush=True)


STUDIES: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "campaign": campaign,
    "family": family,
    "power": power,
    "speed": speed,
}


def main() -> int:
    """Runs the studies that are named."""
    arguments = parser().parse_args()
    if unknown := set(arguments.studies) - STUDIES.keys():
        print(f"no such study: {', '.join(unknown)}")
        return 2
    print(f"machine  {machine()}")
    with tempfile.TemporaryDirectory(prefix="gate-") as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        for name in arguments.studies or ["campaign"]:
            print(f"\n{name}\n", flush=True)
            STUDIES[name](arguments, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
