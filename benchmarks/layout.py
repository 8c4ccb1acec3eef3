"""Does the recommended layout pay? Decoding the same rows, compacted and as pyarrow writes them by default, in one run.

    python benchmarks/layout.py                 # two logs in a temporary folder: 47 columns, and the generated one
    python benchmarks/layout.py --rows 1000000 --rounds 9

Three parts, each with its sides timed in turn on one core in an order that rotates from round to round:

    claims        nullable + snappy (pyarrow's defaults) against what ./launch.sh compact makes of it, by bare
                  ParquetFile.iter_batches and through the product's Loader; both sides in row groups of the same size,
                  so that the lanes decode the same stretches
    ingredients   one thing changed at a time, by bare iter_batches over the wide log
    row groups    the generated log at several sizes of row groups, through the Loader with its 16 lanes

Page checksums are verified wherever there are some, as the loader does; strings come out as dictionaries. Ratios are
taken within a round, by CPU time, which other work on the machine disturbs least. The claim under test: the recommended
layout decodes at least 1.2 times as fast. Exits with 1 where a claim fails.
"""

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.train.dist import quiet_libraries  # noqa: E402

quiet_libraries()  # before TorchRec is imported: it warns as it loads

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.interleaved import Results, claim, interleave, pin, rate, ratios, setting  # noqa: E402
from benchmarks.mixed_log import DAY, put_day, wide_job, wide_table  # noqa: E402
from pipeline.data.compaction import Compaction, Settings  # noqa: E402
from pipeline.data.files import plan  # noqa: E402
from pipeline.data.generated_log import LogSpec, generate_log  # noqa: E402
from pipeline.data.loader import Loader  # noqa: E402
from pipeline.data.parquet_layout import ROW_GROUP_ROWS, encodings, required, writer_options  # noqa: E402
from pipeline.data.reader import READ_ROWS  # noqa: E402
from pipeline.data.source import epoch_source  # noqa: E402
from pipeline.data.source_day import source_day  # noqa: E402
from schemas.job import JobConfig  # noqa: E402
from schemas.load import load_job  # noqa: E402

LEAST = 1.2
OLD, NEW = "nullable, snappy", "recommended"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/layout.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rows", type=int, default=4 * ROW_GROUP_ROWS, metavar="N", help="of each log (%(default)s)")
    out.add_argument("--rounds", type=int, default=9, metavar="N", help="times each side is measured (%(default)s)")
    return out


def bare(log: Path) -> int:
    """Decodes all columns of a log's day and does nothing with them."""
    rows = 0
    for path in sorted((log / f"dt={DAY}").glob("*.parquet")):
        texts = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type)]
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(READ_ROWS, [group], use_threads=False):
                    rows += batch.num_rows
    return rows


def loaded(job: JobConfig) -> Callable[[], int]:
    """A pass of the loader over the job's training days, in the calling thread."""
    manifest = plan(job, job.data.train)

    def run() -> int:
        source = epoch_source(job, manifest, 0, shuffle=True)
        return sum(batch.rows for batch in Loader(job, source).batches())

    return run


def compacted(log: Path, out: Path, row_group_rows: int) -> Path:
    """The log's day as ./launch.sh compact writes it."""
    work = Compaction(str(log), str(out), Settings(row_group_rows, threads=1))
    day = source_day(work.fs, work.root, datetime.date.fromisoformat(DAY))
    work.rewrite(day, lambda rows: None)
    return out


def generated_job(log: Path, lanes: int) -> JobConfig:
    """The job of ./launch.sh on one day."""
    path = str(ROOT / "jobs/configs/generated.yaml")
    days = f"data.train={{from: {DAY}, to: {DAY}}}"
    return load_job(path, [f"data.path={log}", days, "data.eval=null", f"data.lanes={lanes}"])


