"""The broken inputs of the product's promise, each through the job as a person runs it.

Each ends with exit code 2, in bounded time, with one message that names the thing and the remedy, and no stack trace.
Half of them are found before a rank starts, the others while rows are read; one of each from a new interpreter.
"""

import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.distributed import warm
from tests.distributed.command import ROOT, command, environment, kill_all
from tests.logs import DAYS, Override, put, small_config, write_config, write_log

ROWS, GROUP = 100, 50
PART = "dt=2026-01-02/part-00000.parquet"
LIMIT_SECONDS = {False: 60, True: 180}
"""Before ranks start and after; far above the 1 and 10 seconds of a free machine."""


@dataclass(frozen=True)
class Broken:
    """One way to break the small job: what is done to its log, what is said on the command line, what must be heard."""

    name: str
    says: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    damage: Callable[[Path], None] = lambda log: None
    while_reading: bool = False
    trace: bool = False
    cold: bool = False
    """A new interpreter, which imports the libraries as a person's does: their warnings would be heard."""


def columns(**changes: Override) -> Callable[[Path], None]:
    """Writes the second day again with columns changed."""

    def damage(log: Path) -> None:
        write_log(log, [DAYS[1]], ROWS, row_group_rows=GROUP, **changes)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda log: (log / name).unlink()


def truncate(log: Path) -> None:
    part = log / PART
    part.write_bytes(part.read_bytes()[: part.stat().st_size * 2 // 3])


def tear_a_page(log: Path) -> None:
    """The last bytes of a page of the second row group lost to zeros, its footer whole."""
    with pq.ParquetFile(log / PART) as file:
        chunk = file.metadata.row_group(1).column(file.schema_arrow.names.index("user_id"))
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    whole = bytearray((log / PART).read_bytes())
    whole[end - 16 : end] = bytes(16)
    (log / PART).write_bytes(whole)


def order_without_click(log: Path) -> None:
    table_rows = range(ROWS)
    columns(
        click=pa.array([0] * ROWS),
        cart=pa.array([0] * ROWS),
        fav=pa.array([0] * ROWS),
        order=pa.array([int(row == 77) for row in table_rows]),
    )(log)


NAN = columns(age=lambda column: put(column, 77, math.nan))
SECOND_GROUP = f"{PART}, row group 1: "

CASES = [
    Broken(
        "misspelt key",
        cold=True,
        overrides=("train.batchsize=64",),
        says=("job.yaml: train: unknown key 'batchsize'; did you mean 'batch_size'?",),
    ),
    Broken(
        "missing label column",
        damage=columns(cart=None),
        says=(f"{PART}: column 'cart', the label of task 'cart', is missing; ",),
    ),
    Broken(
        "string where a number belongs, in the configuration",
        overrides=("train.batch_size=many",),
        says=("job.yaml: train.batch_size: ", "should be a valid integer", "(given: 'many')"),
    ),
    Broken(
        "string where a number belongs, in the log",
        damage=columns(age=pa.array(["old"] * ROWS)),
        says=(f"{PART}: column 'age', feature 'age', holds string where a number belongs; write it with that type",),
    ),
    Broken(
        "missing vocabulary",
        overrides=("features.user.vocabulary=nowhere.parquet",),
        says=("features.user.vocabulary: nowhere.parquet: no such file; mend the path, or write it: ./launch.sh voc",),
    ),
    Broken(
        "empty partition",
        damage=remove(PART),
        says=("log/dt=2026-01-02: an empty partition, no .parquet file; write the day or leave it out of the range",),
    ),
    Broken(
        "no _SUCCESS",
        damage=remove("dt=2026-01-03/_SUCCESS"),
        says=("log/dt=2026-01-03: no _SUCCESS marker", "; wait for it, or set data.require_success=false"),
    ),
    Broken(
        "truncated file",
        damage=truncate,
        says=(f"{PART}: not a whole Parquet file (", "; write it again"),
    ),
    Broken(
        "torn page",
        damage=tear_a_page,
        while_reading=True,
        says=(SECOND_GROUP, "cannot be decoded (", "; write the file again"),
    ),
    Broken(
        "order without click",
        damage=order_without_click,
        while_reading=True,
        says=(
            SECOND_GROUP,
            "1 row has 'order' = 1 and 'click' = 0, the first is row 27; ",
            "mend the log, or set data.funnel to drop or promote",
        ),
    ),
    Broken(
        "NaN in a float feature",
        cold=True,
        damage=NAN,
        while_reading=True,
        says=(SECOND_GROUP, "column 'age' holds nan (row 27); write finite numbers, or say", "missing: NUMBER"),
    ),
    Broken(
        "nulls in a list column",
        damage=columns(recent=lambda column: put(column, 77, None)),
        while_reading=True,
        says=(
            SECOND_GROUP,
            "column 'recent' holds nulls; write an empty list for a row without ids",
        ),
    ),
    Broken(
        "no such path",
        overrides=("data.path=/no/such/log",),
        says=("data.path: no such path '/no/such/log'; name the root of an event log",),
    ),
    Broken(
        "label of 2",
        damage=columns(fav=lambda column: put(column, 77, 2)),
        overrides=("data.funnel=promote",),
        while_reading=True,
        says=(SECOND_GROUP, "label 'fav' holds 2 (row 27); a label is 0 or 1, mend the log"),
    ),
    Broken(
        "unknown sharding",
        overrides=("tables.user.sharding=diagonal",),
        says=(
            "job.yaml: tables.user.sharding: Input should be 'auto', 'table_wise', 'row_wise'",
            "(given: 'diagonal')",
        ),
    ),
    Broken(
        "misspelt key, traced",
        overrides=("train.batchsize=64",),
        trace=True,
        says=("train: unknown key 'batchsize'; did you mean 'batch_size'?",),
    ),
    Broken(
        "NaN in a float feature, traced",
        damage=NAN,
        while_reading=True,
        trace=True,
        says=(SECOND_GROUP, "column 'age' holds nan (row 27); write finite numbers", "in _finite"),
    ),
]


@dataclass(frozen=True)
class Ended:
    """How a run of the job ended."""

    code: int
    out: str
    err: str


def run(broken: Broken, home: Path) -> Ended:
    log = home / "log"
    write_log(log, DAYS, ROWS, row_group_rows=GROUP)
    broken.damage(log)
    config = write_config(home / "job.yaml", small_config(log, home / "out"))
    env = environment() | ({"FULCRUM_TRACE": "1"} if broken.trace else {})
    start = subprocess.Popen if broken.cold else warm.Popen
    process = start(
        command(config, *broken.overrides),
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_SECONDS[broken.while_reading])
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise
    return Ended(process.returncode, out, err)


@pytest.mark.parametrize("broken", CASES, ids=lambda case: case.name)
def test_a_broken_input_ends_in_one_message(tmp_path: Path, broken: Broken) -> None:
    ended = run(broken, tmp_path)
    everything = ended.out + ended.err
    assert ended.code == 2, everything
    for words in broken.says:
        assert words in ended.err
    assert ("Traceback" in everything) == broken.trace, everything
    if not broken.trace:
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1, ended.err  # one message, on one line, and nothing else
        assert ended.err.endswith("\n")
    assert "error" not in ended.out.lower()
    if not broken.while_reading:
        assert ended.out == ""
