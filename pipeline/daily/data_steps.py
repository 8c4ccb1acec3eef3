"""The steps of a day that look at its rows: wait, validate, freeze, vocabulary."""

import datetime

import pyarrow.compute as pc

from pipeline.daily.checks import Finding, check_day, passed
from pipeline.daily.ledger import Ledger, days, skipped
from pipeline.daily.place import DAY_MANIFEST, TRAIN_MANIFEST, Place, begun, get, latest, place_of, put
from pipeline.daily.span import ONE, skip_open, span_of
from pipeline.daily.statistics import DayStatistics, day_statistics, edges_of
from pipeline.daily.wait import Late, wait_for_day
from pipeline.daily.work import INVALID, LATE, DayEndedError, Facts, Work
from pipeline.data.files import AbsentError, Listed, list_days, plan, plan_files
from pipeline.data.freeze import compare
from pipeline.data.history_statistics import statistics_of
from pipeline.data.manifest import Manifest, from_bytes
from pipeline.data.manifest import manifest_of as manifest_from
from pipeline.data.vocabulary_growth import grow
from pipeline.gate.slices import check_slices
from pipeline.storage import UnansweredError, filesystem
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, DayRange


def wait(work: Work) -> Facts:
    """Settles what the challenger begins from and trains on, then waits for the day."""
    span = span_of(work.job, work.place.root, work.registry, work.day)
    check_history(work)
    try:
        arrived = wait_for_day(work.job, work.day, work.daily.wait, work.say, work.runner.sleep)
    except Late as late:
        raise DayEndedError(LATE, "late_data", str(late)) from late
    skip_open(work.place.root, span, work.day)  # not before: a day mistyped, or one that never comes, skips nothing
    work.say(f"{arrived.files:,} file{'s' * (arrived.files != 1)}, {arrived.rows:,} rows")
    return {"files": arrived.files, "rows": arrived.rows, "waited_seconds": arrived.waited, "span": span.facts()}


def check_history(work: Work) -> None:
    """Raises InputError where the log lacks a day that a feature looks back on: training would say so at its start."""
    first = work.job.data.history_from
    if not (statistics := statistics_of(work.job)) or first >= work.day:
        return
    try:
        list_days(work.job, DayRange(**{"from": first, "to": work.day - ONE}))
    except AbsentError as error:
        raise InputError(
            f"{str(error).split(';', 1)[0]}; features.{statistics[0].feature} looks back on every day since {first} "
            "(data.history.from), skipped ones too: write the day, or take the features that look back out of the job "
            "(and name them in daily.changes)"
        ) from error
    except UnansweredError:
        return  # the wait for the day asks it again


def validate(work: Work) -> Facts:
    """The day's statistics within their limits of recent days; the manifest they were made of is what is frozen."""
    manifest = plan(work.job, work.own_day)
    check_slices(work.job, work.daily.gate, manifest)
    put(work.place.url(DAY_MANIFEST), manifest.to_bytes())
    recent = recent_statistics(work)

    def tell(words: str) -> None:
        work.runner.check()
        work.say(words)

    # out of vocabulary is what the champion does not know
    today = day_statistics(work.current_job(), work.day, manifest, tell, edges_of(recent))
    findings = check_day(work.job, work.daily.checks, today, recent, work.accepted)
    refuse(work, findings)
    work.say(f"{manifest.rows:,} rows against {len(recent)} recent day{'s' * (len(recent) != 1)}: passed")
    return {
        "manifest": manifest.fingerprint,
        "recent": [str(s.day) for s in recent],
        "accepted": [finding.words for finding in findings],
        "statistics": passed(today, findings).to_json(),
    }


def recent_statistics(work: Work) -> list[DayStatistics]:
    """Those of the latest days before this one that passed and were not skipped later, in order."""
    found = []
    left_out = skipped(work.place.root)
    for day in reversed([d for d in days(work.place.root) if d < work.day and d not in left_out]):
        facts = _ledger(work, day).done().get("validate")
        if facts is not None:
            found.append(DayStatistics.from_json(facts["statistics"]))
        if len(found) == work.daily.checks.recent_days:
            break
    return found[::-1]