def claims(folder: Path, tables: dict[str, pa.Table], rounds: int) -> list[bool]:
    """Prints the ratios of the whole layout; whether each reaches the claim."""
    sides: dict[str, dict[str, Callable[[], int]]] = {}
    for name, table in tables.items():
        # equal groups and a lane for each, so that no lane decodes the head of another's group
        groups = max(1, table.num_rows // ROW_GROUP_ROWS)
        old, new = folder / f"{name}-old", folder / f"{name}-new"
        put_day(old, table, row_group_size=-(-table.num_rows // groups))
        compacted(old, new, -(-table.num_rows // groups))
        job = wide_job if name == "wide" else generated_job
        sides[f"{name}, bare iter_batches"] = {OLD: partial(bare, old), NEW: partial(bare, new)}
        sides[f"{name}, Loader.batches"] = {OLD: loaded(job(old, groups)), NEW: loaded(job(new, groups))}
    print(f"\n{'M rows/s of CPU time':<34} {OLD:>18} {NEW:>14}")
    told, passed = [], []
    for name, pair in sides.items():
        results = interleave(pair, rounds)
        print(f"{name:<34} {rate(results[OLD]) / 1e6:>18.2f} {rate(results[NEW]) / 1e6:>14.2f}", flush=True)
        line, good = claim(f"{name}, {NEW} / {OLD}", results, NEW, OLD, LEAST)
        told.append(line)
        passed.append(good)
    print("\n" + "\n".join(told), flush=True)
    return passed


def ingredients(folder: Path, table: pa.Table, rounds: int) -> None:
    """Prints what each part of the layout gives on the wide log."""
    tight = table.cast(pa.schema([required(field, set()) for field in table.schema]))
    dictionary, split = encodings(table.slice(0, ROW_GROUP_ROWS))
    best: dict[str, Any] = {**writer_options(dictionary, split), "row_group_size": ROW_GROUP_ROWS}
    same: dict[str, Any] = {"row_group_size": ROW_GROUP_ROWS}
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    variants: dict[str, tuple[pa.Table, dict[str, Any]]] = {
        OLD: (table, same),
        "nullable, snappy, 1M row groups": (table, {}),
        "required, snappy": (tight, same),
        "nullable, lz4": (table, {**same, "compression": "lz4"}),
        "required, lz4": (tight, {**same, "compression": "lz4"}),
        NEW: (tight, best),
        "  nullable": (table, best),
        "  snappy": (tight, {**best, "compression": "snappy"}),
        "  zstd": (tight, {**best, "compression": "zstd"}),
        "  no compression": (tight, {**best, "compression": "none"}),
        "  no page checksums": (tight, {**best, "write_page_checksum": False}),
        "  statistics": (tight, {**best, "write_statistics": True}),
        "  data pages of version 2": (tight, {**best, "data_page_version": "2.0"}),
        "  data pages of 128 KiB": (tight, {**best, "data_page_size": 1 << 17}),
        "  data pages of 8 MiB": (tight, {**best, "data_page_size": 1 << 23}),
        "  dictionary everywhere": (tight, {**best, "use_dictionary": True, "use_byte_stream_split": False}),
        "  dictionary for strings alone": (tight, {**best, "use_dictionary": texts, "use_byte_stream_split": False}),
        "  no dictionary": (tight, {**best, "use_dictionary": False, "use_byte_stream_split": False}),
        "  no byte-stream split": (tight, {**best, "use_byte_stream_split": False}),
    }
    for size in (16_384, 32_768, 131_072, 262_144, 1_048_576):
        variants[f"  row groups of {size:,}"] = (tight, {**best, "row_group_size": size})
    size_of = {}
    sides: dict[str, Callable[[], int]] = {}
    for number, (name, (rows, options)) in enumerate(variants.items()):
        log = folder / f"ingredient-{number}"
        put_day(log, rows, **options)
        size_of[name] = (log / f"dt={DAY}/part-00000.parquet").stat().st_size
        sides[name] = partial(bare, log)
    results = interleave(sides, rounds)
    print(f"\n{'wide log, bare iter_batches':<34} {'M rows/s':>9} {'to ' + OLD:>20} {'bytes a row':>12}")
    for name in variants:
        gained = sorted(ratios(results, name, OLD))[rounds // 2]
        size = size_of[name] / table.num_rows
        print(f"{name:<34} {rate(results[name]) / 1e6:>9.2f} {gained:>20.2f} {size:>12.1f}", flush=True)


def row_groups(folder: Path, table: pa.Table, rounds: int) -> None:
    """Prints what sizes of row groups do to the loader, whose lanes share a group where there are few."""
    sides, groups = {}, {}
    put_day(folder / "whole", table)
    for size in (8_192, 16_384, 32_768, 65_536, 131_072):
        log = compacted(folder / "whole", folder / f"groups-{size}", size)
        job = generated_job(log, 16)
        name = f"row groups of {size:,}"
        sides[name], groups[name] = loaded(job), len(plan(job, job.data.train).groups)
    results: Results = interleave(sides, rounds)
    print(f"\n{'generated log, Loader.batches':<34} {'M rows/s':>9} {'row groups':>11} {'of each lane':>13}")
    for name in sides:
        print(f"{name:<34} {rate(results[name]) / 1e6:>9.3f} {groups[name]:>11} {groups[name] / 16:>13.1f}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where a claim fails."""
    arguments = parser().parse_args(argv)
    pin()
    print(setting(arguments, f"pyarrow {pa.__version__}, one core"))
    with tempfile.TemporaryDirectory(prefix="layout-benchmark-") as temporary:
        folder = Path(temporary)
        generate_log(str(folder / "drawn"), LogSpec(days=1, rows_per_day=arguments.rows))
        drawn = [pq.ParquetFile(path).read() for path in sorted((folder / f"drawn/dt={DAY}").glob("*.parquet"))]
        generated = pa.concat_tables(drawn)
        # as a log of pyarrow's defaults has it: every field nullable, those inside lists too
        kinds = [pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type for f in generated.schema]
        loose = pa.schema(list(zip(generated.schema.names, kinds, strict=True)))
        tables = {"wide": wide_table(arguments.rows), "generated": generated.cast(loose)}
        passed = claims(folder, tables, arguments.rounds)
        ingredients(folder, tables["wide"], -(-arguments.rounds // 2))
        row_groups(folder, tables["generated"], -(-arguments.rounds // 2))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
