"""What does a vocabulary cost? Look-ups a second of a large one beside hashing and a Python dict, in one run.

    python benchmarks/vocabulary.py                    # a million entries, a tenth of the look-ups unknown
    python benchmarks/vocabulary.py --entries 10000000

Each side turns the same ids into rows, READ_ROWS at a time as the reader hands them to the encoder:

    hash          fmix64 modulo the rows: what `hash: true` does
    vocabulary    the perfect hash of a vocabulary file
    searchsorted  binary search in the sorted values: what numpy offers
    dict          a Python dict, asked once a value

and the same for strings, one distinct string a row, the dearest case: hash (FNV-1a), vocabulary and dict. The sides
take turns, in an order that rotates from round to round; a ratio is the median of the rounds' ratios, and CPU time
stands beside it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.data.hashing import bucket_integers, bucket_strings
from pipeline.data.reader import READ_ROWS
from pipeline.data.vocabulary_file import Vocabulary
from pipeline.data.vocabulary_lookup import IntegerLookup, StringLookup

Side = Callable[[Any], Any]
VOCABULARY, HASH = "vocabulary", "hash"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "python benchmarks/vocabulary.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--entries", type=int, default=1_000_000, metavar="N", help="of the vocabulary (%(default)s)")
    out.add_argument("--batches", type=int, default=24, metavar="N", help="a side and round (%(default)s)")
    out.add_argument("--rounds", type=int, default=9, metavar="N", help="times each side is measured (%(default)s)")
    return out


def asked(values: np.ndarray, others: np.ndarray, batches: int) -> list[np.ndarray]:
    """Batches of look-ups: nine of ten known, the first entries the most frequent."""
    random = np.random.default_rng(1)
    out = []
    for _ in range(batches):
        known = values[(random.random(READ_ROWS) ** 3 * len(values)).astype(np.int64)]
        out.append(np.where(random.random(READ_ROWS) < 0.9, known, random.choice(others, READ_ROWS)))
    return out


def integer_sides(values: np.ndarray) -> dict[str, Side]:
    entries = len(values)
    began = time.perf_counter()
    lookup = IntegerLookup(Vocabulary("", pa.array(values)), entries)
    print(f"{entries:,} integers: built in {time.perf_counter() - began:.2f} s")
    order = np.argsort(values)
    ordered = values[order]
    places = {value: row for row, value in enumerate(values.tolist())}

    def binary_search(id_N: np.ndarray) -> np.ndarray:
        at_N = np.minimum(np.searchsorted(ordered, id_N), entries - 1)
        return np.where(ordered[at_N] == id_N, order[at_N], entries)

    return {
        HASH: lambda id_N: bucket_integers(id_N, entries),
        VOCABULARY: lookup,
        "searchsorted": binary_search,
        "dict": lambda id_N: np.array([places.get(value, entries) for value in id_N.tolist()]),
    }


def string_sides(values: pa.Array) -> dict[str, Side]:
    entries = len(values)
    began = time.perf_counter()
    lookup = StringLookup(Vocabulary("", values), entries)
    print(f"{entries:,} strings: built in {time.perf_counter() - began:.2f} s")
    places = {value: row for row, value in enumerate(values.to_pylist())}
    return {
        HASH: lambda column: bucket_strings(column, entries),
        VOCABULARY: lookup,
        "dict": lambda column: np.array([places.get(value, entries) for value in column.to_pylist()]),
    }


def measure(sides: dict[str, Side], batches: list[Any], rounds: int) -> None:
    """Prints look-ups/s and the ratios to the vocabulary; all but the hash must find the same rows."""
    found = {name: [side(batch) for batch in batches] for name, side in sides.items()}
    for name in sides.keys() - {HASH}:
        assert all(map(np.array_equal, found[name], found[VOCABULARY])), name
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu = dict.fromkeys(sides, 0.0)
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began, used = time.perf_counter(), time.process_time()
            for batch in batches:
                sides[name](batch)
            wall[name].append(time.perf_counter() - began)
            cpu[name] += time.process_time() - used
    lookups = len(batches) * READ_ROWS
    print(f"{'side':<14}{'look-ups/s':>14}{'CPU ns each':>13}{'vocabulary is':>16}")
    for name in names:
        ratio = statistics.median(there / here for there, here in zip(wall[name], wall[VOCABULARY], strict=True))
        speed = lookups / statistics.median(wall[name])
        print(f"{name:<14}{speed:>14,.0f}{cpu[name] / rounds / lookups * 1e9:>13.0f}{ratio:>13.2f} x")


def main() -> None:
    """Measures integers, then strings."""
    arguments = parser().parse_args()
    random = np.random.default_rng(0)
    every = random.permutation(np.unique(random.integers(-(2**63), 2**63 - 1, arguments.entries * 11 // 10)))
    values, others = every[: arguments.entries], every[arguments.entries :]
    measure(integer_sides(values), asked(values, others, arguments.batches), arguments.rounds)
    print()
    texts = pa.array(values).cast(pa.large_string())
    columns = [pa.array(batch).cast(pa.large_string()) for batch in asked(values, others, arguments.batches)]
    measure(string_sides(texts), columns, arguments.rounds)


if __name__ == "__main__":
    main()