def refuse(work: Work, findings: list[Finding]) -> None:
    """Ends the day where a finding stands that nobody accepted; says those that were."""
    for finding in findings:
        if finding.accepted:
            work.say(f"accepted: {finding.words}")
    standing = [finding for finding in findings if not finding.accepted]
    if standing:
        words = "\n".join(f"  {finding.word}: {finding.words}" for finding in standing)
        if len(standing) > 1:
            words += f"\n  all at once: --accept {' '.join(sorted({finding.rule for finding in standing}))}"
        told = [{"rule": f.rule, "subject": f.subject, "words": f.words} for f in standing]
        raise DayEndedError(INVALID, "failed_validation", words, {"findings": told})


def freeze(work: Work) -> Facts:
    """The manifests of the day and of all that its challenger trains on; what came late is told, or taken in."""
    day = manifest_of(work, work.place)
    if day.fingerprint != work.done["validate"]["manifest"]:
        raise InputError(f"{work.place.url(DAY_MANIFEST)}: is not the one that was validated; begin anew with --again")
    came = compare(day, list_days(work.job, work.own_day), same_place=True)
    late = {work.day: came, **late_before(work)}
    late = {d: files for d, files in late.items() if files}
    _report(work, late)
    span, files = work.span, []
    taken = {d: names for d, names in late.items() if d < work.day} if work.daily.late_files == "train" else {}
    for d in sorted({*(datetime.date.fromisoformat(d) for d in span.days), *taken}):
        whole = str(d) in span.days
        if d == work.day:
            files += _files(day)
        elif whole and _ledger(work, d).done().get("freeze"):
            files += _files(manifest_of(work, latest(work.place.root, d)))
        elif whole:  # a day of the first champion's, which has no run of its own
            files += list_days(work.job, DayRange(**{"from": d, "to": d}))
        if d in taken:
            listed = {file.path: file for file in list_days(work.job, DayRange(**{"from": d, "to": d}))}
            files += [listed[name] for name in taken[d]]
    first = min(datetime.date.fromisoformat(file.path[3:13]) for file in files)
    training = plan_files(work.job, DayRange(**{"from": first, "to": work.day}), files)
    put(work.place.url(TRAIN_MANIFEST), training.to_bytes())
    work.say(f"{training.rows:,} rows of {len(span.days)} day{'s' * (len(span.days) > 1)} to train on")
    return {
        "manifest": training.fingerprint,
        "rows": training.rows,
        "first": str(first),
        "late": {str(d): files for d, files in late.items()},
        "late_trained": {str(d): files for d, files in taken.items()},
    }


def manifest_of(work: Work, place: Place) -> Manifest:
    """The frozen manifest of a day."""
    url = place.url(DAY_MANIFEST)
    return from_bytes(get(url), filesystem(work.job.data.path, work.job.data.storage)[1], url)


def late_before(work: Work) -> dict[datetime.date, list[str]]:
    """Files of recent days that came after those were frozen and that no model of the champion's line has trained on.

    Of a day that is in no model and in none that is trained now, such as a skipped one, nothing is late.
    """
    line = work.line()
    of_model = {day: name for name, model in line.items() for day in model.days}
    trained = {*work.span.days, *of_model}
    all_days = {*days(work.place.root), *map(datetime.date.fromisoformat, trained)}
    window = sorted(d for d in all_days if d < work.day)[-work.daily.checks.recent_days :]
    own = {p.day: p for p in begun(work.place.root) if window and p.day >= window[0] and p.key in line}
    known: set[str] = set()
    for place in own.values():
        known |= {name for names in _done(place)["freeze"]["late_trained"].values() for name in names}
    found: dict[datetime.date, list[str]] = {}
    for day in window:
        place = own.get(day) or latest(work.place.root, day)
        if str(day) not in trained:
            continue
        if str(day) in of_model and day not in own:  # another attempt at it, if any, is not what the line has seen
            frozen = _trained_of(work, place_of(work.place.root, of_model[str(day)]), day)
        elif "freeze" in _done(place):
            frozen = manifest_of(work, place)
        else:
            continue
        try:
            listed = list_days(work.job, DayRange(**{"from": day, "to": day}))
        except AbsentError:  # the log keeps its days for a while alone
            continue
        came = compare(frozen, listed, same_place=False, lenient=True)
        found[day] = [name for name in came if name not in known]
    return found


