"""Every difference of structure is named, nothing else is, and what cannot be migrated is refused by name."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.train.migrate_structure import check_structure
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import set_key, small_config

Edit = Callable[[dict[str, Any]], object]
ADDED: dict[str, tuple[Edit, list[str]]] = {
    "feature with a new table": (
        lambda c: (
            c["features"].append({"name": "device", "kind": "string"}),
            c["tables"].update(device={"rows": 9, "dim": 4}),
        ),
        ["tables.device", "features.device"],
    ),
    "feature of an old table": (
        lambda c: c["features"].append({"name": "seen", "kind": "ids", "table": "item"}),
        ["features.seen"],
    ),
    "number": (lambda c: c["features"].append({"name": "hour", "kind": "float"}), ["features.hour"]),
    "removed feature": (lambda c: c["features"].pop(4), ["features.recent"]),
    "removed feature and table": (
        lambda c: (c["features"].pop(5), c["tables"].pop("city")),
        ["tables.city", "features.city"],
    ),
    "rows": (lambda c: set_key(c, "tables.item.rows", 41), ["tables.item.rows"]),
    "rows of a bucketed table": (lambda c: set_key(c, "tables.price_bucket.rows", 7), ["tables.price_bucket.rows"]),
    "dim": (lambda c: set_key(c, "tables.city.dim", 12), ["tables.city.dim"]),
    "rows and dim": (
        lambda c: set_key(c, "tables.user", {"rows": 60, "dim": 16}),
        ["tables.user.dim", "tables.user.rows"],
    ),
    "task": (lambda c: c["tasks"].append({"name": "share", "given": "click"}), ["tasks.share"]),
    "removed task": (lambda c: c["tasks"].pop(2), ["tasks.fav"]),
    "column": (lambda c: set_key(c, "features.user.column", "uid"), ["features.user.column"]),
    "weights' column": (lambda c: set_key(c, "features.history.weights", "w"), ["features.history.weights"]),
    "label": (lambda c: set_key(c, "tasks.fav.label", "favourite"), ["tasks.fav.label"]),
    "indicator": (lambda c: set_key(c, "tasks.fav.indicator", "seen"), ["tasks.fav.indicator"]),
    "space": (lambda c: set_key(c, "tasks.fav.space", "entire"), ["tasks.fav.space"]),
    "the job's space": (
        lambda c: c.update(space="naive"),
        ["tasks.cart.space", "tasks.fav.space", "tasks.order.space"],
    ),
    "missing": (lambda c: set_key(c, "features.price.missing", 0.0), ["features.price.missing"]),
}
FREE: dict[str, tuple[str, Any]] = {
    "seed": ("seed", 7),
    "days": ("data.train", {"from": "2026-01-05", "to": "2026-01-06"}),
    "batch": ("train.batch_size", 64),
    "dense rate": ("dense_optimizer", {"lr": 0.5}),
    "table rate": ("embedding_optimizer", {"lr": 0.5, "eps": 0.1}),
    "plan": ("tables.user.sharding", "row_wise"),
    "first values": ("tables.user.init_scale", 0.5),
    "weight": ("tasks.cart.weight", 3),
    "sample weight": ("tasks.cart.sample_weight", "price"),
    "space spelt out": ("tasks.cart.space", "conditional"),
    "a root's space": ("tasks.click.space", "naive"),
    "decay": ("tasks.cart.decay", 0.5),
    "dropout": ("model.dropout", 0.5),
    "precision": ("train.precision", "bf16"),
    "column spelt out": ("features.city.column", "city"),
    "table spelt out": ("features.city.table", "city"),
    "label spelt out": ("tasks.fav.label", "fav"),
    "experts spelt out": ("model.task_experts", {"click": 1, "cart": 1, "fav": 1, "order": 1}),
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "arch": ({"model": {"arch": "cgc"}}, "model.arch", "no place in the other network"),
    "experts": ({"model.expert_layers": [16]}, "model.expert_layers", "no place in the other network"),
    "towers": ({"model.tower_layers": []}, "model.tower_layers", "no place in the other network"),
    "number of experts": ({"model.task_experts": 2}, "model.task_experts", "no place in the other network"),
    "shared experts": ({"model.shared_experts": 2}, "model.shared_experts", "no place in the other network"),
    "levels": ({"model.levels": 1}, "model.levels", "no place in the other network"),
    "norm": ({"model.norm": "layer"}, "model.norm", "no place in the other network"),
    "activation": ({"model.activation": "gelu"}, "model.activation", "no place in the other network"),
    "optimizer": ({"embedding_optimizer": {"name": "adagrad"}}, "embedding_optimizer.name", "optimizer: false"),
    "kind": ({"features.user.kind": "string"}, "features.user.kind", "under another name"),
    "hash": ({"features.user.hash": True}, "features.user.hash", "under another name"),
    "pooling": ({"features.recent.pooling": "mean"}, "features.recent.pooling", "under another name"),
    "weights": ({"features.history.weights": ...}, "features.history.weights", "under another name"),
    "boundary": ({"features.price_bucket.boundaries": [10, 20, 40, 81]}, "features.price_bucket.boundaries", "another"),
    "scale": ({"features.age.mean": 46}, "features.age.mean", "under another name"),
    "transform": ({"features.price.transform": "none"}, "features.price.transform", "under another name"),
    "other table": ({"features.recent.table": "user"}, "features.recent.table", "under another name"),
    "shrunk": ({"tables.item.rows": 39}, "tables.item.rows", "a table never shrinks"),
    "narrower": ({"tables.item.dim": 8}, "tables.item.dim", "a table never shrinks"),
    "rows under hashed ids": ({"tables.session.rows": 31}, "tables.session.rows", "every id of session would move"),
    "rows under strings": ({"tables.city.rows": 21}, "tables.city.rows", "every id of city would move"),
    "a number": ({"tasks.order.kind": "regression"}, "tasks.order.kind", "under another name"),
    "parent": ({"tasks.order.given": "cart"}, "tasks.order.given", "under another name"),
}


def saved() -> dict[str, Any]:
    """The configuration as a checkpoint holds it."""
    return parse_job(small_config("log", "out"), "test").model_dump(mode="json", by_alias=True)


def job(edit: Edit, changes: list[str], optimizer: bool = True) -> JobConfig:
    config = copy.deepcopy(small_config("log", "other"))
    edit(config)
    config["warm_start"] = {"checkpoint": "out/checkpoints", "changes": changes, "optimizer": optimizer}
    return parse_job(config, "test")


def edited(keys: dict[str, Any]) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        for key, value in keys.items():
            set_key(config, key, value)

    return edit


@pytest.mark.parametrize("case", ADDED)
def test_a_named_difference_is_taken_an_unnamed_one_refused_with_the_line_to_write(case: str) -> None:
    edit, names = ADDED[case]
    assert [d.name for d in check_structure(saved(), job(edit, names[::-1]), {}, "CHECKPOINT")] == names
    with pytest.raises(InputError, match="does not fit CHECKPOINT") as told:
        check_structure(saved(), job(edit, []), {}, "CHECKPOINT")
    assert f"\n  changes: [{', '.join(names)}]" in str(told.value)
    written = re.findall(r"changes: \[(.*)\]", str(told.value))[0].split(", ")
    assert check_structure(saved(), job(edit, written), {}, "CHECKPOINT"), "the line that it says to write is taken"


@pytest.mark.parametrize("case", FREE)
def test_what_is_no_structure_changes_freely(case: str) -> None:
    assert check_structure(saved(), job(edited(dict([FREE[case]])), []), {}, "CHECKPOINT") == []


def test_the_order_of_features_and_tasks_is_no_structure() -> None:
    def turn(config: dict[str, Any]) -> None:
        config["features"].reverse()
        config["tasks"].reverse()
        config["tables"] = dict(reversed(config["tables"].items()))

    assert check_structure(saved(), job(turn, []), {}, "CHECKPOINT") == []


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_migrated_is_refused_by_name_even_where_it_is_named(case: str) -> None:
    keys, name, why = REFUSED[case]
    for changes in ([], [name] if name.split(".")[0] in ("tables", "features", "tasks") else []):
        with pytest.raises(InputError, match="cannot be migrated") as told:
            check_structure(saved(), job(edited(keys), changes), {}, "CHECKPOINT")
        assert re.search(rf"\n  {re.escape(name)}: .*{re.escape(why)}", str(told.value)), told.value


def test_a_stale_name_hides_nothing() -> None:
    edit, names = ADDED["task"]
    with pytest.raises(InputError, match=r"did not change:\n  tasks.fav: did you mean 'tasks.share'\?") as told:
        check_structure(saved(), job(edit, ["tasks.fav", *names]), {}, "CHECKPOINT")
    assert "changes: [tasks.share]" in str(told.value)
    with pytest.raises(InputError, match=r"tables\.user\.rows: nothing did"):
        check_structure(saved(), job(lambda c: None, ["tables.user.rows"]), {}, "CHECKPOINT")


def test_weights_alone_may_go_to_another_optimizer() -> None:
    edit = edited({"embedding_optimizer": {"name": "adagrad"}})
    assert check_structure(saved(), job(edit, [], optimizer=False), {}, "CHECKPOINT") == []


def test_rows_may_grow_under_a_hash_that_comes_new() -> None:
    def edit(config: dict[str, Any]) -> None:
        set_key(config, "tables.item.rows", 50)
        config["features"].append({"name": "brand", "kind": "string", "table": "item"})

    names = ["tables.item.rows", "features.brand"]
    assert [d.name for d in check_structure(saved(), job(edit, names), {}, "CHECKPOINT")] == names


def test_a_vocabulary_of_other_values_is_refused() -> None:
    old = saved() | {"vocabularies": {"city": "one"}}
    assert check_structure(old, job(lambda c: None, []), {"city": "one"}, "CHECKPOINT") == []
    with pytest.raises(InputError, match=r"features.city.vocabulary: other values; its rows would change"):
        check_structure(old, job(lambda c: None, []), {"city": "two"}, "CHECKPOINT")


def test_more_values_behind_the_old_ones_need_no_name(tmp_path: Path) -> None:
    values = ["Oslo", "Lima", "Graz"]

    def held(name: str, values: list[str]) -> Edit:
        pq.write_table(pa.table({"value": values}), tmp_path / name)
        return lambda c: set_key(c, "features.city.vocabulary", str(tmp_path / name))

    before = job(held("old", values), [])
    old = before.model_dump(mode="json", by_alias=True) | {"vocabularies": fingerprints(before)}
    more = held("new", [*values, "Porto", "Rome"])
    for changes in ([], ["features.city.vocabulary"]):
        new = job(more, changes)
        (found,) = check_structure(old, new, fingerprints(new), "CHECKPOINT")
        assert (found.name, found.what) == ("features.city.vocabulary", "extended by 2 values, 3 -> 5")
    both = job(lambda c: (more(c), set_key(c, "tables.city.rows", 30)), [])
    with pytest.raises(InputError, match=r"\n  changes: \[tables\.city\.rows\]$"):
        check_structure(old, both, fingerprints(both), "CHECKPOINT")

    for name, other in {"turned": ["Lima", "Oslo", "Graz", "Porto"], "shorter": values[:2]}.items():
        new = job(held(name, other), ["features.city.vocabulary"])
        with pytest.raises(InputError) as told:
            check_structure(old, new, fingerprints(new), "CHECKPOINT")
        said = (
            f"features.city.vocabulary: other values (3 -> {len(other)}); its rows would change their meaning; restore"
        )
        assert said in str(told.value)
        assert "--write NEW --extend OLD" in str(told.value)


def test_an_older_versions_vocabulary_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"value": ["Oslo"]}), tmp_path / "v")
    new = job(lambda c: set_key(c, "features.city.vocabulary", str(tmp_path / "v")), [])
    now = fingerprints(new)
    old = new.model_dump(mode="json", by_alias=True) | {"vocabularies": {"city": now["city"].split(":")[1]}}
    assert check_structure(old, new, now, "CHECKPOINT") == []
    pq.write_table(pa.table({"value": ["Oslo", "Lima"]}), tmp_path / "w")
    new = job(lambda c: set_key(c, "features.city.vocabulary", str(tmp_path / "w")), [])
    with pytest.raises(InputError, match=r"other values; .* an older version saved the checkpoint and did not say how"):
        check_structure(old, new, fingerprints(new), "CHECKPOINT")


def test_a_setting_nobody_declared_free_is_structure() -> None:
    """What later versions add is refused until somebody says how it migrates."""
    from pydantic import create_model

    from pipeline.train import migrate_structure
    from schemas.features import TableSpec

    later = create_model("Later", __base__=TableSpec, eviction=(str, "none"))
    old, new = (job(lambda c: None, []).model_copy() for _ in range(2))
    old = old.model_copy(update={"tables": {**old.tables, "user": later(rows=50, dim=8)}})
    new = new.model_copy(update={"tables": {**new.tables, "user": later(rows=50, dim=8, eviction="lru")}})
    (found,) = migrate_structure.differences(old, new, {}, {})
    assert (found.name, bool(found.refused)) == ("tables.user.eviction", True)


def test_a_configuration_of_another_version_is_one_message() -> None:
    old = saved()
    old["tables"]["user"]["eviction"] = "lru"
    with pytest.raises(InputError, match="saved by another version of this program"):
        check_structure(old, job(lambda c: None, []), {}, "CHECKPOINT")


def test_what_is_free_is_not_asked_of_the_old_configuration() -> None:
    old = saved() | {"train": {"a setting": "of long ago"}, "tracking": None}
    assert check_structure(old, job(lambda c: None, []), {}, "CHECKPOINT") == []


@pytest.mark.parametrize("name", ["model.arch", "features", "country", "tables.user.rows.more"])
def test_changes_takes_names_of_the_structure_alone(name: str) -> None:
    with pytest.raises(InputError, match=r"warm_start.changes"):
        job(lambda c: None, [name])
    with pytest.raises(InputError, match=r"tasks\.fav named twice"):
        job(lambda c: None, ["tasks.fav", "tasks.fav"])
