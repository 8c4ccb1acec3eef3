"""Objects created once: whole, durable, by exactly one creator; on disk, on S3, and where a store cannot do it."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.storage import create, filesystem
from schemas.errors import InputError
from schemas.events import StorageConfig
from tests.s3 import BUCKET, s3_server

QUICK = StorageConfig(retries=2, timeout_seconds=5, backoff_seconds=0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return str(tmp_path / "new" / "folder") if request.param == "disk" else f"memory://{tmp_path.name}"


def test_the_first_creates_and_the_second_is_told(root: str) -> None:
    fs, path = filesystem(f"{root}/a.json")
    assert create(fs, path, b"first") is True
    assert create(fs, path, b"second") is False
    assert fs.cat_file(path) == b"first"
    fs.invalidate_cache()
    assert [name.rsplit("/", 1)[-1] for name in fs.ls(path.rpartition("/")[0], detail=False)] == ["a.json"]


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_of_many_threads_one_creates(place: str, bucket: str, tmp_path: Path) -> None:
    root = str(tmp_path) if place == "disk" else f"{bucket}/threads"
    fs, path = filesystem(f"{root}/raced.json")
    create(fs, f"{path}.other", b"so that the store is known")
    won: list[int] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        if create(fs, path, b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert fs.cat_file(path) == b"%d" % won[0]


# ---- on disk


def test_a_file_is_flushed_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = filesystem(str(tmp_path))
    told: list[str] = []
    link, fsync = os.link, os.fsync

    def linked(source: Any, target: Any) -> None:
        told.append("link")
        link(source, target)

    def flushed(handle: int) -> None:
        told.append(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path).as_posix())
        fsync(handle)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "fsync", flushed)
    assert create(fs, str(tmp_path / "a/b/x.json"), b"content")
    draft = told.pop(2)
    assert draft.startswith("a/b/.x.json.")
    assert draft.endswith(".draft")
    assert told == ["a", ".", "link", "a/b"] or told == [".", "a", "link", "a/b"], "names of new folders, too"


def test_an_answer_that_is_lost_does_not_make_two_creators_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system links, loses the answer, and is asked again."""
    fs, _ = filesystem(str(tmp_path))
    link = os.link

    def lossy(source: Any, target: Any) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", lossy)
    assert create(fs, str(tmp_path / "x"), b"mine") is True
    monkeypatch.undo()
    assert create(fs, str(tmp_path / "x"), b"mine") is False


def test_a_failure_after_the_link_is_not_taken_for_anothers_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = filesystem(str(tmp_path))
    calls: list[Path] = []
    sync_folder = storage.sync_folder

    def fails_once(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        sync_folder(folder)

    monkeypatch.setattr(storage, "sync_folder", fails_once)
    assert create(fs, str(tmp_path / "x"), b"mine", QUICK) is True
    assert len(calls) == 2


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, _ = filesystem(str(tmp_path))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"x: cannot be written after 3 attempts \(.*No space left on device\)"):
        create(fs, str(tmp_path / "x"), b"mine", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, _ = filesystem(str(tmp_path))

    def unknown(source: Any, target: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unknown)
    with pytest.raises(InputError, match="has no hard links"):
        create(fs, str(tmp_path / "x"), b"mine")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    fs, _ = filesystem(str(tmp_path))
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=r"a/x: cannot be written \("):
        create(fs, str(tmp_path / "a" / "x"), b"mine", QUICK)


# ---- in stores


class Lossy(MemoryFileSystem):
    """A store whose conditional writes fail as told: before they arrive, or after."""

    cachable = False
    store: dict[str, Any] = {}
    lose: list[str] = []
    """What becomes of the next writes, in order: `request` or `answer` is lost."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        fate = self.lose.pop(0) if self.lose and path.endswith("x") else ""
        if fate == "request":
            raise TimeoutError("no answer")
        super().pipe_file(path, value, mode, **kwargs)
        if fate == "answer":
            raise TimeoutError("no answer")


@pytest.mark.parametrize("lose", [["request"], ["answer"], ["request", "answer"], ["answer", "request"]])
def test_after_a_lost_answer_the_object_says_whose_it_is(lose: list[str], tmp_path: Path) -> None:
    fs, path = Lossy(), f"/{tmp_path.name}/x"
    fs.lose[:] = lose
    assert create(fs, path, b"mine", QUICK) is True
    fs.lose[:] = ["request"]
    assert create(fs, path, b"another's", QUICK) is False
    assert fs.cat_file(path) == b"mine"


def test_a_store_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    fs = Lossy()
    fs.lose[:] = ["request"] * 9
    with pytest.raises(InputError, match=r"x: cannot be written after 3 attempts \(no answer\)"):
        create(fs, f"/{tmp_path.name}/x", b"mine", QUICK)
    fs.lose.clear()


class Overwriting(MemoryFileSystem):
    """A store that does not know conditional writes, and says nothing."""

    cachable = False
    store: dict[str, Any] = {}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, **kwargs)


def test_a_store_that_overwrites_is_refused_before_anything_is_written() -> None:
    fs = Overwriting()
    fs.pipe_file("/there/x", b"another's")
    with pytest.raises(InputError, match=r"/there/x: the store overwrites an object that was to be created only"):
        create(fs, "/there/x", b"mine", QUICK)
    assert fs.cat_file("/there/x") == b"another's"
    assert fs.ls("/there", detail=False) == ["/there/x"]


def test_a_store_that_can_only_look_first_is_refused_by_name() -> None:
    fs = fsspec.filesystem("dir", path="/x", target_protocol="memory")
    with pytest.raises(InputError, match="a store of the kind dir:// cannot create an object only where there is none"):
        create(fs, "/x", b"mine")


def test_an_s3_that_words_its_refusal_in_another_way_is_understood(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores leave out which condition failed: the driver then knows no FileExistsError."""
    fs, path = filesystem(f"{bucket}/worded/x")
    assert create(fs, path, b"first")
    import botocore.exceptions

    refusal = botocore.exceptions.ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")

    def pipe_file(*_: Any, **__: Any) -> None:
        raise OSError(errno.EINVAL, "At least one of the pre-conditions") from refusal

    monkeypatch.setattr(fs, "pipe_file", pipe_file)
    assert create(fs, path, b"second") is False
