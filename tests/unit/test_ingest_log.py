"""What all ingested logs share: whole or not at all, left alone when finished, the recommended layout, the command."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import main
from pipeline.ingest import lines, written_log
from pipeline.ingest.catalogue import DATASETS
from pipeline.ingest.lines import Format, tables
from schemas.errors import InputError
from schemas.load import load_job
from tests.published import CONFIGS, ROOT, days_of, ingested, read_log, refusal
from tests.unit.test_ingest_taobao import BY_HAND, DAY, MIDNIGHT, write

FORM = Format("numbers and words", {"number": pa.int64(), "word": pa.string()}, may_be_empty=("number",))


def snapshot(log: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and time."""
    return {str(f.relative_to(log)): (f.read_bytes(), f.stat().st_mtime_ns) for f in log.rglob("*") if f.is_file()}


def test_a_finished_log_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, BY_HAND)
    log = ingested("taobao", source, tmp_path / "events")
    before, table = snapshot(log), capsys.readouterr().out.partition("\nday ")[2]
    ingested("taobao", source, log)
    said = capsys.readouterr().out
    assert "already holds this log (5 rows): left alone" in said
    assert said.partition("\nday ")[2] == table, "the same table"
    assert snapshot(log) == before


def test_a_log_of_other_files_or_options_is_refused_and_kept(tmp_path: Path) -> None:
    log = ingested("taobao", write(tmp_path, BY_HAND), tmp_path / "events")
    before = snapshot(log)
    for source, options, told in (
        (write(tmp_path / "more", [*BY_HAND, BY_HAND[0]]), (), "files:"),
        (tmp_path, ("--history", "3"), "history: 20, now 3"),
    ):
        with pytest.raises(InputError, match=f"holds a log made from another source.*{told}"):
            ingested("taobao", source, log, *options)
    assert snapshot(log) == before


def test_days_of_others_are_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "events/dt=2020-01-01").mkdir(parents=True)
    with pytest.raises(InputError, match="holds days that were not ingested"):
        ingested("taobao", write(tmp_path, BY_HAND), tmp_path / "events")
    assert days_of(tmp_path / "events") == ["2020-01-01"]


@pytest.mark.parametrize(
    ("owner", "moment"), [(written_log.LogStore, "show"), (written_log.WrittenLog, "_write_record")]
)
def test_what_a_killed_run_left_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, moment: str
) -> None:
    """Killed as the second of three files is shown; killed when all are, and the record is not."""
    source, log = write(tmp_path, BY_HAND), tmp_path / "events"
    wanted = read_log("taobao", ingested("taobao", source, tmp_path / "wanted"))
    kept, calls = getattr(owner, moment), []

    def die(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit(137)
        return kept(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(owner, moment, die)
        patched.setattr(written_log.WrittenLog, "_give_up", lambda self, error: None)  # nobody tidies up
        with pytest.raises(SystemExit):
            ingested("taobao", source, log)
    (log / ".scratch-left").mkdir()
    assert list(log.glob("dt=*/*.parquet")), "the test left something"
    assert not json.loads((log / written_log.RECORD).read_text())["complete"]
    ingested("taobao", source, log)
    assert read_log("taobao", log).equals(wanted)
    assert sorted(f.name for f in log.iterdir() if not f.name.startswith("dt=")) == [written_log.RECORD]
    for folder in log.glob("dt=*"):
        assert sorted(f.name for f in folder.iterdir()) == ["_SUCCESS", "part-00000.parquet"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "from", BY_HAND)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert "cannot be written (No space left on device)" in refusal("taobao", source, tmp_path / "out")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "from", BY_HAND)
    (tmp_path / "file").touch()
    for out, why in (("file", "File exists"), ("file/log", "Not a directory")):
        with pytest.raises(InputError, match=rf"/{out}: cannot be written \({why}\)"):
            ingested("taobao", source, tmp_path / out)


def test_a_finished_log_that_lost_a_day_is_not_called_finished(tmp_path: Path) -> None:
    source = write(tmp_path / "from", BY_HAND)
    log = ingested("taobao", source, tmp_path / "out")
    shutil.rmtree(log / "dt=2017-11-26")
    with pytest.raises(InputError, match="but dt=2017-11-26 is no longer whole; remove the folder"):
        ingested("taobao", source, log)
    assert days_of(log) == ["2017-11-25", "2017-11-27"]


def test_the_layout_is_the_recommended_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(n % 50, n, n % 7, "pv", MIDNIGHT + n % DAY) for n in range(1000)]
    monkeypatch.setattr(written_log, "FILE_BYTES", 2000)
    log = ingested("taobao", write(tmp_path, rows), tmp_path / "events", "--row-group-rows", "100")
    files = sorted(log.glob("dt=*/*.parquet"))
    assert len(files) > 2, "files are cut by their size"
    metadata = [pq.read_metadata(file) for file in files]
    groups = [m.row_group(g) for m in metadata for g in range(m.num_row_groups)]
    assert [group.num_rows for group in groups] == [100] * 10
    column = groups[0].column(0)
    assert (column.compression, column.is_stats_set) == ("LZ4", False)
    assert not any(field.nullable for field in pq.read_schema(files[0]))
    assert read_log("taobao", log).num_rows == 1000


