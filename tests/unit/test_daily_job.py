"""The daily job without ranks: its command line, days left out, a stop while it waits, files that came late."""

import contextlib
import datetime
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.daily import Run, arguments_of, job_type, main
from pipeline.daily import data_steps
from pipeline.daily.documents import settled
from pipeline.daily.lease import Lease
from pipeline.daily.ledger import STEPS, Ledger, skipped
from pipeline.daily.place import DAY_MANIFEST, TRAIN_MANIFEST, Place, put
from pipeline.daily.process import Runner, StoppedError
from pipeline.daily.span import Span
from pipeline.daily.work import DayEndedError, Work
from pipeline.data.files import plan
from pipeline.data.vocabulary_file import put_vocabulary
from pipeline.registry import Registry
from schemas.daily import SliceSpec
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.load import load_job
from tests.logs import CITIES, set_key, small_config, write_config, write_log
from tests.models import a_model, champions

DAYS = [f"2026-01-0{n}" for n in range(1, 5)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_log(tmp_path / "log", DAYS[:3], 20)
    config: dict[str, Any] = small_config("log", "root", DAYS[:1])
    config["data"].pop("eval", None)
    config["daily"] = {}
    write_config(tmp_path / "job.yaml", config)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def work_of(day: str, span: Span | None = None, wait: str = "{}") -> Work:
    job = settled(load_job("job.yaml", [f"daily.wait={wait}"]))
    date = datetime.date.fromisoformat(day)
    registry, runner = Registry("root"), Runner([])
    place, ledger = Place("root", date), Ledger("root", date)
    work = Work(job, place, ledger, registry, runner, None, set(), print)  # type: ignore[arg-type]
    work.done = {} if span is None else {"wait": {"span": span.facts()}}
    return work


@pytest.mark.parametrize("flag", [["--accept", "volume"], ["--again"]])
def test_what_is_meant_for_one_day_is_refused_for_several(flag: list[str]) -> None:
    with pytest.raises(InputError, match=f"{flag[0]}: one day at a time"):
        arguments_of(["job.yaml", "--date", DAYS[1], "--catch-up", *flag])


@pytest.mark.parametrize(
    ("policy", "code", "begun"), [("skip", 4, 3), ("skip", 5, 3), ("skip", 1, 1), ("refuse", 4, 1), ("refuse", 5, 1)]
)
def test_an_open_day_holds_those_behind_it_unless_open_days_are_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, policy: str, code: int, begun: int
) -> None:
    job = settled(load_job("job.yaml", [f"daily.missing_days={policy}"]))
    _, arguments = arguments_of(["job.yaml", "--date", DAYS[2], "--catch-up"])
    codes, ran = {DAYS[0]: code, DAYS[1]: 0, DAYS[2]: 0}, []

    def day(run: Run, date: datetime.date) -> int:
        ran.append(str(date))
        return codes[str(date)]

    monkeypatch.setattr(Run, "day", day)
    run = Run(job, Registry("root"), Runner([]), Lease("root", 60, DAYS[2]), arguments, None)
    assert run.days([datetime.date.fromisoformat(day) for day in DAYS[:3]]) == (0 if begun == 3 else code)
    assert ran == DAYS[:begun]


def test_a_reason_may_hold_an_equals_sign() -> None:
    _, told = arguments_of(["job.yaml", "seed=1", "--skip", DAYS[1], "--because", "click=0 since four"])
    assert (told.because, told.overrides) == ("click=0 since four", ["seed=1"])


def test_a_day_that_was_rolled_back_can_be_left_out(folder: Path) -> None:
    registry = Registry("root")
    champions(registry, "root", DAYS[:2])
    Ledger("root", datetime.date.fromisoformat(DAYS[1])).commit("wait", {})
    for step in STEPS[1:]:
        Ledger("root", datetime.date.fromisoformat(DAYS[1])).commit(step, {"promoted": True, "number": 2})
    skip = ["job.yaml", "--skip", DAYS[1], "--because", "half empty"]
    with pytest.raises(InputError, match=f"line was trained on {DAYS[1]}"):
        main(skip)
    registry.rollback(None, "orders fell")
    assert main(skip) == 0
    assert skipped("root") == {datetime.date.fromisoformat(DAYS[1]): "half empty"}


def test_a_refused_day_that_a_later_champion_trained_on_is_not_left_out(folder: Path) -> None:
    registry = Registry("root")
    champions(registry, "root", DAYS[:1])
    registry.register(a_model("root", DAYS[1], DAYS[0]))
    registry.register(a_model("root", DAYS[2], DAYS[0], days=DAYS[1:3]))
    registry.promote(DAYS[2], "blessed", expected=1)
    with pytest.raises(InputError, match=f"trained on {DAYS[1]} .model {DAYS[2]}"):
        main(["job.yaml", "--skip", DAYS[1], "--because", "half empty"])
    assert not skipped("root")


def test_a_day_is_not_left_out_while_one_is_at_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Lease("root", 60, DAYS[1]):
        assert main(["job.yaml", "--skip", DAYS[1], "--because", "half empty"]) == 75
    assert f"{DAYS[1]} is at work" in capsys.readouterr().out
    assert not skipped("root")


