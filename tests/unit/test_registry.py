"""The registry: records that never change, one champion, lineage, rollback, and whose weights are kept."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline.records import Records
from pipeline.registry import Registry
from schemas.errors import InputError
from tests.models import STEP, a_model, champions

DAYS = [f"2026-01-{day:02d}" for day in range(1, 10)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path))


def weights(root: Path) -> list[str]:
    """Days whose weights lie there."""
    return sorted(path.parents[3].name for path in root.glob(f"days/*/challenger/checkpoints/{STEP}/__0_0.distcp"))


# ---- models


def test_a_model_is_read_as_it_was_registered(registry: Registry, tmp_path: Path) -> None:
    model = a_model(tmp_path, DAYS[0], None, skipped=["2025-12-31"], git=None, metrics={"a": {"auc": float("nan")}})
    registry.register(model)
    found = registry.model(DAYS[0])
    assert repr(found) == repr(model), "NaN is no reason"
    assert [m.name for m in registry.models()] == [DAYS[0]]


def test_the_same_again_is_nothing_and_another_of_the_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    model = a_model(tmp_path, DAYS[0], None, metrics={"a": {"auc": float("nan")}})
    registry.register(model)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    registry.register(model)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    with pytest.raises(
        InputError, match=rf"models/{DAYS[0]}\.json: another model has the name, with another days, git"
    ):
        registry.register(dataclasses.replace(model, git="other", days=[]))
    assert registry.model(DAYS[0]).git == "abc1234"


def test_a_model_that_is_not_there_is_told_with_those_that_are(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model '2026-01-01' is registered; there are none"):
        registry.model(DAYS[0])
    for name in ("2026-01-02.10", "2026-01-02.2", "2026-01-01"):
        registry.register(a_model(tmp_path, name))
    told = "there are 2026-01-01, 2026-01-02.2, 2026-01-02.10"
    for name in ("2026-01-03", "../models/2026-01-01", "", "."):
        with pytest.raises(InputError, match=re.escape(f"no model '{name}' is registered; {told}")):
            registry.model(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "2026-01-01."])
def test_a_name_that_is_no_file_name_is_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no model's name; write a day"):
        registry.register(dataclasses.replace(a_model(tmp_path, DAYS[0]), name=name))


def test_a_checkpoint_that_is_no_commit_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no commit of a training"):
        registry.register(a_model(tmp_path, DAYS[0], checkpoint=f"{tmp_path}/days"))


def test_a_root_may_be_moved_and_reached_by_another_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    registry = Registry("runs/ranker")
    champions(registry, "runs/ranker", DAYS[:2])
    outside = a_model(tmp_path / "elsewhere", DAYS[2], DAYS[1])
    registry.register(outside)
    shutil.move("runs/ranker", "moved")
    moved = Registry(f"{tmp_path}/moved/")
    assert moved.model(DAYS[0]).checkpoint == f"{tmp_path}/moved/days/{DAYS[0]}/challenger/checkpoints/{STEP}"
    assert moved.model(DAYS[0]).verdict == f"{tmp_path}/moved/days/{DAYS[0]}/verdict.json"
    assert moved.model(DAYS[2]) == outside
    assert moved.rollback(None, "they moved").model == DAYS[0]
    moved.register(a_model(tmp_path / "moved", DAYS[1], DAYS[0]))  # the same, as it is reached now


# ---- promotion


def test_the_highest_promotion_is_the_champion(registry: Registry, tmp_path: Path) -> None:
    assert (registry.champion(), registry.promotions(), registry.newest()) == (None, [], None)
    champions(registry, tmp_path, DAYS[:3])
    champion = registry.champion()
    assert champion is not None
    assert champion.name == DAYS[2]
    assert [(p.number, p.model, p.kind, p.before) for p in registry.promotions()] == [
        (1, DAYS[0], "promotion", None),
        (2, DAYS[1], "promotion", DAYS[0]),
        (3, DAYS[2], "promotion", DAYS[1]),
    ]


def test_the_same_promotion_again_is_nothing(registry: Registry, tmp_path: Path) -> None:
    """As after a crash between the promotion and the ledger's word of it, even where a person rolled back since."""
    champions(registry, tmp_path, DAYS[:2])
    made = registry.promotions()[1]
    assert registry.promote(DAYS[1], "again", expected=1) == made
    registry.rollback(None, "a person's")
    assert registry.promote(DAYS[1], "again", expected=1) == made
    assert len(registry.promotions()) == 3


