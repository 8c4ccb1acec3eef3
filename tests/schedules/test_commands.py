"""cron, systemd, Kubernetes, Slurm: the command each starts, as it starts it, for days in a row."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from jobs.daily import arguments_of
from tests.schedules import commands, week_cron
from tests.schedules.commands import EACH
from tests.schedules.home import CONFIG, Home, after, days

each = pytest.mark.parametrize("schedule", EACH)


@each
def test_two_days_are_trained_in_order_and_the_second_start_of_a_day_is_over_at_once(
    tmp_path: Path, schedule: str
) -> None:
    home = Home(tmp_path)
    first, second = days(2)
    codes = [EACH[schedule](home, after(day)).returncode for day in (first, second, second)]
    assert codes == [0, 0, 0]
    assert home.starts() == [(first, 0, "promoted"), (second, 0, "promoted"), (second, 0, "done before")]


@each
@pytest.mark.parametrize("clock", ["03:00", "14:30", "23:59"])
def test_every_start_until_the_next_one_means_the_same_day(tmp_path: Path, schedule: str, clock: str) -> None:
    home = Home(tmp_path)
    [day] = days(1)
    EACH[schedule](home, after(day, clock))
    assert home.starts() == [(day, 0, "promoted")]


@each
def test_a_try_after_midnight_is_still_of_that_day(tmp_path: Path, schedule: str) -> None:
    home = Home(tmp_path)
    [day] = days(1)
    midnight = str(date.fromisoformat(day) + timedelta(days=1))
    EACH[schedule](home, after(midnight, "02:59"))
    assert home.starts() == [(day, 0, "promoted")]


@each
@pytest.mark.parametrize("code", [1, 2, 4, 5, 75])
def test_the_exit_code_comes_through(tmp_path: Path, schedule: str, code: int) -> None:
    home = Home(tmp_path)
    home.plan(d08=[code])
    done = EACH[schedule](home, after(days(1)[0]))
    if schedule != "cron":
        assert done.returncode == code
    elif code == 75:
        assert (done.stdout, done.stderr) == ("", ""), "no mail of a day that goes on"
    else:
        assert done.stdout == f"2026-01-08: exit code {code}, see {home.path}/daily.log\n"


@each
def test_days_missed_while_the_machine_was_off_are_trained_first_and_in_order(tmp_path: Path, schedule: str) -> None:
    home = Home(tmp_path)
    first, second, third, fourth = days(4)
    codes = [EACH[schedule](home, after(day)).returncode for day in (first, fourth, fourth)]
    assert codes == [0, 0, 0]
    assert home.starts() == [(day, 0, "promoted") for day in (first, second, third, fourth)] + [
        (fourth, 0, "done before")
    ]


@each
def test_a_missed_day_that_is_refused_shows_and_holds_no_day_behind_it(tmp_path: Path, schedule: str) -> None:
    home = Home(tmp_path)
    home.plan(d09=[3])
    first, second, third = days(3)
    done = [EACH[schedule](home, after(day)) for day in (first, third, third)]
    assert home.verdicts() == {first: True, second: False, third: True}
    if schedule == "cron":
        mail = f"{third}: exit code 3, see {home.path}/daily.log\n"
        assert [each.stdout for each in done] == ["", mail, ""]
    else:
        assert [each.returncode for each in done] == [0, 3, 0]


@each
def test_a_day_that_came_to_no_end_is_tried_again_by_the_next_one(tmp_path: Path, schedule: str) -> None:
    home = Home(tmp_path)
    home.plan(d09=[5, 4])
    for day in days(4):
        EACH[schedule](home, after(day))
    second = days(4)[1]
    assert [(day, code) for day, code, _ in home.starts()] == [
        (days(4)[0], 0),
        (second, 5),
        (second, 4),
        *((day, 0) for day in days(4)[1:]),
    ]


@each
def test_the_daily_job_knows_the_words_that_a_schedule_says(tmp_path: Path, schedule: str) -> None:
    home = Home(tmp_path, '#!/bin/sh\nprintf "%s\\n" "$@" >"$HOME/words"\n')
    assert EACH[schedule](home, after(days(1)[0])).returncode == 0
    job, *words = (tmp_path / "words").read_text().splitlines()
    flags, told = arguments_of(words)
    assert (job, flags, told.config, str(told.date), told.catch_up) == ("daily", [], CONFIG, days(1)[0], True)


def test_cron_mails_nothing_of_a_good_day_and_keeps_what_it_said(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d09=[3])
    said = [commands.cron(home, after(day)).stdout for day in days(2)]
    assert said == ["", f"2026-01-09: exit code 3, see {home.path}/daily.log\n"]
    assert (home.path / "daily.log").read_text().splitlines() == [
        "2026-01-08  promoted, exit code 0",
        "2026-01-09  refused, exit code 3",
    ]


def test_cron_mails_a_refused_day_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d08=[75, 3])
    [day] = days(1)
    said = [commands.cron(home, after(day, clock)).stdout for clock in ("03:00", "09:00", "15:00", "21:00")]
    assert [code for _, code, _ in home.starts()] == [75, 3, 3, 3]
    assert said == ["", f"{day}: exit code 3, see {home.path}/daily.log\n", "", ""]


def test_an_unescaped_percent_sign_would_end_a_line_of_a_crontab() -> None:
    assert commands.percent(r"date +\%F") == "date +%F"
    assert commands.percent("date +%F") == "date +"
    [(_, command)] = commands.crontab()[1]
    assert "+%F" in command


@pytest.mark.parametrize(
    ("code", "again"), [(1, True), (5, True), (75, True), (0, False), (2, False), (3, False), (4, False)]
)
def test_slurm_puts_back_into_the_queue_what_the_same_command_mends(tmp_path: Path, code: int, again: bool) -> None:
    home = Home(tmp_path)
    home.plan(d08=[code])
    commands.slurm(home, after(days(1)[0]))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "srun --ntasks=1 ./launch.sh daily ranker.yaml --date 2026-01-08 --catch-up"
    assert calls[1:] == (["scontrol requeue 7"] if again else [])


def test_slurm_tries_no_more_than_so_often(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d08=[75])
    assert commands.slurm(home, after(days(1)[0]), restarts=24).returncode == 75
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_a_week_of_cron_has_no_start_of_a_missed_day() -> None:
    week = days(7)
    assert week_cron.on(week, []) == [("2026-01-09 02:58:00", 6 * 86_400.0 + 72_000)]
    assert week_cron.on(week, week[2:3]) == [
        ("2026-01-09 02:58:00", 2 * 86_400.0),
        ("2026-01-12 02:58:00", 3 * 86_400.0 + 72_000),
    ]
