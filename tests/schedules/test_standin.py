"""The stand-in itself: without it no test of an engine means anything."""

import subprocess
from pathlib import Path

from tests.schedules.home import Home, days


def launch(home: Home, *arguments: str) -> tuple[int, str]:
    command = ["./launch.sh", "daily", "ranker.yaml", *arguments]
    done = subprocess.run(command, cwd=home.path, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout


def test_a_day_is_done_once_and_in_order(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, second, third = days(3)
    assert launch(home, "--date", first) == (0, f"{first}  promoted, exit code 0\n")
    assert launch(home, "--date", first) == (0, f"{first}  done before, exit code 0\n")
    assert launch(home, "--date", third) == (2, f"{third}  {second} was not trained, exit code 2\n")
    assert launch(home, "--from", first, "--to", third)[0] == 0
    assert home.verdicts() == dict.fromkeys([first, second, third], True)


def test_a_planned_day_fails_and_the_same_command_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d08=[75, 3])
    codes = [launch(home, "--date", days(1)[0])[0] for _ in range(3)]
    assert codes == [75, 3, 3]
    assert home.verdicts() == {days(1)[0]: False}


def test_it_catches_up_from_the_first_open_day_since_the_champions(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d09=[3], d10=[4])
    first, second, third, fourth = days(4)
    assert launch(home, "--date", first, "--catch-up") == (0, f"{first}  promoted, exit code 0\n")
    assert launch(home, "--date", second)[0] == 3
    assert launch(home, "--date", fourth, "--catch-up")[0] == 4
    assert launch(home, "--date", fourth, "--catch-up")[0] == 0
    assert launch(home, "--date", fourth, "--catch-up") == (0, f"{fourth}  done before, exit code 0\n")
    assert [(day, code) for day, code, _ in home.starts()] == [
        *zip([first, second, third, third, fourth, fourth], [0, 3, 4, 0, 0, 0], strict=True)
    ]
    assert launch(home, "--from", first, "--to", fourth)[0] == 3, "the worst of all"


def test_a_second_start_meets_the_lease(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.output / "lease").mkdir()
    assert launch(home, "--date", days(1)[0])[0] == 75
    assert home.verdicts() == {}