def test_a_promotion_upon_another_champion_is_refused(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:2])
    for name in DAYS[2:4]:
        registry.register(a_model(tmp_path, name, DAYS[1]))
    registry.promote(DAYS[2], "first", expected=2)
    told = (
        rf"champion changed meanwhile: {DAYS[3]} was to follow promotion 2, and promotion 3 is {DAYS[2]} \(promotion, "
    )
    with pytest.raises(InputError, match=told):
        registry.promote(DAYS[3], "second", expected=2)
    with pytest.raises(InputError, match=r"was to follow no promotion, and promotion 1 is"):
        registry.promote(DAYS[3], "knows of none")
    with pytest.raises(InputError, match="promotion 9 is not there to build on; the last is 3"):
        registry.promote(DAYS[3], "knows of one too many", expected=9)
    with pytest.raises(InputError, match=rf"{DAYS[2]} is champion already \(promotion 3\)"):
        registry.promote(DAYS[2], "again", expected=3)
    with pytest.raises(InputError, match="no model '2026-01-09' is registered"):
        registry.promote(DAYS[8], "unknown", expected=3)
    assert len(registry.promotions()) == 3


def test_of_two_kinds_of_promotion_of_one_model_one_is_refused(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:2])
    registry.rollback(None, "a person's")
    with pytest.raises(InputError, match=r"promotion 3 is 2026-01-01 \(rollback, .*: a person's\)"):
        registry.promote(DAYS[0], "a job's", expected=2)


# ---- rollback


def test_rollbacks_one_after_another_go_further_back(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:4])
    assert [registry.rollback(None, "bad").model for _ in range(3)] == [DAYS[2], DAYS[1], DAYS[0]]
    with pytest.raises(InputError, match=f"{DAYS[0]} is the first champion; there is none before it"):
        registry.rollback(None, "bad")
    last = registry.promotions()[-1]
    assert (last.number, last.kind, last.because, last.before) == (7, "rollback", "bad", DAYS[1])
    registry.register(a_model(tmp_path, DAYS[4], DAYS[0]))
    registry.promote(DAYS[4], "the next day", expected=7)
    assert registry.rollback(None, "bad").model == DAYS[0], "to whom it was promoted over"


def test_a_rollback_to_a_name_and_forward_again(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:4])
    registry.register(a_model(tmp_path, DAYS[4], DAYS[3]))
    assert registry.rollback(DAYS[1], "bad since").model == DAYS[1]
    assert registry.rollback(DAYS[3], "it was not the model").model == DAYS[3]
    assert registry.rollback(None, "it was").model == DAYS[1]
    for name in (DAYS[4], DAYS[1], "nobody"):  # never champion, champion now, unknown
        with pytest.raises(
            InputError, match=rf"'{name}' is no earlier champion; those are {DAYS[3]}, {DAYS[2]}, {DAYS[0]}"
        ):
            registry.rollback(name, "bad")


def test_without_a_champion_there_is_no_way_back(registry: Registry) -> None:
    with pytest.raises(InputError, match="there is no champion yet"):
        registry.rollback(None, "bad")


def test_a_rollback_to_weights_that_are_not_whole_is_refused(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:3])
    commit = Path(registry.model(DAYS[1]).checkpoint)
    manifest, part = commit / "manifest.json", commit / "__0_0.distcp"
    content = manifest.read_bytes()
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=rf"model {DAYS[1]}: .*{STEP}/__0_0\.distcp is missing or cut short"):
        registry.rollback(None, "bad")
    part.unlink()
    with pytest.raises(InputError, match=r"__0_0\.distcp is missing or cut short"):
        registry.rollback(None, "bad")
    part.write_bytes(whole)
    manifest.write_bytes(content.replace(b"}", b" }", 1))
    with pytest.raises(InputError, match=r"manifest\.json is not as it was registered"):
        registry.rollback(None, "bad")
    manifest.unlink()
    with pytest.raises(InputError, match="is not there"):
        registry.rollback(None, "bad")
    assert len(registry.promotions()) == 3
    manifest.write_bytes(content)
    assert registry.rollback(None, "bad").model == DAYS[1]


# ---- lineage


def test_a_lineage_leads_to_the_first_model(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:2])
    registry.register(a_model(tmp_path, DAYS[4], DAYS[1], days=[DAYS[2], DAYS[4]], skipped=[DAYS[3]]))
    line = registry.lineage(DAYS[4])
    assert [(m.name, m.days, m.skipped) for m in line] == [
        (DAYS[4], [DAYS[2], DAYS[4]], [DAYS[3]]),
        (DAYS[1], [DAYS[1]], []),
        (DAYS[0], [DAYS[0]], []),
    ]


