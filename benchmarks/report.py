"""How long a run's report takes to make and to open, by the length of the run, in one go.

    python benchmarks/report.py                     # 8 tasks, 18 experts a level, 40 features; 100 to 5,000 lines
    python benchmarks/report.py --rounds 9

A record is made as training leaves one, with telemetry in each fifth progress line; the page is made from it (read,
drawn, written; CPU seconds), and opened in headless Chromium at 1,280 and at 390 pixels: seconds from the start of the
navigation to the end of the load event, by the browser's own clock. Medians over rounds. The claims under test: a page
opens in under a second, and is made in under two seconds.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.journal import Journal  # noqa: E402
from pipeline.run_report.written import report  # noqa: E402
from tests.browser import PROGRAM, Browser  # noqa: E402
from tests.recorded import about  # noqa: E402

LINES = (100, 1000, 5000)
TASKS = [f"task_{n}" for n in range(8)]
EXPERTS = [f"{owner}.{n}" for owner in (*TASKS, "shared") for n in range(2)]
FEATURES = [f"feature_{n}" for n in range(40)]
OPEN_SECONDS, MAKE_SECONDS = 1.0, 2.0


def values(line: int) -> dict[str, float]:
    """A progress line's keys, all that training may tell."""
    out = {"train/rows_per_second": 1e5, "train/data_wait_share": 0.1, "memory/rss_gb": 2.0}
    for n, task in enumerate(TASKS):
        out |= {
            f"train/{task}/auc": 0.6 + 0.1 * math.sin(line / 100 + n),
            f"train/{task}/loss": 0.6,
            f"train/{task}/weight": 1,
        }
        out |= {f"train/{task}/joint_auc": 0.7, f"gradients/{task}/norm": 0.3}
        out |= {f"gradients/cosine/{task}~{other}": 0.2 for other in TASKS[n + 1 :]}
    for level in (1, 2):
        for gate in (*TASKS, "shared"):
            out |= {f"gates/{level}/{gate}/{expert}": 1 / len(EXPERTS) for expert in EXPERTS}
            out[f"gate_entropy/{level}/{gate}"] = 0.9
        out |= {f"experts/{level}/load/{expert}": 1 / len(EXPERTS) for expert in EXPERTS}
        pairs = [(a, b) for n, a in enumerate(EXPERTS) for b in EXPERTS[n + 1 :]]
        out |= {f"experts/{level}/similarity/{a}~{b}": 0.1 for a, b in pairs}
    for feature in FEATURES:
        out |= {f"data/unknown/{feature}": 0.01, f"embeddings/{feature}/norm": 0.2}
    return out


def recorded(folder: Path, lines: int) -> Path:
    """A run of so many progress lines; telemetry comes with each fifth."""
    told = about("long", folder) | {"tasks": [{"name": task, "kind": "binary"} for task in TASKS]}
    journal = Journal(folder, "long", "train", 0, told)
    plain = [key for key in values(1) if key.startswith(("train/", "data/"))]
    for line in range(1, lines + 1):
        every = values(line)
        journal.values(line * 10_000, every if line % 5 == 0 else {key: every[key] for key in plain})
    journal.end("finished")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if not PROGRAM:
        print("no Chromium on this machine: pages are made and not opened", file=sys.stderr)
    slow = False
    print(
        f"{'lines':>6}  {'record MB':>9}  {'page MB':>7}  {'made s':>6}  {'opened, 1280 s':>14}  {'opened, 390 s':>13}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for lines in LINES:
            folder = recorded(Path(scratch) / str(lines), lines)
            record = sum(path.stat().st_size for path in (folder / "journal").iterdir()) / 1e6
            made = []
            for _ in range(rounds):
                began = time.process_time()
                report([str(folder)]).write(folder / "report.html")
                made.append(time.process_time() - began)
            opened = {width: opening(folder / "report.html", width, rounds) for width in (1280, 390)}
            size = (folder / "report.html").stat().st_size / 1e6
            seconds = statistics.median(made)
            told = f"{lines:>6}  {record:>9.1f}  {size:>7.2f}  {seconds:>6.2f}"
            print(f"{told}  {opened[1280]:>14.2f}  {opened[390]:>13.2f}", flush=True)
            slow |= seconds > MAKE_SECONDS or max(opened.values()) > OPEN_SECONDS
    print(
        f"claim: made in under {MAKE_SECONDS:g} s, opened in under {OPEN_SECONDS:g} s: {'fails' if slow else 'holds'}"
    )
    return int(slow)


def opening(page: Path, width: int, rounds: int) -> float:
    """Median seconds to open it; 0 without a browser. Each round is a browser of its own, with nothing in its cache."""
    seconds = []
    for _ in range(rounds if PROGRAM else 0):
        with Browser() as browser:
            seconds.append(browser.look(page, width, axe=False).seconds)
    return statistics.median(seconds) if seconds else 0.0


if __name__ == "__main__":
    sys.exit(main())