def test_a_slice_of_no_column_is_told_before_anything_is_trained(folder: Path) -> None:
    work = work_of(DAYS[0])
    slices = [SliceSpec(name="tenant", column="tenent", values=3)]
    gate = work.daily.gate.model_copy(update={"slices": slices})
    work.job = work.job.model_copy(update={"daily": work.daily.model_copy(update={"gate": gate})})
    with pytest.raises(InputError, match=r"daily\.gate\.slices\.tenant\.column: .*column 'tenent' is missing"):
        data_steps.validate(work)


def test_out_of_vocabulary_is_what_the_champion_does_not_know(folder: Path) -> None:
    """Its vocabulary has grown since the one that the configuration names."""
    small, grown = (
        put_vocabulary(str(folder), name, pa.table({"value": list(cities), "count": [1] * len(cities)}))
        for name, cities in (("small", CITIES[:1]), ("grown", CITIES))
    )
    config = small_config("log", "root", DAYS[:1])
    config["data"].pop("eval", None)
    set_key(config, "features.city.vocabulary", small)
    config["daily"] = {"vocabulary": {}}
    write_config(folder / "job.yaml", config)
    registry = Registry("root")
    registry.register(a_model("root", DAYS[0], config={"features": [{"name": "city", "vocabulary": grown}]}))
    registry.promote(DAYS[0], "the first")
    facts = data_steps.validate(work_of(DAYS[1], Span(DAYS[0], 1, DAYS[1:2], [])))
    assert facts["statistics"]["unknown"]["city"]["mean"] == 0


def test_a_stop_ends_the_wait_for_a_day(folder: Path) -> None:
    work = work_of(DAYS[3], wait="{minutes: 0.02, poll_seconds: 1}")
    champions(work.registry, "root", DAYS[2:3])
    work.say = lambda text: work.runner.stop("stopped by SIGTERM")
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        data_steps.wait(work)


def test_open_days_are_skipped_once_the_day_is_there(folder: Path) -> None:
    champions(Registry("root"), "root", DAYS[:1])
    for day, left_out in (("2027-01-03", []), (DAYS[2], DAYS[1:2])):  # the first was mistyped
        work = work_of(day)
        work.job = work.job.model_copy(update={"daily": work.daily.model_copy(update={"missing_days": "skip"})})
        with contextlib.suppress(DayEndedError):
            assert data_steps.wait(work)["span"]["skipped"] == left_out
        assert [str(each) for each in skipped("root")] == left_out


def test_a_day_that_features_look_back_on_is_missed_before_anything_is_skipped_or_trained(folder: Path) -> None:
    config = small_config("log", "root", DAYS[:1])
    config["data"].pop("eval", None)
    counted = {"name": "item_ctr", "kind": "target_encoding", "column": "item_id", "task": "click"}
    config |= {"daily": {"missing_days": "skip"}, "features": [*config["features"], counted]}
    write_config(folder / "job.yaml", config)
    champions(Registry("root"), "root", DAYS[:1])
    data_steps.check_history(work_of(DAYS[2]))
    data_steps.check_history(work_of(DAYS[0]))
    shutil.rmtree(folder / "log" / f"dt={DAYS[1]}")
    words = rf"the day {DAYS[1]} is missing; features\.item_ctr looks back on every day since {DAYS[0]} .*: write"
    with pytest.raises(InputError, match=words):
        data_steps.wait(work_of(DAYS[2]))
    assert not skipped("root")


def test_a_day_with_a_damaged_record_is_begun_and_can_be_begun_anew(folder: Path) -> None:
    ledger = Ledger("root", datetime.date.fromisoformat(DAYS[1]))
    assert not ledger.begun()
    ledger.commit("wait", {})
    (folder / "root/days" / DAYS[1] / "01-wait.json").write_text("{")
    with pytest.raises(InputError, match="no whole record"):
        ledger.done()
    assert ledger.begun()


def frozen_day(day: str, late_trained: dict[str, list[str]]) -> None:
    work = work_of(day)
    manifest = plan(work.job, DayRange.model_validate({"from": day, "to": day}))
    put(work.place.url(DAY_MANIFEST), manifest.to_bytes())
    for step in STEPS[:3]:
        work.ledger.commit(step, {"late_trained": late_trained} if step == "freeze" else {})


def come_late(folder: Path, day: str, name: str = "part-00009.parquet") -> str:
    table = pq.read_table(folder / "log" / f"dt={day}" / "part-00000.parquet", partitioning=None)
    pq.write_table(table, folder / "log" / f"dt={day}" / name, write_page_checksum=True)
    return f"dt={day}/{name}"


@pytest.mark.parametrize("promoted", [True, False])
def test_late_files_that_only_a_refused_challenger_trained_on_are_not_lost(promoted: bool, folder: Path) -> None:
    champions(Registry("root"), "root", DAYS[:1])
    frozen_day(DAYS[0], {})
    late = come_late(folder, DAYS[0])
    frozen_day(DAYS[1], {DAYS[0]: [late]})
    if promoted:
        champions(Registry("root"), "root", DAYS[1:2])
    span = Span(DAYS[promoted], 1 + promoted, DAYS[2:3] if promoted else DAYS[1:3], [])
    found = {str(day): files for day, files in data_steps.late_before(work_of(DAYS[2], span)).items() if files}
    assert found == ({} if promoted else {DAYS[0]: [late]})