def test_a_lineage_with_a_gap_or_a_circle_is_told(registry: Registry, tmp_path: Path) -> None:
    registry.register(a_model(tmp_path, DAYS[1], DAYS[0]))
    with pytest.raises(InputError, match=f"no model '{DAYS[0]}' is registered"):
        registry.lineage(DAYS[1])
    registry.register(a_model(tmp_path, DAYS[0], DAYS[1]))
    with pytest.raises(InputError, match=f"its parent {DAYS[1]} descends from it"):
        registry.lineage(DAYS[1])


# ---- retention


def test_the_last_champions_and_challengers_keep_their_weights(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:4])
    for name in DAYS[4:8]:
        registry.register(a_model(tmp_path, name, DAYS[3]))
    assert registry.kept(2, 1) == {DAYS[3], DAYS[2], DAYS[7]}
    assert registry.kept(9, 9) == set(DAYS[:8])
    assert registry.retire(2, 1, spare={DAYS[0]}) == [DAYS[1], DAYS[4], DAYS[5], DAYS[6]]
    assert weights(tmp_path) == [DAYS[0], DAYS[2], DAYS[3], DAYS[7]]
    assert registry.retire(2, 1) == [DAYS[0]], "no longer spared"
    assert registry.retire(2, 1) == []
    assert [m.name for m in registry.models()] == DAYS[:8], "records stay"
    assert registry.removed() == {DAYS[0], DAYS[1], *DAYS[4:7]}
    assert (registry.has_weights(DAYS[0]), registry.has_weights(DAYS[2])) == (False, True)
    assert registry.retire(1, 0) == [DAYS[2], DAYS[7]]
    assert weights(tmp_path) == [DAYS[3]], "the champion stays in any case"
    with pytest.raises(InputError, match=rf"weights of {DAYS[2]} are removed .* of {DAYS[3]}$"):
        registry.rollback(None, "bad")
    with pytest.raises(InputError, match=f"weights of {DAYS[7]} are removed"):
        registry.promote(DAYS[7], "by hand", "manual", expected=4)


def test_a_champion_rolled_back_takes_no_others_place(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:4])
    registry.rollback(DAYS[1], "bad since")
    assert registry.kept(2, 0) == {DAYS[1], DAYS[3], DAYS[0]}, "the last two, and the two to roll back through"
    registry.retire(2, 0)
    assert registry.rollback(None, "worse").model == DAYS[0]


def test_a_checkpoint_that_a_kept_model_names_stays(registry: Registry, tmp_path: Path) -> None:
    """As where a model is registered under a second name."""
    champions(registry, tmp_path, DAYS[:3])
    twin = dataclasses.replace(registry.model(DAYS[0]), name="2026-01-01.2")
    registry.register(twin)
    assert registry.retire(1, 1) == [DAYS[0], DAYS[1]]
    assert weights(tmp_path) == [DAYS[0], DAYS[2]]


def test_older_commits_of_a_days_own_training_go_as_well_and_no_others(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:2])
    folder = Path(registry.model(DAYS[0]).checkpoint).parent
    shutil.copytree(folder / STEP, folder / "step-00000005-00000000")
    (folder / "notes").mkdir()
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    registry.register(a_model(elsewhere, DAYS[2], DAYS[1]))
    other = Path(registry.model(DAYS[2]).checkpoint).parent
    shutil.copytree(other / STEP, other / "step-00000005-00000000")
    assert registry.retire(1, 0) == [DAYS[0], DAYS[2]]
    assert [path.name for path in folder.iterdir()] == ["notes"]
    assert [path.name for path in other.iterdir()] == ["step-00000005-00000000"], "that folder is another job's"


def test_weights_that_are_gone_already_are_no_trouble(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:3])
    shutil.rmtree(tmp_path / "days" / DAYS[0])
    (Path(registry.model(DAYS[1]).checkpoint) / "manifest.json").unlink()
    assert registry.retire(1, 0) == DAYS[:2]
    assert weights(tmp_path) == [DAYS[2]]


# ---- records that are not whole


def promotion(root: Path, number: int) -> Path:
    return root / "registry" / "promotions" / f"{number:08d}.json"


