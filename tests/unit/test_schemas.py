"""The YAML's models: what is refused, where the complaint points, and the JSON Schema made of them."""

import copy
import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig, json_schema
from schemas.load import load_job, parse_job
from tests.logs import set_key, small_config, small_job, write_config

GENERATED = Path(__file__).parents[2] / "jobs/configs/generated.yaml"


def refusal(changes: dict[str, Any]) -> str:
    """What is said of the small job with these changes, without the file's name."""
    with pytest.raises(InputError) as caught:
        small_job("log", changes=changes)
    return "\n".join(line.removeprefix("small.yaml: ") for line in str(caught.value).split("\n"))


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(write_config(tmp_path / "job.yaml", small_config("log", "out")))


def test_the_small_job_and_its_order_of_columns() -> None:
    job = small_job("log")
    assert [f.name for f in job.embedded] == ["user", "item", "session", "history", "recent", "city", "price_bucket"]
    assert [f.name for f in job.dense] == ["price", "age"]
    assert job.parents == [None, 0, 0, 0]
    assert job.weighted_ids
    assert job.columns == [
        *("user_id", "item_id", "session", "history", "history_weight", "recent", "city", "price", "age"),
        *("click", "cart", "fav", "order"),
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("trian", "unknown key 'trian'; did you mean 'train'?"),
        ("train.batchsize", "train: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("data.train.form", "data.train: unknown key 'form'; did you mean 'from'?"),
        ("features.user.tabel", "features.user: unknown key 'tabel'; did you mean 'table'?"),
        ("features.age.sdt", "features.age: unknown key 'sdt'; did you mean 'std'?"),
        ("tasks.cart.wieght", "tasks.cart: unknown key 'wieght'; did you mean 'weight'?"),
        ("tables.user.shardin", "tables.user: unknown key 'shardin'; did you mean 'sharding'?"),
        ("model.expert_layer", "model: unknown key 'expert_layer'; did you mean 'expert_layers'?"),
        ("tables.user.zzz", "tables.user: unknown key 'zzz'; known: rows, dim, sharding, init_scale"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, message: str) -> None:
    assert refusal({key: 1}) == message


def test_every_unknown_key_is_named() -> None:
    said = refusal({"train.batchsize": 1, "train.epoch": 1, "tasks.cart.wieght": 1})
    assert said.split("\n") == [
        "tasks.cart: unknown key 'wieght'; did you mean 'weight'?",
        "train: unknown key 'batchsize'; did you mean 'batch_size'?; unknown key 'epoch'; did you mean 'epochs'?",
    ]


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"train.batch_size": "many"}, "train.batch_size: Input should be a valid integer"),
        ({"train.batch_size": 0}, "train.batch_size: Input should be greater than or equal to 1 (given: 0)"),
        ({"train.batch_size": 1.5}, "train.batch_size: Input should be a valid integer"),
        ({"features.price_bucket.boundaries": [1, "x"]}, "features.price_bucket.boundaries.1: Input should be a valid"),
        ({"features.user.missing": "never"}, "features.user.missing: Input should be 'error' or 'unknown'"),
        ({"features.user.kind": "idd"}, "features.user.kind: Input should be one of 'id', 'ids', 'string', 'float'"),
        ({"features.user.kind": ...}, "features.user.kind: Field required"),
        ({"features.user.name": "9"}, "features.9.name: String should match pattern"),
        ({"tasks.cart.decay": 2}, "tasks.cart.decay: Input should be less than or equal to 1 (given: 2)"),
        ({"tables.user": None}, "tables.user: Input should be a valid dictionary"),
        ({"tables.user.dim": 6}, "tables.user.dim: Input should be a multiple of 4 (given: 6)"),
        ({"tables.user.rows": ...}, "tables.user.rows: Field required"),
        ({"tables.user.sharding": "diagonal"}, "tables.user.sharding: Input should be 'auto', 'table_wise',"),
        ({"model": "ple"}, "model: Input should be a valid dictionary"),
        ({"model.arch": "plee"}, "model.arch: Input should be one of 'single_task', 'shared_bottom', 'asymmetric', "),
        ({"model": {}}, "model.arch: Field required"),
        ({"data.train.from": "soon"}, "data.train.from: Input should be a valid date"),
        ({"data.train.to": ...}, "data.train.to: Field required"),
        ({"data.train.to": "2025-12-31"}, "data.train: 'to' (2025-12-31) lies before 'from' (2026-01-01); swap them"),
        (
            {"data.funnel": "ignore"},
            "data.funnel: Input should be 'error', 'drop', 'promote' or 'quarantine' (given: 'ignore')",
        ),
        ({"features": []}, "features: List should have at least 1 item"),
        ({"tasks": []}, "tasks: List should have at least 1 item"),
        ({"name": "a b"}, "name: String should match pattern"),
        ({"name": ...}, "name: Field required"),
        ({"dense_optimizer": {"betas": [0.9, 1]}}, "dense_optimizer.betas.1: Input should be less than 1 (given: 1)"),
    ],
)
def test_a_wrong_value_is_named_where_the_user_wrote_it(changes: dict[str, Any], start: str) -> None:
    said = refusal(changes)
    assert said.startswith(start)
    assert "\n" not in said


