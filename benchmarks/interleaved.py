"""What the benchmarks share: sides timed in turn on one core, ratios taken within a round, a claim judged."""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Timing:
    """One side in one round."""

    rows: int
    seconds: float
    cpu: float
    """CPU seconds of the process, all its threads."""


Results = dict[str, list[Timing]]


def pin(cores: int = 1) -> None:
    """Keeps this process, and the threads it will start, on so many of its cores; the last ones."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def interleave(sides: dict[str, Callable[[], int]], rounds: int) -> Results:
    """Every side once unseen, then once a round in an order that rotates. A side returns the rows it has done."""
    for side in sides.values():
        side()
    results: Results = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            wall, cpu = time.perf_counter(), time.process_time()
            rows = sides[name]()
            results[name].append(Timing(rows, time.perf_counter() - wall, time.process_time() - cpu))
    return results


def rate(timings: list[Timing], of: str = "cpu") -> float:
    """Median rows/s, by `cpu` or by `seconds`."""
    return statistics.median(t.rows / getattr(t, of) for t in timings)


def ratios(results: Results, fast: str, slow: str, of: str = "cpu") -> list[float]:
    """How many times the rows/s of `slow` the side `fast` does, round by round."""
    pairs = zip(results[fast], results[slow], strict=True)
    return [(a.rows / getattr(a, of)) / (b.rows / getattr(b, of)) for a, b in pairs]


def claim(what: str, results: Results, fast: str, slow: str, least: float, of: str = "cpu") -> tuple[str, bool]:
    """A line with the ratio, by CPU time and by the clock, and whether its median by `of` reaches `least`."""
    told = {kind: ratios(results, fast, slow, kind) for kind in ("cpu", "seconds")}
    median = statistics.median(told[of])
    best = max(t.rows / t.cpu for t in results[fast]) / max(t.rows / t.cpu for t in results[slow])
    words = ", ".join(
        f"{statistics.median(told[kind]):.2f} ({min(told[kind]):.2f} to {max(told[kind]):.2f}) by {name}"
        for kind, name in (("cpu", "CPU time"), ("seconds", "the clock"))
    )
    passed = median >= least
    words += f"; the best round of each by CPU time: {best:.2f}"
    return f"{'PASS' if passed else 'FAIL'}  {what}: {words}; claimed {least:g}", passed


def setting(arguments: argparse.Namespace, version: str) -> str:
    """The first line: the machine, the library, how much is measured."""
    options = ", ".join(f"{value:,} {name}" for name, value in vars(arguments).items() if isinstance(value, int))
    return f"machine  {machine()}; {version}; {options}"


def machine() -> str:
    """What it was measured on."""
    try:
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        named = []
    cpu = named[0].partition(":")[2].strip() if named else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} over the last minute"