def test_flipped_bits_are_seen(tmp_path: Path) -> None:
    """Page checksums are there: some byte of the pages is changed, and our reader says so."""
    log = ingested("taobao", write(tmp_path, BY_HAND), tmp_path / "events")
    file = next(log.glob("dt=2017-11-25/*.parquet"))
    chunk = pq.read_metadata(file).row_group(0).column(0)
    data = bytearray(file.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="checksum"):
        read_log("taobao", log, ["2017-11-25"])


def test_any_filesystem_holds_files_and_log() -> None:
    fs = fsspec.filesystem("memory")
    text = "".join(",".join(map(str, fields)) + "\n" for fields in BY_HAND)
    fs.pipe_file("/ingest/from/UserBehavior.csv", text.encode())
    main(["taobao", "--from", "memory://ingest/from", "--out", "memory://ingest/out"])
    names = sorted(name.removeprefix("/ingest/out/") for name in fs.find("/ingest/out"))
    assert names[:3] == ["_ingested.json", "dt=2017-11-25/_SUCCESS", "dt=2017-11-25/part-00000.parquet"]
    assert len(names) == 7
    fs.rm("/ingest", recursive=True)


def test_blocks_meet_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that lie across blocks, and lines longer than one."""
    words = ["x" * (n % 40) for n in range(200)]
    (tmp_path / "words.csv").write_text(
        "number,word\r\n" + "".join(f"{n},{w}\r\n" for n, w in enumerate(words)) + "\r\n"
    )
    monkeypatch.setattr(lines, "BLOCK_BYTES", 17)
    pieces = list(tables(fsspec.filesystem("file"), str(tmp_path / "words.csv"), FORM))
    assert pa.concat_tables([p.table for p in pieces]).to_pydict() == {"number": list(range(200)), "word": words}
    assert len(pieces) > 50
    first = 2
    for piece in pieces:
        assert piece.first == first
        first += piece.table.num_rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"number,word\n1,a\n2\n", "line 3: 1 columns instead of 2, in '2'"),
        (b"number,word\n1,a\nb,c\n1\n", "line 3: column 'number': invalid value 'b', in 'b,c'"),
        (b"number,word\n1,a\n1\nb,c\n", "line 3: 1 columns instead of 2, in '1'"),
        (b"number,word\n1,a\n\n2,b\n", "line 3: an empty line, in ''"),
        (b"number,word\n\n2,b\n", "line 2: an empty line"),
        (b"number,word\n1,\xff\n", "line 2: column 'word': invalid UTF8 data"),
        (b"number,word\n1,a", "line 2: the file ends within this line, '1,a'"),
        (b"word\na\n", "line 1: no column 'number' in 'word'"),
        (b"number,word,word\n1,a,b\n", "line 1: column 'word' stands there twice"),
        (b"  <!doctype html>\n", "is a web page"),
        (b"number,word", "line 1: the file ends within this line"),
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "words.csv").write_bytes(text)
    with pytest.raises(InputError) as caught:
        list(tables(fsspec.filesystem("file"), str(tmp_path / "words.csv"), FORM))
    assert str(caught.value).startswith(f"{tmp_path}/words.csv")
    assert told in str(caught.value)


def test_empty_lines_at_the_end_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.csv").write_bytes(b"number,word\n1,a\n\r\n\n\n")
    for size in (1, 12, 16, 17, 100):  # the last block may hold nothing else
        monkeypatch.setattr(lines, "BLOCK_BYTES", size)
        (piece,) = tables(fsspec.filesystem("file"), str(tmp_path / "words.csv"), FORM)
        assert piece.table.to_pydict() == {"number": [1], "word": ["a"]}


def test_numbers_that_may_be_missing_are_nulls_and_a_mark_of_the_order_of_bytes_is_none(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_bytes(b"\xef\xbb\xbfnumber,other,word\n,x, a \n3,y,\n")
    (piece,) = tables(fsspec.filesystem("file"), str(tmp_path / "words.csv"), FORM)
    assert piece.table.to_pydict() == {"number": [None, 3], "word": ["a", ""]}


# ---- the command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.ingest", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_ends_with_a_table_and_the_next_command(tmp_path: Path) -> None:
    done = run("taobao", "--from", str(write(tmp_path, BY_HAND)), "--out", f"{tmp_path}/events")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("15 lines; 3 outside")
    assert said[2].startswith(f"wrote 5 rows to {tmp_path}/events in ")
    assert [line.split() for line in said[4:9]] == [
        ["day", "rows", "cart", "fav", "order"],
        ["2017-11-25", "3", "33.3333%", "33.3333%", "0.0000%"],
        ["2017-11-26", "1", "0.0000%", "0.0000%", "0.0000%"],
        ["2017-11-27", "1", "0.0000%", "0.0000%", "100.0000%"],
        ["all", "5", "20.0000%", "20.0000%", "20.0000%"],
    ]
    assert said[-1] == f"next: ./launch.sh train jobs/configs/taobao.yaml data.path={tmp_path}/events"


def test_the_next_command_can_be_typed_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From any folder, whatever the name of the log's."""
    source = write(tmp_path, BY_HAND)
    monkeypatch.chdir(tmp_path)
    for out, path in (("a log", ["data.path=a log"]), ("runs/taobao/events/", [])):
        ingested("taobao", source, out)
        launcher, verb, *rest = shlex.split(capsys.readouterr().out.rpartition("next: ")[2])
        assert (verb, rest[1:]) == ("train", path)
        assert Path(launcher).is_file()
        job = load_job(rest[0], rest[1:])
        assert days_of(Path(job.data.path)) == ["2017-11-25", "2017-11-26", "2017-11-27"]


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    done = run("taobao", "--from", f"{tmp_path}/nowhere", "--out", f"{tmp_path}/events")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --from: no such folder '{tmp_path}/nowhere'\n"


def test_the_source_is_never_written_into(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--out: is --from"):
        main(["taobao", "--from", str(tmp_path), "--out", f"{tmp_path}/"])


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_help_says_source_licence_and_citation(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    about = DATASETS[name].about
    for words in (about.source, about.licence, about.cite, about.files, about.rows):
        assert words in said
    page = " ".join((ROOT / "docs/ingest.md").read_text().split())
    for words in (about.source.partition(";")[0], about.cite.rpartition("https")[2]):
        assert words in page


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_has_a_job_that_reads_where_ingest_is_told_to_write(name: str) -> None:
    job = load_job(str(CONFIGS / f"{name}.yaml"), [])
    assert (job.name, job.data.path, job.output) == (name, f"runs/{name}/events", f"runs/{name}")
    assert f"./launch.sh ingest {name} --from DIR --out {job.data.path}" in (ROOT / "docs/ingest.md").read_text()