@pytest.mark.parametrize(
    "key",
    [
        "embedding_optimizer.lr",
        "tasks.cart.weight",
        "features.price.missing",
        "features.age.mean",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(key: str, value: float) -> None:
    said = refusal({"embedding_optimizer": {}, key: value})
    assert said.startswith(f"{key}: Input should be a finite number")


def test_several_mistakes_are_told_together() -> None:
    said = refusal({"train.batch_size": "many", "tables.user.dim": 6, "seed": -1})
    assert [line.partition(":")[0] for line in said.split("\n")] == ["seed", "tables.user.dim", "train.batch_size"]


@pytest.mark.parametrize(
    ("given", "chain"),
    [
        ({"click": "click"}, "click <- click"),
        ({"click": "order"}, "click <- order <- click"),
        ({"click": "fav", "fav": "cart", "cart": "click", "order": None}, "click <- cart <- fav <- click"),
        ({"cart": "fav", "fav": "cart"}, "cart <- fav <- cart"),  # a circle that the roots do not reach
    ],
)
def test_a_circle_of_given_is_refused(given: dict[str, str | None], chain: str) -> None:
    said = refusal({f"tasks.{task}.given": parent for task, parent in given.items()})
    assert "runs in a circle" in said
    members = chain.split(" <- ")
    found = re.search(r"circle: ([\w <-]+);", said)
    assert found is not None
    assert found[1] in {" <- ".join([*members[i:-1], *members[:i], members[i]]) for i in range(len(members) - 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks.cart.given": "clck"}, "tasks.cart.given: no task 'clck'; did you mean 'click'?"),
        ({"tasks.order.name": "cart"}, "tasks: 'cart' is declared 2 times; rename one"),
        ({"tasks.order.label": "fav"}, "tasks.fav: label column 'fav' belongs to another task as well"),
        ({"features.item.name": "user"}, "features: 'user' is declared 2 times; rename one"),
        ({"features.user.column": "cart"}, "features.user: column 'cart' is the label of task 'cart'; a label as"),
        ({"features.age.column": "fav"}, "features.age: column 'fav' is the label of task 'fav'; a label as"),
        ({"features.history.weights": "order"}, "features.history: column 'order' is the label of task 'order'; a"),
        ({"features.user.column": "dt"}, "features.user: 'dt' is the partition key, not a column"),
        ({"features.user.table": "usr"}, "features.user: no table 'usr'; did you mean 'user'?"),
        ({"tables.city": ...}, "features.city: no table 'city'; "),
        ({"tables.spare": {"rows": 3, "dim": 4}}, "tables.spare: no feature points into it; remove it or name it"),
        (
            {"tables.price_bucket.rows": 4},
            "tables.price_bucket.rows: 4 rows for the 5 buckets of",
        ),
        ({"features.price_bucket.boundaries": [1, 1]}, "features.price_bucket: boundaries must rise strictly"),
        ({"features.price_bucket.boundaries": [2, 1]}, "features.price_bucket: boundaries must rise strictly"),
        ({"features.age.std": ...}, "features.age: transform 'standardize' needs both 'mean' and 'std'"),
        ({"features.price.mean": 3}, "features.price: 'mean' and 'std' belong to transform 'standardize', not 'log1p'"),
        (
            {"tables.user.dim": 4, "tables.user.sharding": "column_wise"},
            "tables.user: dim 4 cannot be cut column-wise; use 8 or more",
        ),
        (
            {"tables.user.sharding": "data_parallel", "embedding_optimizer": {"name": "adam"}},
            "tables.user.sharding: a data_parallel table under 'adam' would be trained by another rule",
        ),
        ({"model.task_experts": {"clik": 1}}, "model.task_experts: no task 'clik'; did you mean 'click'?"),
        (
            {"model.task_experts": {"click": 1, "cart": 1, "fav": 1}},
            "model.task_experts: task 'order' is missing",
        ),
        (
            {"model.task_experts": 0, "model.shared_experts": 0},
            "model: task 'click' has neither own nor shared",
        ),
        (
            {"model.task_experts": {"click": 1, "cart": -1, "fav": 1, "order": 1}},
            "model.task_experts.cart: Input should be greater than or equal to 0 (given: -1)",
        ),
        ({"model.task_experts": "two"}, "model.task_experts: Input should be a valid integer"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    said = refusal(changes)
    assert said.startswith(message)
    assert "\n" not in said


def test_floats_alone_have_nothing_to_shard() -> None:
    said = refusal({"features": [{"name": "age", "kind": "float"}], "tables": {}})
    assert said.startswith("features: at least one must have a table")


@pytest.mark.parametrize(
    "changes",
    [
        {"tables.user.dim": 8, "tables.user.sharding": "column_wise"},
        {"tables.user.sharding": "data_parallel", "embedding_optimizer": {"name": "adagrad"}},
        {"embedding_optimizer": {"name": "adam"}},
        {"tables.price_bucket.rows": 5},
        {"model.task_experts": 0},
    ],
)
def test_the_neighbours_of_a_refusal_are_accepted(changes: dict[str, Any]) -> None:
    assert small_job("log", changes=changes).name == "small"


def test_experts_by_task_come_in_the_order_of_the_tasks() -> None:
    for told, experts in (({"order": 4, "fav": 3, "cart": 0, "click": 1}, [1, 0, 3, 4]), (3, [3, 3, 3, 3])):
        job = small_job("log", changes={"model.task_experts": told})
        assert job.model.arguments([task.name for task in job.tasks])["task_experts"] == experts


def test_a_day_range_has_both_its_ends() -> None:
    days = DayRange.model_validate({"from": "2026-02-27", "to": datetime.date(2026, 3, 1)}).days()
    assert [str(day) for day in days] == ["2026-02-27", "2026-02-28", "2026-03-01"]


def test_overrides_are_typed_by_the_models(config: str) -> None:
    job = load_job(
        config,
        [
            *("tasks.cart.weight=2", "tables.user.dim=16", "data.eval=null", "train.resume=false", "train.max_steps=7"),
            *("features.price.transform=none", "model.tower_layers=[8, 4]", "dense_optimizer.lr=1e-2", "output=a=b"),
            *("data.train={from: 2026-01-02, to: 2026-01-02}", "data.train.from=2026-01-01"),
        ],
    )
    weight = next(task.weight for task in job.tasks if task.name == "cart")
    assert (weight, type(weight)) == (2.0, float)
    assert job.tables["user"].dim == 16
    assert job.data.eval is None
    assert (job.train.resume, job.train.max_steps) == (False, 7)
    assert next(f.transform for f in job.dense if f.name == "price") == "none"
    assert job.model.tower_layers == [8, 4]
    assert job.dense_optimizer.lr == 0.01
    assert job.output == "a=b"
    assert (str(job.data.train.first), str(job.data.train.last)) == ("2026-01-01", "2026-01-02")
    assert load_job(config).data.eval is not None


def test_a_later_override_wins_and_an_index_means_its_own_entry(config: str) -> None:
    job = load_job(config, ["model.expert_layers=[8, 8, 8]", "model.expert_layers.1=16", "seed=1", "seed=2"])
    assert job.model.expert_layers == [8, 16, 8]
    assert job.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=abc", "train.batch_size: Input should be a valid integer"),
        ("trian.batch_size=3", "unknown key 'trian'; did you mean 'train'?"),
        ("train.batchsize=3", "train: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("tables.user=null", "tables.user: Input should be a valid dictionary"),
        ("tasks.carrt.weight=2", "tasks.carrt: no entry 'carrt'; there are click, cart, fav, order"),
        ("tasks.carrt={}", "tasks.carrt: no entry 'carrt'; there are click, cart, fav, order"),
        ("model.tower_layers.5=3", "model.tower_layers.5: no entry '5'; there are 0"),
        ("name.x=3", "name.x: 'name' is a value, not a group of settings"),
        ("name.x.y=3", "name.x: its parent is a value, not a group of settings"),
        ("train.batch_size", "'train.batch_size' is no override; write key=value"),
        ("=3", "'=3' is no override; write key=value"),
        ("train.batch_size=[1", "'train.batch_size=[1': the value is not valid YAML"),
        ("train.=3", "train: unknown key ''; known: batch_size"),
    ],
)
def test_a_bad_override_is_named(config: str, override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_job(config, [override])
    assert str(caught.value).removeprefix(f"{config}: ").startswith(message)


def test_the_message_starts_with_the_file(config: str) -> None:
    with pytest.raises(InputError) as caught:
        load_job(config, ["seed=-1", "name=a b"])
    assert [line.startswith(f"{config}: ") for line in str(caught.value).split("\n")] == [True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: a\nseed: 1\nname: b\n", "line 3: key 'name' is given twice; keep one"),
        (b"train:\n  epochs: 1\n  epochs: 2\n", "line 3: key 'epochs' is given twice; keep one"),
        (b"tasks: [{name: a, name: b}]\n", "line 1: key 'name' is given twice; keep one"),
        (b"a: [1", "not valid YAML: "),
        (b"a: b: c", "not valid YAML: "),
        (b"\t- a", "not valid YAML: "),
        (b"a: !!python/object:os.path {}", "not valid YAML: "),
        (b"? [a, b]\n: 1\n", "not valid YAML: "),
        (b"a: \x00", "not valid YAML: "),
        (b"\xff\xfe\x00", "not UTF-8 text; name a YAML file"),
        (b"", "holds NoneType, not a mapping of settings"),
        (b"[1, 2]", "holds list, not a mapping of settings"),
        (b"a word", "holds str, not a mapping of settings"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        load_job(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: cannot be read \(.*\); name a YAML file$"):
            load_job(str(path))


def test_yaml_anchors_and_merges_work_and_stay_apart(tmp_path: Path) -> None:
    config = small_config("log", "out")
    config.pop("tables")
    tables = """
tables:
  user: &small {rows: 50, dim: 8}
  city: *small
  session: {<<: *small, rows: 30}
  item: {<<: *small, dim: 16}
  price_bucket: *small
"""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(config) + tables)
    job = load_job(str(path), ["tables.user.dim=32"])
    assert {name: (t.rows, t.dim) for name, t in job.tables.items()} == {
        **{"user": (50, 32), "city": (50, 8), "session": (30, 8), "item": (50, 16), "price_bucket": (50, 8)}
    }


def test_models_are_frozen() -> None:
    job = small_job("log")
    with pytest.raises(ValueError, match="frozen"):
        job.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        job.tables["user"].dim = 4


def test_a_dumped_job_is_the_same_job() -> None:
    job = small_job("log", changes={"model.task_experts": {"click": 1, "cart": 2, "fav": 1, "order": 1}})
    assert parse_job(job.model_dump(mode="json", by_alias=True), "dump") == job


# The JSON Schema: a validator of exactly the keywords it uses, so that a keyword unknown here fails the test.

TYPES: dict[str, type | tuple[type, ...]] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)},
    **{"number": (int, float), "integer": int},
}
CHECKS: dict[str, Any] = {
    "const": lambda value, wanted, _: value == wanted,
    "enum": lambda value, wanted, _: value in wanted,
    "minimum": lambda value, bound, _: value >= bound,
    "maximum": lambda value, bound, _: value <= bound,
    "exclusiveMinimum": lambda value, bound, _: value > bound,
    "exclusiveMaximum": lambda value, bound, _: value < bound,
    "multipleOf": lambda value, unit, _: value % unit == 0,
    "pattern": lambda value, pattern, _: re.search(pattern, value) is not None,
    "format": lambda value, kind, _: kind == "date" and re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None,
    "minLength": lambda value, count, _: len(value) >= count,
    "patternProperties": lambda value, schemas, _: all(
        any(re.search(pattern, key) and fits(item, schema) for pattern, schema in schemas.items())
        for key, item in value.items()
    ),
    "minItems": lambda value, count, _: len(value) >= count,
    "maxItems": lambda value, count, _: len(value) <= count,
    "required": lambda value, names, _: set(names) <= set(value),
    "additionalProperties": lambda value, schema, whole: all(
        schema is not False and (schema is True or fits(item, schema))
        for name, item in value.items()
        if name not in whole.get("properties", {})
    ),
    "properties": lambda value, schemas, _: all(fits(value[k], s) for k, s in schemas.items() if k in value),
    "items": lambda value, schema, _: all(fits(item, schema) for item in value),
    "prefixItems": lambda value, schemas, _: all(fits(v, s) for v, s in zip(value, schemas, strict=False)),
    "type": lambda value, name, _: (
        isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("number", "integer"))
    ),
    "anyOf": lambda value, schemas, _: any(fits(value, schema) for schema in schemas),
    "oneOf": lambda value, schemas, _: sum(fits(value, schema) for schema in schemas) == 1,
    "$ref": lambda value, ref, _: fits(value, resolve(ref)),
}
NOTES = {"title", "description", "default", "discriminator", "$defs"}
SCHEMA = json_schema()


def resolve(ref: str) -> dict[str, Any]:
    """The definition a reference names."""
    head, _, name = ref.rpartition("/")
    assert head == "#/$defs"
    return SCHEMA["$defs"][name]


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether the value satisfies the schema."""
    keys = sorted(schema.keys() - NOTES, key=lambda key: key != "type")  # the type first: the rest depend on it
    return all(CHECKS[key](value, schema[key], schema) for key in keys)


def as_json(node: Any) -> Any:
    """YAML's tree as JSON has it: dates are strings."""
    if isinstance(node, dict):
        return {key: as_json(value) for key, value in node.items()}
    if isinstance(node, list):
        return [as_json(item) for item in node]
    return str(node) if isinstance(node, datetime.date) else node


def generated() -> dict[str, Any]:
    return as_json(yaml.safe_load(GENERATED.read_text()))


def test_the_schema_accepts_the_job_in_the_box_and_the_models_do_too() -> None:
    assert fits(generated(), SCHEMA)
    assert load_job(str(GENERATED)).name == "generated"
    assert fits(small_config("log", "out"), SCHEMA)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("trian", {}), ("train.batchsize", 3), ("train.batch_size", "many"), ("train.batch_size", 0)),
        *(("tables.user.dim", 6), ("tables.user.sharding", "diagonal"), ("features.user.kind", "idd")),
        *(("features.user.boundaries", [1]), ("tasks.cart.given", 3), ("name", ...), ("model.arch", "plee")),
        *(("data.train.from", "soon"), ("model.task_experts", -1), ("features", [])),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(key: str, value: Any) -> None:
    changed = generated()
    set_key(changed, key, value)
    assert not fits(changed, SCHEMA)
    with pytest.raises(InputError):
        parse_job(copy.deepcopy(changed), "job.yaml")


def test_every_key_of_the_schema_is_described() -> None:
    definitions = {"JobConfig": SCHEMA, **SCHEMA["$defs"]}
    bare = []
    for name, definition in definitions.items():
        assert definition["additionalProperties"] is False, name
        if not definition.get("description"):
            bare.append(name)
        for key, schema in definition["properties"].items():
            described = schema.get("description") or ("$ref" in schema and resolve(schema["$ref"]).get("description"))
            # a constant (kind, arch) says which model this is, and the model's own description says the rest
            if not described and "const" not in schema:
                bare.append(f"{name}.{key}")
    assert bare == []
    assert SCHEMA["$defs"]["TrainConfig"]["properties"]["batch_size"]["description"].startswith("Rows a step over ALL")


def test_the_schema_has_every_key_of_the_models() -> None:
    keys = {field.alias or name for name, field in JobConfig.model_fields.items()}
    assert SCHEMA["properties"].keys() == keys
    assert set(SCHEMA["$defs"]["DayRange"]["properties"]) == {"from", "to"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train.batch_size", True, "train: 'batch_size' takes a number, not true or false"),
        ("train.batch_size", "64", "train: 'batch_size' takes a whole number, not the string '64'"),
        ("dense_optimizer", {"lr": True}, "dense_optimizer: 'lr' takes a number, not true or false"),
        ("train.resume", "no", "train: 'resume' takes true or false, not 'no'"),
        ("train.resume", 1, "train: 'resume' takes true or false, not 1"),
        ("data.train.from", 0, "data.train: 'from' takes a day such as 2026-01-31, not 0"),
        ("output", "", "output: String should have at least 1 character"),
    ],
)
def test_nothing_is_bent_into_its_type(key: str, value: Any, said: str) -> None:
    config = small_config("log", "out")
    set_key(config, key, value)
    with pytest.raises(InputError) as caught:
        parse_job(config, "job.yaml")
    assert str(caught.value).startswith(f"job.yaml: {said}")


def test_a_float_in_yamls_string_form_is_a_float() -> None:
    config = small_config("log", "out")
    set_key(config, "dense_optimizer", {"lr": "1e-3"})
    assert parse_job(config, "job.yaml").dense_optimizer.lr == 0.001


def test_a_day_that_no_month_has(tmp_path: Path) -> None:
    path = write_config(tmp_path / "job.yaml", small_config("log", "out"))
    path.write_text(path.read_text().replace("'2026-01-02'", "2026-02-30"))
    assert "2026-02-30" in path.read_text()
    with pytest.raises(InputError, match="day is out of range for month"):
        load_job(str(path))
    path.write_text(path.read_text().replace("2026-02-30", "2026-01-02"))
    with pytest.raises(InputError, match="day is out of range for month"):
        load_job(str(path), ["data.train.to=2026-02-30"])


def test_a_feature_finds_its_rows_in_one_way() -> None:
    told = refusal({"features.session.vocabulary": "v.parquet"})
    assert told == "features.session: 'hash' and 'vocabulary' are two ways to find a value's row; keep one of them"
    small_job("log", changes={"features.session.vocabulary": "v.parquet", "features.session.hash": False})
    small_job("log", changes={"features.city.vocabulary": "v.parquet"})
    assert "unknown key 'vocabulary'" in refusal({"features.price_bucket.vocabulary": "v.parquet"})


def test_a_table_has_one_vocabulary() -> None:
    told = refusal({"features.item.vocabulary": "a.parquet", "features.recent.vocabulary": "b.parquet"})
    assert told.startswith(
        "tables.item: its features have unlike vocabularies (item: a.parquet, history: none, recent: b.parquet), so"
    )
    small_job("log", changes={f"features.{name}.vocabulary": "a.parquet" for name in ("item", "history", "recent")})


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"tasks": {"clik": {"auc": 0.1}}}, r"daily\.gate\.tasks\.clik: no task 'clik'; did you mean 'click'"),
        ({"floors": {"odrer": 0.7}}, r"daily\.gate\.floors\.odrer: no binary task 'odrer'; did you mean 'order'"),
        ({"slices": [{"name": "x", "column": "city", "values": 1}] * 2}, "two slices are named 'x'"),
        ({"slices": [{"name": "all", "column": "city", "values": 1}]}, "two slices are named 'all'"),
    ],
)
def test_the_gates_names_are_checked_before_anything_starts(gate: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        small_job("log", "out", {"daily": {"gate": gate}})
