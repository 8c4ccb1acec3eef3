"""A change of the registry cut short anywhere, on disk and on S3; and many who want to be champion at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.records
import pipeline.weights
from pipeline.registry import Registry
from pipeline.storage import filesystem
from tests.faults.registry_deaths import DAYS
from tests.models import STEP, a_model, champions
from tests.s3 import BUCKET, s3_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        yield f"s3://{BUCKET}"


def in_its_own_process(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.registry_deaths", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kill_before_any_system_call_leaves_one_champion_and_can_be_repeated(tmp_path: Path) -> None:
    points = json.loads(in_its_own_process("kill", str(tmp_path)))
    assert set(points) == {"register", "promote", "rollback", "retire", "commit"}
    assert min(points.values()) >= 8, f"open, write, flush, close, link, sync and the rest were seen: {points}"


def test_of_ten_processes_one_promotes_its_model(tmp_path: Path) -> None:
    assert in_its_own_process("race", str(tmp_path), "10").strip() in DAYS[1:11]


def test_of_four_processes_one_promotes_its_model_on_s3(bucket: str) -> None:
    assert in_its_own_process("race", f"{bucket}/race", "4").strip() in DAYS[1:5]


class DiedError(BaseException):
    """The end of the process, as the store sees it."""


class Doomed:
    """A filesystem whose process dies at its nth request: before it is sent, or once it is answered."""

    left, after, requests = 0, False, 0
    SENT = ("pipe_file", "cat_file", "ls", "find", "rm", "rm_file", "info", "modified", "exists")

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        return self._request(found) if name in self.SENT else found

    @classmethod
    def _request(cls, act: Any) -> Any:
        def request(*args: Any, **kwargs: Any) -> Any:
            cls.left -= 1
            if cls.left == 0 and not cls.after:
                raise DiedError
            if cls.left < 0:
                raise DiedError  # a thread that was on its way
            out = act(*args, **kwargs)
            if cls.left == 0:
                raise DiedError
            return out

        return request

    @classmethod
    def doom(cls, left: int, after: bool) -> None:
        cls.left, cls.after = left, after


def doomed_registry(patch: pytest.MonkeyPatch, root: str) -> Registry:
    """Opened with a filesystem of the kind above; so is what it opens later."""

    def opened(*args: Any) -> tuple[Any, str]:
        fs, path = filesystem(*args)
        return Doomed(fs), path

    for module in (pipeline.records, pipeline.weights):
        patch.setattr(module, "filesystem", opened)
    return Registry(root)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_death_at_any_request_to_s3_leaves_one_champion_and_can_be_repeated(
    bucket: str, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    root = f"{bucket}/deaths-{after}"
    sound = Registry(root)
    champions(sound, root, DAYS[:1])
    dead = points = 0
    while dead == points:
        number = points + 1
        old, new = f"{DAYS[0]}.{number}" if points else DAYS[0], f"{DAYS[0]}.{number + 1}"
        sound.register(a_model(root, new, old))
        with monkeypatch.context() as patch:
            registry = doomed_registry(patch, root)
            Doomed.doom(number, after)
            try:
                registry.promote(new, "blessed", expected=number)
            except DiedError:
                dead += 1
        points += 1
        champion = sound.champion()
        assert champion is not None
        assert champion.name in (old, new)
        assert len(sound.promotions()) == (number if champion.name == old else number + 1)
        assert sound.promote(new, "blessed", expected=number).number == number + 1
        assert [p.model for p in sound.promotions()[-2:]] == [old, new]
    assert dead >= 6, "its reads, the proof that the store keeps to conditions, and the write itself"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_retirement_that_dies_at_any_request_is_finished_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: bool
) -> None:
    """In a store of this process's memory, whose requests are S3's."""
    dead = points = 0
    while dead == points:
        points += 1
        root = f"memory://{tmp_path.name}-{after}-{points}"
        sound = Registry(root)
        champions(sound, root, DAYS[:2])
        sound.register(a_model(root, DAYS[2], DAYS[1]))
        with monkeypatch.context() as patch:
            registry = doomed_registry(patch, root)
            Doomed.doom(points, after)
            try:
                registry.retire(1, 0)
            except DiedError:
                dead += 1
        sound.retire(1, 0)
        fs, path = filesystem(root)
        left = sorted(file.split("/days/")[1].split("/")[0] for file in fs.find(f"{path}/days"))
        assert left == [DAYS[1]] * 2
        assert sound.removed() == {DAYS[0], DAYS[2]}
        assert sound.retire(1, 0) == []
    assert dead >= 20


def test_the_registry_of_s3_keeps_and_removes_as_that_of_a_disk(bucket: str) -> None:
    root = f"{bucket}/plain"
    registry = Registry(root)
    champions(registry, root, DAYS[:4])
    assert registry.rollback(None, "bad").model == DAYS[2]
    assert registry.retire(2, 0) == [DAYS[0]]
    fs, path = filesystem(root)
    fs.invalidate_cache()
    assert not fs.exists(f"{path}/days/{DAYS[0]}/challenger/checkpoints/{STEP}")
    assert [model.name for model in registry.models()] == DAYS[:4]
    assert [model.name for model in registry.lineage(DAYS[3])] == DAYS[3::-1]
