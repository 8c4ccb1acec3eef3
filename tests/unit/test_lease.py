"""The lease: one holder, who is told to the others; terms that end; holders that find themselves lost."""

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.daily import lease as lease_module
from pipeline.daily import process_identity
from pipeline.daily.lease import KEEP, Held, Lease, Lost
from pipeline.daily.process_identity import Process, alive, this_process
from pipeline.records import Records
from schemas.errors import InputError
from tests.s3 import BUCKET, s3_server

LONG = 3600
ELSEWHERE = {"pid": 7, "started": 1, "boot": "another machine's", "namespace": "pid:[1]"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"


def term_of(root: str, number: int, **changes: Any) -> None:
    """A term that a process of another machine began."""
    facts = {"what": "2026-01-07", "since": "2026-01-08T02:00:00Z", "seconds": LONG, "host": "node7"}
    Records(f"{root}/lease").create(f"{number:08d}", facts | {"process": ELSEWHERE} | changes)


def eventually(true: Callable[[], bool]) -> None:
    """Waits, a minute at the longest, until it is so."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "in a minute"
        time.sleep(0.01)


# ---- one holder


def test_the_second_is_told_who_holds_it_and_gets_it_after_a_release(root: str) -> None:
    with Lease(root, LONG, "2026-01-08") as first:
        assert first.term == 1
        first.check()
        with pytest.raises(Held) as caught:
            Lease(root, LONG, "2026-01-09").acquire()
        first.check()
    held = caught.value
    assert held.holder.startswith(f"process {os.getpid()} on ")
    assert held.what == "2026-01-08"
    since, expires = (datetime.datetime.fromisoformat(text) for text in (held.since, held.expires))
    assert abs((expires - since).total_seconds() - LONG) <= 5
    for told in (root, "2026-01-08 is at work", held.holder, held.since, held.expires):
        assert told in str(held)
    with Lease(root, LONG, "2026-01-09") as second:
        assert second.term == 2


def test_a_holder_elsewhere_is_believed_for_its_own_seconds(root: str) -> None:
    term_of(root, 1)
    with pytest.raises(
        Held, match=r"2026-01-07 is at work, by process 7 on node7, since 2026-01-08T02:00:00Z; its lease "
    ):
        Lease(root, 5, "2026-01-08").acquire()
    term_of(root, 2, seconds=-10)
    with Lease(root, LONG, "2026-01-08") as lease:
        assert lease.term == 3


def test_a_beat_prolongs_a_term_by_the_stores_clock(tmp_path: Path) -> None:
    """What the holder's clock said does not count: the files' own times do."""
    term_of(str(tmp_path), 1)
    old = time.time() - LONG - 60
    os.utime(tmp_path / "lease/00000001.json", (old, old))
    (tmp_path / "lease/00000001.beat").write_text("")
    with pytest.raises(Held):
        Lease(str(tmp_path), 5, "2026-01-08").acquire()
    os.utime(tmp_path / "lease/00000001.beat", (old, old))
    with Lease(str(tmp_path), LONG, "2026-01-08") as lease:
        assert lease.term == 2


def test_a_process_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        process = Process(child.pid, int(stat[19]), this_process().boot, this_process().namespace)
        assert alive(process) is True
        term_of(str(tmp_path), 1, process=process.facts())
        with pytest.raises(Held):
            Lease(str(tmp_path), LONG, "2026-01-08").acquire()
        child.kill()
        eventually(lambda: alive(process) is False)  # it is a zombie until it is waited for
    finally:
        child.kill()
        child.communicate()
    assert alive(process) is False
    with Lease(str(tmp_path), LONG, "2026-01-08") as lease:
        assert lease.term == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, True),
        ({"started": 1}, False),  # the pid was given again
        ({"pid": 2**22 + 1}, False),  # beyond the largest
        ({"boot": "another"}, None),
        ({"boot": ""}, None),
        ({"namespace": "pid:[1]"}, None),
        ({"started": 0}, None),
    ],
)
def test_a_process_is_known_only_under_the_same_boot_and_among_the_same_pids(
    change: dict[str, Any], told: bool | None
) -> None:
    assert alive(Process.of_facts(this_process().facts() | change)) is told


def test_a_process_that_proc_hides_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    monkeypatch.setattr(process_identity, "_state", lambda pid: ("S", me.started) if pid == os.getpid() else None)
    assert alive(Process(1, 5, me.boot, me.namespace)) is None


# ---- the holder


def test_a_holder_that_was_taken_over_has_lost(root: str) -> None:
    told: list[str] = []
    lease = Lease(root, LONG, "2026-01-08", told.append)
    lease.acquire()
    term_of(root, 2)
    with pytest.raises(
        Lost, match="2026-01-08 has lost its lease: process 7 on node7 has it; the same command goes on"
    ):
        lease.check()
    with pytest.raises(Lost):
        lease.check()
    assert told == ["process 7 on node7 has it"], "once"
    lease.release()
    assert "00000001.released" not in Records(f"{root}/lease").entries(), "it was no longer its to give back"


def test_the_thread_renews_and_finds_that_it_is_lost(tmp_path: Path) -> None:
    told: list[str] = []
    lease = Lease(str(tmp_path), 0.4, "2026-01-08", told.append)
    lease.acquire()
    beat = tmp_path / "lease/00000001.beat"
    eventually(beat.exists)
    first = beat.read_bytes()
    eventually(lambda: beat.read_bytes() not in (first, b""))
    term_of(str(tmp_path), 2)
    eventually(lambda: told != [])
    assert told == ["process 7 on node7 has it"]
    lease.release()


def test_a_storage_that_fails_is_borne_for_the_leases_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(lease_module, "_clock", lambda: now[0])
    told: list[str] = []
    lease = Lease(str(tmp_path), LONG, "2026-01-08", told.append)
    lease.acquire()

    def fails(*_: Any) -> None:
        raise OSError("the disk had a bad moment")

    with monkeypatch.context() as patch:
        patch.setattr(lease, "_write", fails)
        now[0] += LONG
        lease.check()
    lease.check()  # it comes through: from here on, another hour
    monkeypatch.setattr(lease, "_write", fails)
    now[0] += LONG
    lease.check()
    now[0] += 1
    with pytest.raises(Lost, match=r"could not be renewed for 3601 s \(the disk had a bad moment\)"):
        lease.check()
    assert len(told) == 1
    lease.release()


def test_a_holder_that_slept_goes_on_where_nobody_took_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(lease_module, "_clock", lambda: now[0])
    with Lease(str(tmp_path), LONG, "2026-01-08") as lease:
        now[0] += 10 * LONG
        lease.check()


def test_a_storage_that_hangs_does_not_hang_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk may not answer for ever; check must come back all the same."""
    lease = Lease(str(tmp_path), LONG, "2026-01-08")
    monkeypatch.setattr(lease._brief, "storage", lease._brief.storage.model_copy(update={"timeout_seconds": 0.05}))
    lease.acquire()
    now = lease_module._clock()
    monkeypatch.setattr(lease, "_look_and_beat", lambda: time.sleep(5))
    lease.check()
    monkeypatch.setattr(lease_module, "_clock", lambda: now + LONG + 60)
    with pytest.raises(Lost, match="no answer in"):
        lease.check()
    lease.release()


# ---- its files


def test_old_terms_go_and_the_number_never_comes_again(tmp_path: Path) -> None:
    root = str(tmp_path)
    for number in range(1, KEEP + 6):
        with Lease(root, LONG, "2026-01-08") as lease:
            assert lease.term == number
    files = Records(f"{root}/lease").entries()
    terms = sorted(int(name[:8]) for name in files if name.endswith(".json"))
    assert terms == list(range(6, KEEP + 6))
    assert min(int(name[:8]) for name in files if name[0] == "0") == 6


def test_a_torn_term_is_named(tmp_path: Path) -> None:
    term_of(str(tmp_path), 4)
    path = tmp_path / "lease/00000004.json"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match=r"lease/00000004\.json: is no whole record \(30 bytes\)"):
        Lease(str(tmp_path), 5, "2026-01-08").acquire()