def test_a_torn_promotion_is_named_and_is_never_no_champion(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:3])
    whole = promotion(tmp_path, 3).read_bytes()
    torn = [b"", whole[: len(whole) // 2], b"\x00" * len(whole), b"[]", b"null", b"{}", b'"x"', b"\xff\xfe"]
    for content in torn:
        promotion(tmp_path, 3).write_bytes(content)
        for act in (registry.champion, registry.promotions, lambda: registry.rollback(None, "bad")):
            with pytest.raises(
                InputError, match=r"promotions/00000003\.json: is no whole record \(\d+ bytes\); restore"
            ):
                act()
        with pytest.raises(InputError, match=r"00000003\.json: is no whole record"):
            registry.promote(DAYS[2], "again", expected=2)
    changed = [whole.replace(DAYS[2].encode(), DAYS[1].encode()), re.sub(rb'"sha256": "..', b'"sha256": "__', whole)]
    for content in changed:
        promotion(tmp_path, 3).write_bytes(content)
        with pytest.raises(InputError, match=r"promotions/00000003\.json: changed since it was written"):
            registry.champion()
    promotion(tmp_path, 3).write_bytes(json.dumps(json.loads(whole) | {"format": 2}).encode())
    with pytest.raises(InputError, match=r"written by another version of this program \(format 2, here 1\)"):
        registry.champion()


def test_a_missing_promotion_is_named(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:3])
    promotion(tmp_path, 2).unlink()
    for act in (registry.champion, registry.promotions):
        with pytest.raises(InputError, match=r"promotions/00000002\.json: is missing; restore it"):
            act()


def test_promotions_that_are_all_gone_are_not_taken_for_none(registry: Registry, tmp_path: Path) -> None:
    registry.register(a_model(tmp_path, DAYS[0]))
    assert registry.champion() is None, "a first model may have been refused"
    champions(registry, tmp_path, DAYS[1:3])
    shutil.rmtree(tmp_path / "registry" / "promotions")
    for act in (registry.champion, registry.promotions):
        with pytest.raises(
            InputError, match=r"promotions/00000001\.json: is missing, and 2026-01-03 began from champion"
        ):
            act()


def test_a_promotion_in_anothers_place_is_named(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:3])
    shutil.copy(promotion(tmp_path, 1), promotion(tmp_path, 3))
    with pytest.raises(InputError, match=r"00000003\.json: is the record of promotion 1"):
        registry.champion()


def test_promotions_that_do_not_follow_each_other_are_named(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:2])
    registry.register(a_model(tmp_path, DAYS[2], DAYS[1]))
    facts = {"number": 3, "model": DAYS[2], "kind": "promotion", "because": "", "at": "", "before": DAYS[0]}
    Records(f"{tmp_path}/registry/promotions").create("00000003", facts)
    with pytest.raises(InputError, match=rf"00000003\.json: follows {DAYS[0]}, and {DAYS[1]} was champion"):
        registry.promotions()


def test_a_file_that_is_no_promotion_is_named_and_a_draft_is_none(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:1])
    (tmp_path / "registry/promotions/.00000002.json.0123456789abcdef.draft").write_text("half")
    assert len(registry.promotions()) == 1
    (tmp_path / "registry/promotions/2.json").write_text("{}")
    with pytest.raises(InputError, match=r"promotions/2\.json: is no promotion; remove it"):
        registry.champion()


def test_a_torn_or_strange_model_is_named(registry: Registry, tmp_path: Path) -> None:
    champions(registry, tmp_path, DAYS[:2])
    folder = tmp_path / "registry" / "models"
    whole = (folder / f"{DAYS[1]}.json").read_bytes()
    (folder / f"{DAYS[1]}.json").write_bytes(whole[:50])
    for act in (registry.champion, registry.models, lambda: registry.retire(1, 0)):
        with pytest.raises(InputError, match=rf"models/{DAYS[1]}\.json: is no whole record \(50 bytes\)"):
            act()
    with pytest.raises(InputError, match="is no whole record"):
        registry.register(a_model(tmp_path, DAYS[1], DAYS[0]))
    (folder / f"{DAYS[1]}.json").unlink()
    with pytest.raises(InputError, match=f"no model '{DAYS[1]}' is registered; there are {DAYS[0]}"):
        registry.champion()
    shutil.copy(folder / f"{DAYS[0]}.json", folder / f"{DAYS[1]}.json")
    with pytest.raises(InputError, match=rf"models/{DAYS[1]}\.json: is the record of {DAYS[0]}"):
        registry.champion()


def test_a_record_with_a_field_of_another_type_is_named(registry: Registry, tmp_path: Path) -> None:
    Records(f"{tmp_path}/registry/models").create("2026-01-01", {"name": "2026-01-01", "checkpoint": 7})
    with pytest.raises(InputError, match=r"models/2026-01-01\.json: checkpoint: Input should be a valid string"):
        registry.models()


def test_a_folder_that_may_not_be_read_is_no_empty_registry(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions(registry, tmp_path, DAYS[:1])

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(registry._promotions.fs, "ls", refused)
    with pytest.raises(InputError, match=r"registry/promotions: cannot be read \(.*Permission denied\)"):
        registry.champion()
