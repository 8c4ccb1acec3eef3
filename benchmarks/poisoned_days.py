"""Which spoilt days are stopped, and by which rule; how many clean days are; how fast a day is looked at.

    python benchmarks/poisoned_days.py                                  # 20 seeds, with and without drift
    python benchmarks/poisoned_days.py --seeds 3 --rows 280000

Each seed is a world of its own: eight generated days, the last spoilt in each of the ways of tests/poisons.py and held
against the seven before it by the default limits. A spoilt day counts as stopped where a finding that the poison must
make is there. A clean day is each day of each world against those before it. The speed is that of `day_statistics`, in
rows a second of the processor's time, on one core.
"""

import argparse
import datetime
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from pipeline.daily.checks import check_day  # noqa: E402
from pipeline.daily.statistics import DayStatistics, day_statistics, edges_of  # noqa: E402
from pipeline.data.declared_truth import TruthSpec  # noqa: E402
from pipeline.data.files import plan  # noqa: E402
from pipeline.data.generated_log import LogSpec, generate_log  # noqa: E402
from pipeline.data.parquet_layout import ROW_GROUP_ROWS  # noqa: E402
from schemas.daily import ChecksConfig  # noqa: E402
from schemas.events import DayRange  # noqa: E402
from schemas.job import JobConfig  # noqa: E402
from schemas.load import load_job  # noqa: E402
from tests.logs import write_parquet  # noqa: E402
from tests.poisons import POISONS  # noqa: E402

DAYS = 8
FIRST = datetime.date(2026, 1, 1)
LAST = FIRST + datetime.timedelta(DAYS - 1)


class Bench:
    """What all worlds come to."""

    def __init__(self) -> None:
        self.stopped: Counter[str] = Counter()
        self.by: dict[str, Counter[str]] = {name: Counter() for name in POISONS}
        self.worlds = self.days = self.false = self.rows = 0
        self.seconds = 0.0

    def statistics(self, job: JobConfig, day: datetime.date, recent: list[DayStatistics]) -> DayStatistics:
        """Of a day, timed."""
        manifest = plan(job, DayRange.model_validate({"from": day, "to": day}))
        began = time.process_time()
        found = day_statistics(job, day, manifest, lambda text: None, edges_of(recent))
        self.seconds += time.process_time() - began
        self.rows += found.rows
        return found

    def world(self, root: Path, seed: int, drift: float, rows: int) -> None:
        """Counts one world's clean and spoilt days."""
        generate_log(str(root), LogSpec(world=TruthSpec(seed=seed, drift=drift), days=DAYS, rows_per_day=rows))
        missing = ["features.city.missing=unknown", "features.age.missing=40"]
        job = load_job(ROOT / "jobs/configs/generated.yaml", [f"data.path={root}", *missing])
        recent: list[DayStatistics] = []
        self.worlds += 1
        for number in range(DAYS):
            day = FIRST + datetime.timedelta(number)
            today = self.statistics(job, day, recent)
            self.days += 1
            self.false += bool(check_day(job, ChecksConfig(), today, recent, set()))
            recent.append(today)
        folder = root / f"dt={LAST}"
        parts = sorted(folder.glob("*.parquet"))
        clean = pa.concat_tables(pq.read_table(part, partitioning=None) for part in parts)
        for part in parts:
            part.unlink()
        for name, poison in POISONS.items():
            write_parquet(folder / "part-00000.parquet", poison.spoil(clean), ROW_GROUP_ROWS)
            found = check_day(job, ChecksConfig(), self.statistics(job, LAST, recent[:-1]), recent[:-1], set())
            self.stopped[name] += any(f.word in poison.words for f in found)
            self.by[name].update(f.word for f in found)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=20_000, help="a day")
    options = parser.parse_args()
    print(f"{machine()}\n{options.rows:,} rows a day")
    for drift in (0.0, TruthSpec().drift):
        bench = Bench()
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                bench.world(Path(folder) / "log", seed, drift, options.rows)
        print(f"\ndrift {drift}: {bench.false} of {bench.days} clean days stopped")
        for name in POISONS:
            by = ", ".join(f"{word} {count}" for word, count in bench.by[name].most_common())
            print(f"  {name:<40} {bench.stopped[name]:>3} of {bench.worlds}   {by}")
        print(f"  {bench.rows / bench.seconds:,.0f} rows/s of one core")


if __name__ == "__main__":
    main()
