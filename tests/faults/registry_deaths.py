"""Kills a change of the registry at each of its system calls, and races processes for one promotion, on a local disk.

    python -m tests.faults.registry_deaths kill FOLDER     each act, at each of its points
    python -m tests.faults.registry_deaths race ROOT 10    so many processes promote a model each; ROOT may be on S3

Prints acts and their points, or who won; AssertionError at the first thing that does not hold. In a process of its own:
it forks, which needs one without threads.
"""

import datetime
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.daily.ledger import Ledger
from pipeline.registry import Registry
from schemas.errors import InputError
from tests.faults.system_calls import deaths
from tests.models import STEP, a_model, champions

DAYS = [f"2026-01-{day:02d}" for day in range(1, 14)]


def kill(act: str, folder: Path) -> int:
    """Points at which it was killed; the same act again comes to the end it would have come to."""
    template, root = folder / "template", folder / "root"
    registry = Registry(str(root))
    champions(Registry(str(template)), template, DAYS[:3])
    if act != "register":
        Registry(str(template)).register(rooted(template, root, DAYS[3]))

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    points = 0
    for point in deaths(lambda: ACTS[act](registry, root), prepare):
        points = point
        between(registry, act)
        ACTS[act](registry, root)
        after(registry, root, act)
    after(registry, root, act)
    return points


def rooted(where: Path, root: Path, name: str) -> Any:
    """A model whose files are below `where`."""
    return a_model(where, name, DAYS[2])


ACTS: dict[str, Callable[[Registry, Path], Any]] = {
    "register": lambda registry, root: registry.register(rooted(root, root, DAYS[3])),
    "promote": lambda registry, root: registry.promote(DAYS[3], "blessed", expected=3),
    "rollback": lambda registry, root: rolled_back(registry),
    "retire": lambda registry, root: registry.retire(2, 1),
    "commit": lambda registry, root: Ledger(str(root), datetime.date(2026, 1, 4)).commit("wait", {"rows": 7}),
}


def rolled_back(registry: Registry) -> None:
    """As a person does, who looks before trying again."""
    if len(registry.promotions()) == 3:
        registry.rollback(None, "bad")


def between(registry: Registry, act: str) -> None:
    """Exactly one champion, whole, whatever was cut short."""
    champion, promotions = registry.champion(), registry.promotions()
    assert champion is not None
    assert champion.name == promotions[-1].model
    assert champion.name in {DAYS[2], {"promote": DAYS[3], "rollback": DAYS[1]}.get(act, "")}
    assert [promotion.number for promotion in promotions] in ([1, 2, 3], [1, 2, 3, 4])
    assert [model.name for model in registry.models()] in (DAYS[:3], DAYS[:4])
    commit = Path(champion.checkpoint)
    assert {path.name for path in commit.iterdir()} == {"manifest.json", "__0_0.distcp"}


def after(registry: Registry, root: Path, act: str) -> None:
    """As if it had not been killed."""
    between(registry, act)
    champion = registry.champion()
    assert champion is not None
    assert champion.name == {"promote": DAYS[3], "rollback": DAYS[1]}.get(act, DAYS[2])
    assert len(registry.promotions()) == (4 if act in ("promote", "rollback") else 3)
    assert [model.name for model in registry.models()] == DAYS[:4]
    there = sorted(path.parents[3].name for path in root.glob(f"days/*/challenger/checkpoints/{STEP}/*"))
    assert there == sorted((DAYS[1:4] if act == "retire" else DAYS[:4]) * 2)
    if act == "commit":
        assert Ledger(str(root), datetime.date(2026, 1, 4)).done()["wait"]["rows"] == 7


def race(root: str, racers: int) -> str:
    """The model that became champion, of as many processes' as there are racers."""
    names = DAYS[1 : racers + 1]
    # nothing of the driver may run before the fork: the parent prepares in a process of its own
    in_child(lambda: prepare_race(root, names))
    ready, go = os.pipe(), os.pipe()
    children = {}
    for name in names:
        child = os.fork()
        if child == 0:
            os.close(go[1])
            registry = Registry(root)
            registry.champion()  # connections are open
            os.write(ready[1], b".")
            os.read(go[0], 1)  # until the parent closes its end
            try:
                registry.promote(name, f"of {name}", expected=1)
            except InputError as error:
                os._exit(3 if "champion changed meanwhile" in str(error) else 4)
            except BaseException:
                os._exit(5)
            os._exit(0)
        children[child] = name
    waiting = 0
    while waiting < len(names):
        waiting += len(os.read(ready[0], len(names)))
    os.close(go[1])
    codes = {children[child]: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    won = [name for name, code in codes.items() if code == 0]
    assert len(won) == 1, codes
    assert sorted(codes.values()) == [0] + [3] * (len(names) - 1), codes
    in_child(lambda: check_race(root, won[0]))
    return won[0]


def prepare_race(root: str, names: list[str]) -> None:
    """A champion, and a model for each racer."""
    registry = Registry(root)
    champions(registry, root, DAYS[:1])
    for name in names:
        registry.register(a_model(root, name, DAYS[0]))


def check_race(root: str, winner: str) -> None:
    """One promotion, the winner's."""
    promotions = Registry(root).promotions()
    assert [(p.number, p.model, p.because) for p in promotions[1:]] == [(2, winner, f"of {winner}")]


def in_child(act: Callable[[], None]) -> None:
    """In a fork that ends with it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    if sys.argv[1] == "race":
        print(race(sys.argv[2], int(sys.argv[3])))
    else:
        print(json.dumps({act: kill(act, Path(sys.argv[2]) / act) for act in ACTS}))