def _trained_of(work: Work, place: Place, day: datetime.date) -> Manifest:
    """What a model was trained on of one day."""
    url = place.url(TRAIN_MANIFEST)
    root = filesystem(work.job.data.path, work.job.data.storage)[1]
    whole = from_bytes(get(url), root, url)
    of_day = pc.starts_with(whole.files.column("path"), f"{PARTITION_KEY}={day}/")
    return manifest_from(whole.files.filter(of_day), root, whole.origin)


def _report(work: Work, late: dict[datetime.date, list[str]]) -> None:
    if not late:
        return
    names = [name for files in late.values() for name in files]
    words = _came_late(names)
    if work.daily.late_files == "refuse":
        raise DayEndedError(
            LATE,
            "late_files",
            f"{words}; daily.late_files is refuse: take them away, or set it to report (left out) or train (with this "
            "day)",
        )
    before = [name for day, files in late.items() if day < work.day for name in files]
    work.say(f"{words}; {'trained with this day' if work.daily.late_files == 'train' and before else 'left out'}")
    known = _told_since(work, min(late))
    if fresh := [name for name in names if name not in known]:
        words = _came_late(fresh)
        told = work.alerts.send("late_files", str(work.day), "late files", words, {"files": fresh})
        work.ledger.note("alert", {"alert": "late_files", "text": words, "told": told})


def _came_late(names: list[str]) -> str:
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} file{'s' * (len(names) > 1)} came after their day was frozen: {some}"


def _told_since(work: Work, first: datetime.date) -> set[str]:
    """Files that were late already when a day before this one, from the first on, was frozen: people know of them."""
    out: set[str] = set()
    for place in begun(work.place.root):
        if first <= place.day < work.day:
            facts = _done(place).get("freeze", {})
            out |= {name for names in facts.get("late", {}).values() for name in names}
    return out


def vocabulary(work: Work) -> Facts:
    """The champion's vocabularies, grown by the values of the days to be trained on."""
    growth = work.daily.vocabulary
    if growth is None:
        return {"tables": {}}
    url = work.place.url(TRAIN_MANIFEST)
    manifest = from_bytes(get(url), filesystem(work.job.data.path, work.job.data.storage)[1], url)
    first = datetime.date.fromisoformat(work.done["freeze"]["first"])
    span = DayRange(**{"from": first, "to": work.day})
    grown = grow(
        work.current_job(), span, manifest, work.place.url("vocabulary"), growth.min_count, lambda progress: None
    )
    for table, told in grown.items():
        more = f", {told.no_room:,} found no room: raise tables.{table}.rows" if told.no_room else ""
        work.say(f"{table}: {told.before:,} -> {told.after:,} values{more}; {told.unknown:.2%} of look-ups unknown")
    return {"tables": {table: {"path": g.path, "before": g.before, "after": g.after} for table, g in grown.items()}}


def _files(manifest: Manifest) -> list[Listed]:
    columns = [manifest.files.column(name).to_pylist() for name in ("path", "bytes", "etag")]
    return [Listed(*row) for row in zip(*columns, strict=True)]


def _ledger(work: Work, day: datetime.date) -> Ledger:
    return Ledger(work.place.root, day, latest(work.place.root, day).attempt)


def _done(place: Place) -> dict[str, Facts]:
    return Ledger(place.root, place.day, place.attempt).done()
