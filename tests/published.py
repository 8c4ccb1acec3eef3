"""Published data sets in their published formats, written small or from the real rows, and logs read back."""

import dataclasses
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from jobs.ingest import main
from pipeline.batch import Batch
from pipeline.data.files import plan
from pipeline.data.loader import Loader
from pipeline.data.order import Stretch
from pipeline.data.reader import read_stretches
from pipeline.data.source import epoch_source
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.load import load_job

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
CONFIGS = ROOT / "jobs" / "configs"


def shared(name: str) -> Path:
    """A folder of real data; the test is skipped by its name where it is not there."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"no ../shared/data/{name} here")
    return SHARED / name


def ingested(dataset: str, source: Path, out: Path, *options: str) -> Path:
    """Runs the command."""
    main([dataset, "--from", str(source), "--out", str(out), *options])
    return out


def refusal(dataset: str, source: Path, out: Path, *options: str) -> str:
    """The message of a command that must be refused and leave nothing behind."""
    with pytest.raises(InputError) as caught:
        ingested(dataset, source, out, *options)
    assert not out.exists() or list(out.rglob("*")) == [], "something was left behind"
    return str(caught.value)


def packaged_job(dataset: str, log: Path, *overrides: str) -> JobConfig:
    """The packaged job, on this log."""
    return load_job(str(CONFIGS / f"{dataset}.yaml"), [f"data.path={log}", *overrides])


def days_of(log: Path) -> list[str]:
    """The days of a log."""
    return sorted(folder.name.removeprefix("dt=") for folder in log.glob("dt=*"))


def read_log(dataset: str, log: Path, days: Sequence[str] = ()) -> pa.Table:
    """Every column of these days (default: all), planned and decoded as training does, checksums verified."""
    job = packaged_job(dataset, log)
    days = days or days_of(log)
    span = DayRange.model_validate({"from": days[0], "to": days[-1]})
    manifest = plan(job, span)
    first = next(log.glob("dt=*/*.parquet"))
    source = dataclasses.replace(
        epoch_source(job, manifest, 0, shuffle=False), columns=pq.read_schema(first).names, texts=[]
    )
    stretches = [Stretch(group, 0, group.rows) for group in manifest.groups]
    return pa.Table.from_batches([batch for _, _, batch in read_stretches(source, stretches)])


def batches(dataset: str, log: Path, days: Sequence[str] = ()) -> list[Batch]:
    """What the packaged job trains on, by its own loader: every feature encoded, every label and space checked."""
    job = packaged_job(dataset, log)
    days = days or days_of(log)
    span = DayRange.model_validate({"from": days[0], "to": days[-1]})
    source = epoch_source(job, plan(job, span), 0, shuffle=True)
    return list(Loader(job, source).batches())


def row(table: pa.Table, number: int) -> dict[str, Any]:
    """One row as Python values."""
    return {name: table.column(name)[number].as_py() for name in table.column_names}


def write_text(path: Path, text: str) -> Path:
    """A text file, compressed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_census(path: Path, table: pa.Table) -> None:
    """UCI's form: no header, a space behind each comma, no quotes."""
    from pipeline.ingest.census import COLUMNS

    texts = []
    for number, name in enumerate(COLUMNS):
        column = table.column(name)
        if pa.types.is_floating(column.type):
            whole = pc.all(pc.equal(column, pc.floor(column))).as_py()
            column = column.cast(pa.int64()) if whole else column
        space = "" if number == 0 else " "
        texts.append(pc.binary_join_element_wise("", column.cast(pa.string()), space))
    plain = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    pa.csv.write_csv(pa.table(texts, names=list(COLUMNS)), path, plain)


def write_csv(path: Path, table: pa.Table) -> None:
    """As pandas writes it: quotes where a comma stands inside, nothing where a value is unknown, floats as 1.0."""
    table.to_pandas().to_csv(path, index=False)


def write_kuairand(source: Path, folder: Path, users: int) -> None:
    """Real impressions of the first users as the published files, their histories as impressions of an earlier day."""
    folder.mkdir(parents=True)
    first = [("user_id", "<", users)]
    log = pq.read_table(source / "log_20220425_20220506.parquet", filters=first)
    for name, frame in (("user_features", "user_features"), ("video_features_basic", "video_features_basic")):
        write_csv(folder / f"{name}_pure.csv", pq.read_table(source / f"{frame}.parquet"))
    write_csv(folder / "log_standard_4_22_to_5_08_pure.csv", log)
    history = pq.read_table(source / "user_history_before_20220425.parquet", filters=first)
    pieces = []
    for column, feedback in (("watch_seq", "is_click"), ("like_seq", "is_like"), ("long_watch_seq", "long_view")):
        lists = history.column(column).combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy()
        nth = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        values = {name: np.zeros(len(nth), np.int64) for name in log.column_names}
        values |= {"user_id": np.repeat(history.column("user_id").to_numpy(), lengths)}
        values |= {"video_id": lists.flatten().to_numpy(), "time_ms": 1_650_500_000_000 + nth}
        values |= {"date": np.full(len(nth), 20220421), feedback: np.ones(len(nth), np.int64)}
        pieces.append(pa.table(values))
    early = pa.concat_tables(pieces)
    shuffled = np.random.default_rng(0).permutation(early.num_rows)
    write_csv(folder / "log_standard_4_08_to_4_21_pure.csv", early.take(pa.array(shuffled)))