def test_late_files_of_a_day_without_a_run_of_its_own_are_found(folder: Path) -> None:
    """The first champion, of the second day, learnt from the first day too."""
    registry = Registry("root")
    registry.register(a_model("root", DAYS[1], None, days=DAYS[:2]))
    registry.promote(DAYS[1], "the first")
    frozen_day(DAYS[1], {})
    work = work_of(DAYS[2], Span(DAYS[1], 1, DAYS[2:3], []))
    training = plan(work.job, DayRange.model_validate({"from": DAYS[0], "to": DAYS[1]}))
    put(work_of(DAYS[1]).place.url(TRAIN_MANIFEST), training.to_bytes())
    assert not any(data_steps.late_before(work).values())
    late = come_late(folder, DAYS[0])
    found = {str(day): files for day, files in data_steps.late_before(work).items() if files}
    assert found == {DAYS[0]: [late]}


def test_late_files_are_those_that_the_champions_line_has_not_seen_whatever_a_later_attempt_froze(folder: Path) -> None:
    """The third day's model learnt from the second day, whose challenger was refused, and then tried anew."""
    registry = Registry("root")
    champions(registry, "root", DAYS[:1])
    for day in DAYS[:3]:
        frozen_day(day, {})
    registry.register(a_model("root", DAYS[2], DAYS[0], days=DAYS[1:3]))
    registry.promote(DAYS[2], "by hand", "manual", 1)
    work = work_of(DAYS[3], Span(DAYS[2], 2, DAYS[3:], []))
    training = plan(work.job, DayRange.model_validate({"from": DAYS[1], "to": DAYS[2]}))
    put(work_of(DAYS[2]).place.url(TRAIN_MANIFEST), training.to_bytes())
    late, second = come_late(folder, DAYS[1]), Place("root", datetime.date.fromisoformat(DAYS[1]), 2)
    manifest = plan(work.job, DayRange.model_validate({"from": DAYS[1], "to": DAYS[1]}))
    put(second.url(DAY_MANIFEST), manifest.to_bytes())
    for step in STEPS[:3]:
        Ledger("root", second.day, 2).commit(step, {"late_trained": {}})
    found = {str(day): files for day, files in data_steps.late_before(work).items() if files}
    assert found == {DAYS[1]: [late]}


class Told:
    """Alerts that are remembered."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    def send(self, kind: str, day: str, title: str, text: str, facts: dict[str, Any]) -> list[str]:
        self.sent.append(facts["files"])
        return ["webhook: not sent: HTTP 500"]


def test_a_late_file_is_alerted_once_and_what_became_of_it_is_kept(folder: Path) -> None:
    champions(Registry("root"), "root", DAYS[:1])
    frozen_day(DAYS[0], {})
    late, told = come_late(folder, DAYS[0]), Told()
    for day in DAYS[1:3]:
        work = work_of(day, Span(DAYS[0], 1, [day], []))
        work.alerts = told  # type: ignore[assignment]
        for step in ("wait", "validate"):
            work.done |= {step: work.done.get(step, {})}
        manifest = plan(work.job, work.own_day)
        put(work.place.url(DAY_MANIFEST), manifest.to_bytes())
        work.done["validate"] = {"manifest": manifest.fingerprint}
        facts = data_steps.freeze(work)
        assert facts["late"] == {DAYS[0]: [late]}
        for step, committed in (("wait", work.done["wait"]), ("validate", {}), ("freeze", facts)):
            work.ledger.commit(step, committed)
    second = come_late(folder, DAYS[0], "part-00010.parquet")
    data_steps._report(work, {datetime.date.fromisoformat(DAYS[0]): [late, second]})
    assert told.sent == [[late], [second]]
    (event,) = Ledger("root", datetime.date.fromisoformat(DAYS[1])).events()
    assert (event["alert"], event["told"]) == ("late_files", ["webhook: not sent: HTTP 500"])
    (event,) = Ledger("root", datetime.date.fromisoformat(DAYS[2])).events()
    assert event["text"] == f"1 file came after their day was frozen: {second}"


def test_late_files_of_a_day_that_was_left_out_stay_out(folder: Path) -> None:
    champions(Registry("root"), "root", DAYS[:1])
    for day in DAYS[:2]:
        frozen_day(day, {})
    late = come_late(folder, DAYS[1])
    for days, expected in ((DAYS[1:3], [late]), (DAYS[2:3], [])):
        found = data_steps.late_before(work_of(DAYS[2], Span(DAYS[0], 1, days, [])))
        assert [name for files in found.values() for name in files] == expected


def test_a_day_is_told_as_its_own_the_morning_after_and_later_as_a_backfill() -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    kinds = [job_type(today - datetime.timedelta(days)) for days in range(4)]
    assert kinds == ["gate", "gate", "backfill", "backfill"]
