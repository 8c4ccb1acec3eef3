"""The service beside the bare network, in one run: rows a second, and the time of a request, by rows a request.

    python benchmarks/serving.py BUNDLE [--rows 1 16 64 256] [--connections 1 8] [--seconds 3] [--rounds 3]
                                 [--parquet FILE] [--engine torch|aoti|onnx]

Sides, interleaved: the network alone on encoded rows, the bundle on rows as mappings, and `./launch.sh serve` asked
over HTTP by connections that each send the next request as they have the answer. Rows are random, or those of a
Parquet file. On a machine of few cores the clients take their share of them.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from pipeline.export.loading import load_bundle  # noqa: E402


def random_rows(bundle: Any, rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the bundle's fields: ids of any table, words, numbers, lists of the same lengths."""
    random = np.random.default_rng(seed)
    most = max((feature["rows"] for feature in bundle.about["features"] if "rows" in feature), default=100)
    made: dict[str, Callable[[], Any]] = {
        "integer": lambda: int(random.integers(most)),
        "number": lambda: float(random.lognormal(3, 1)),
        "string": lambda: f"word-{random.integers(200)}",
    }
    out = []
    for _ in range(rows):
        length = int(random.integers(1, 11))
        out.append(
            {
                field["name"]: [made[field["type"].removeprefix("list of ")]() for _ in range(length)]
                if field["type"].startswith("list")
                else made[field["type"]]()
                for field in bundle.fields
            }
        )
    return out


def rows_of(bundle: Any, parquet: str, rows: int) -> list[dict[str, Any]]:
    """The first rows of a file."""
    import pyarrow.parquet as pq

    names = [field["name"] for field in bundle.fields]
    batch = next(pq.ParquetFile(parquet).iter_batches(rows, columns=names))
    return batch.to_pylist()


def times(act: Callable[[int], None], seconds: float) -> list[float]:
    """Seconds of each call, one after another."""
    out: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        act(len(out))
        out.append(time.perf_counter() - began)
    return out


def asked(address: str, bodies: list[bytes], connections: int, seconds: float) -> list[float]:
    """Seconds of each request, over so many connections at once."""
    out: list[float] = []
    failures: list[str] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(address)

        def ask(n: int) -> None:
            connection.request("POST", "/score", bodies[(n * connections + number) % len(bodies)])
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                failures.append(content.decode())

        out.extend(times(ask, seconds))
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"{len(failures)} requests failed: {failures[0]}")
    return out


def main() -> None:
    """Prints a line a side and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parquet")
    parser.add_argument("--engine", choices=("torch", "aoti", "onnx"), default="torch")
    given = parser.parse_args()
    bundle = load_bundle(given.bundle, given.engine, threads=1)
    most = max(given.rows)
    rows = rows_of(bundle, given.parquet, 8 * most) if given.parquet else random_rows(bundle, 8 * most)
    folder = str(Path(given.bundle).resolve())
    command = [sys.executable, "-m", "jobs.serve", folder, "--port", "0", "--max-rows", str(most)]
    process = subprocess.Popen([*command, "--engine", given.engine], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split("http://")[1].strip()
        found: dict[tuple[int, str], list[float]] = defaultdict(list)
        speed: dict[tuple[int, str], list[float]] = defaultdict(list)
        for _ in range(given.rounds):
            for size in given.rows:
                parts = [rows[at : at + size] for at in range(0, len(rows) - size + 1, size)]
                encoded = [bundle.encode(part) for part in parts]
                bodies = [json.dumps({"rows": part}).encode() for part in parts]
                sides: dict[str, Callable[[], list[float]]] = {
                    "network": lambda e=encoded: times(lambda n: bundle.logits(e[n % len(e)]), given.seconds),
                    "bundle": lambda p=parts: times(lambda n: bundle.score(p[n % len(p)]), given.seconds),
                }
                for count in given.connections:
                    sides[f"service, {count} at once"] = lambda b=bodies, c=count: asked(address, b, c, given.seconds)
                for side, act in sides.items():
                    began = time.perf_counter()
                    some = act()
                    found[size, side] += some
                    speed[size, side].append(size * len(some) / (time.perf_counter() - began))
        print(f"machine  {machine()}; {given.rounds} rounds of {given.seconds:g} s a side; engine {given.engine}")
        print(f"{'rows':>5}  {'side':<20} {'rows/s':>9} {'p50 ms':>8} {'p99 ms':>8}  of the network's rows/s")
        for (size, side), seconds in found.items():
            p50, p99 = np.percentile(seconds, [50, 99]) * 1000
            median = float(np.median(speed[size, side]))
            ratio = median / float(np.median(speed[size, "network"]))
            print(f"{size:>5}  {side:<20} {median:>9,.0f} {p50:>8.2f} {p99:>8.2f}  {ratio:.2f}")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
