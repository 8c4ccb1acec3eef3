"""Flips bits of Parquet files, one at a time, and reads what is left through the planner and the reader.

    python -m tests.faults.flips --flips 6000 --seed 1

Of each file a third of the flips goes into the bytes of pages, a third into their headers, a third into the footer. A
flip is found where planning or reading refuses the file, harmless where the rows come out with the same values. Any
other is printed: where it was and what it did.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.files import plan
from pipeline.data.order import Stretch
from pipeline.data.pages import chunks_of, group_starts, leaves_of
from pipeline.data.reader import read_stretch
from pipeline.data.source import Source, epoch_source
from pipeline.data.thrift import struct
from schemas.errors import InputError
from schemas.job import JobConfig
from tests.logs import DAYS, small_job, small_table

ROOT = "memory://flips/log"
FILE = f"/flips/log/dt={DAYS[0]}/part-00000.parquet"
ROWS = 300
LAYOUTS = {
    "nullable, snappy, dictionaries": {"compression": "snappy", "data_page_size": 256},
    "nullable, pages of version 2": {"compression": "snappy", "data_page_size": 256, "data_page_version": "2.0"},
    "required, LZ4": {"compression": "lz4", "required": True},
    "required, plain, uncompressed": {"compression": "none", "use_dictionary": False, "required": True},
    "nullable, uncompressed, dictionaries cut off": {
        "compression": "none",
        "data_page_size": 256,
        "dictionary_pagesize_limit": 200,
    },
}
PAGE, HEADER, FOOTER = "page", "page header", "footer"
FOUND, SAME, CHANGED = "found", "unchanged", "CHANGED"


@dataclasses.dataclass(frozen=True)
class Flip:
    """One flipped bit and what came of it."""

    layout: str
    part: str
    byte: int
    bit: int
    outcome: str
    said: str


def whole_file(layout: str, checksums: bool = True) -> bytes:
    """A small file of many kinds of columns in the layout's shape."""
    options = dict(LAYOUTS[layout])
    table = small_table(ROWS, seed=3)
    if options.pop("required", False):
        fields = []
        for field in table.schema:
            kind = field.type
            if pa.types.is_list(kind):
                kind = pa.list_(pa.field("element", kind.value_type, nullable=False))
            fields.append(pa.field(field.name, kind, nullable=False))
        table = table.cast(pa.schema(fields))
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=checksums, row_group_size=200, write_batch_size=50, **options)
    return sink.getvalue()


def job_of() -> JobConfig:
    """The job that reads the file."""
    return small_job(ROOT, changes={"data.train.to": DAYS[0], "data.storage": {"retries": 0}})


def read_all(job: JobConfig) -> pa.Table:
    """The file's rows through planner and reader."""
    source = epoch_source(job, plan(job, job.data.train), 0, shuffle=False)
    return pa.Table.from_batches(list(_batches(source)))


def _batches(source: Source) -> Iterator[pa.RecordBatch]:
    groups = {piece.group for lane in source.lanes for piece in lane}
    for group in sorted(groups, key=lambda group: group.first_row):
        for _, batch in read_stretch(source, Stretch(group, 0, group.rows)):
            yield batch


def parts_of(data: bytes, columns: list[str]) -> dict[str, np.ndarray]:
    """The byte numbers of pages, page headers and footer, of the columns alone that are read."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    words = memoryview(data)[footer:]
    found: dict[str, list[int]] = {PAGE: [], HEADER: []}
    leaves = leaves_of(metadata.schema)
    for start in group_starts(words, leaves):
        for chunk in chunks_of(words, start, leaves):
            if chunk.name.split(".")[0] not in columns:
                continue
            at = chunk.start
            while at < chunk.end:
                header, body = struct(memoryview(data), at)
                found[HEADER] += range(at, body)
                at = body + header[3]
                found[PAGE] += range(body, at)
    return {part: np.array(places) for part, places in found.items()} | {FOOTER: np.arange(footer, len(data))}


def campaign(flips: int, seed: int, parts: tuple[str, ...] = (PAGE, HEADER, FOOTER), **options: bool) -> list[Flip]:
    """`flips` flips shared out among layouts and parts; those of a kind never twice at one bit."""
    random, job, fs = np.random.default_rng(seed), job_of(), fsspec.filesystem("memory")
    fs.pipe(f"/flips/log/dt={DAYS[0]}/_SUCCESS", b"")
    out = []
    share = -(-flips // (len(LAYOUTS) * len(parts)))
    for layout in LAYOUTS:
        data = whole_file(layout, **options)
        fs.pipe(FILE, data)
        truth = read_all(job)
        where = parts_of(data, job.columns)
        for part in parts:
            bits = len(where[part]) * 8
            for place in random.choice(bits, min(share, bits), replace=False):
                byte, bit = int(where[part][place // 8]), int(place % 8)
                damaged = bytearray(data)
                damaged[byte] ^= 1 << bit
                fs.pipe(FILE, bytes(damaged))
                out.append(Flip(layout, part, byte, bit, *_outcome(job, truth)))
    fs.rm("/flips", recursive=True)
    return out


def flip_at(layout: str, byte: int, bit: int) -> Flip:
    """What one flip does."""
    job, fs = job_of(), fsspec.filesystem("memory")
    data = bytearray(whole_file(layout))
    fs.pipe(f"/flips/log/dt={DAYS[0]}/_SUCCESS", b"")
    fs.pipe(FILE, bytes(data))
    truth = read_all(job)
    data[byte] ^= 1 << bit
    fs.pipe(FILE, bytes(data))
    outcome = _outcome(job, truth)
    fs.rm("/flips", recursive=True)
    return Flip(layout, "chosen", byte, bit, *outcome)


def _outcome(job: JobConfig, truth: pa.Table) -> tuple[str, str]:
    try:
        rows = read_all(job)
    except InputError as error:
        return FOUND, str(error)
    if rows.equals(truth):
        return SAME, ""
    if rows.schema != truth.schema:  # an int8 that comes as int32: the same rows where each value is the same
        retyped = [f for f in rows.schema if f not in list(truth.schema)]
        with contextlib.suppress(pa.ArrowException):
            if rows.cast(truth.schema).equals(truth):
                return SAME, f"types: {retyped}"
        return CHANGED, f"types: {retyped}"
    odd = [name for name in truth.schema.names if not rows.column(name).equals(truth.column(name))]
    return CHANGED, f"{rows.num_rows} rows, columns {odd}"


def main() -> None:
    """Prints a table of what was found, and each flip that passed."""
    parser = argparse.ArgumentParser("python -m tests.faults.flips", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flips", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-checksums", action="store_true", help="of files without page checksums")
    arguments = parser.parse_args()
    flips = campaign(arguments.flips, arguments.seed, checksums=not arguments.no_checksums)
    for part in (PAGE, HEADER, FOOTER):
        counts = collections.Counter(flip.outcome for flip in flips if flip.part == part)
        print(f"{part:<12} {counts.total():>6} flips: " + ", ".join(f"{counts[o]} {o}" for o in (FOUND, SAME, CHANGED)))
    for flip in flips:
        if flip.outcome == CHANGED:
            print(f"{flip.layout}: {flip.part}, byte {flip.byte}, bit {flip.bit}: {flip.said}")


if __name__ == "__main__":
    main()
