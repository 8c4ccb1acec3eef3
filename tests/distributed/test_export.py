"""An exported bundle against the trainer on two ranks: the same scores, wherever and of whatever they are computed."""

import dataclasses
import http.client
import importlib
import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pipeline.data.files import plan
from pipeline.data.history import attach
from pipeline.data.loader import Loader
from pipeline.data.source import epoch_source
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.export.calibrate import fitted
from pipeline.export.export import write_bundle
from pipeline.export.loading import load_bundle
from pipeline.export.plan import Calibration, plan_export
from pipeline.fusion import fused_log_score, outputs
from pipeline.predictions import Predictions
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.loop import total_steps, training_batches
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from schemas.errors import InputError
from schemas.identity import VOCABULARIES
from schemas.load import parse_job
from tests.distributed.ranks import run_ranks
from tests.distributed.test_grid import MODELS
from tests.distributed.training import build, planned
from tests.logs import CITIES, DAYS, ITEMS, TASKS, put, set_key, small_config, write_log

ROWS = 240
LOOKING_BACK: list[dict[str, Any]] = [
    {"name": "item_count", "kind": "count", "column": "item_id", "per_day": True},
    {"name": "pair_count", "kind": "count", "columns": ["user_id", "city"], "days": 1},
    {"name": "user_click", "kind": "target_encoding", "column": "user_id", "task": "click", "smoothing": 5},
    {"name": "city_order", "kind": "target_encoding", "column": "city", "task": "order"},
    {"name": "list_cart", "kind": "target_encoding", "column": "history", "task": "cart"},
    {"name": "clicked", "kind": "history", "by": "user_id", "column": "item_id", "task": "click", "table": "item"},
    {"name": "seen", "kind": "history", "by": "city", "column": "session", "table": "session"},
]
LOOKING_BACK[3] |= {"transform": "logit", "default": 0.1}
LOOKING_BACK[5] |= {"last": 3}
LOOKING_BACK[6] |= {"hash": True, "pooling": "sum"}
FUSION = {
    "terms": [{"task": "click", "weight": 0.7}, {"task": "order", "weight": 1.3, "probability": "joint"}],
    "factor": {"column": "price", "map": "log1p", "weight": 0.2, "missing": 3.0},
}
MIXED, SEPARATE = "mixed", "separate"


def odd(column: str) -> Callable[[pa.Array], Any]:
    """Values that a log may hold and a vocabulary does not: nulls, unknown strings, ids of no row."""

    def change(values: pa.Array) -> pa.Array:
        if column == "item_id":
            values = put(put(values, 3, -1), 4, ITEMS + 7)
        elif column == "city":
            values = put(put(put(values, 5, None), 6, "Ωmega\x00"), 7, "")
        elif column == "price":
            values = put(put(values, 8, None), 9, math.nan)
        elif column == "history":
            values = pa.array([[-5, 2**40] if len(v) == 2 else v for v in values.to_pylist()], values.type)
        elif column == "user_id":
            values = put(values, 10, 10**9)
        return values

    return change


def configs(root: Path, archs: list[str]) -> dict[str, dict[str, Any]]:
    """By name: every kind of feature, in the mixed one; each architecture."""
    columns = ("item_id", "city", "price", "history", "user_id")
    write_log(root / "log", DAYS, ROWS, **{name: odd(name) for name in columns})
    (root / "vocabularies").mkdir()
    pq.write_table(pa.table({"value": [*CITIES[1:4], "Ωmega\x00"]}), root / "vocabularies" / "city.parquet")
    pq.write_table(pa.table({"value": np.arange(10**9, 10**9 - 30, -1)}), root / "vocabularies" / "user.parquet")
    out = {}
    for name in archs:
        config = small_config(root / "log", root / name)
        for key, value in {
            "features.city.missing": "unknown",
            "features.price.missing": 7.5,
            "features.price_bucket.missing": 7.5,
            "train.max_steps": 6,
            "fusion": FUSION,
        }.items():
            set_key(config, key, value)
        if name == MIXED:
            config["features"] += LOOKING_BACK
            set_key(config, "data.train.from", DAYS[1])
            set_key(config, "data.history", {"from": DAYS[0]})
            set_key(config, "features.city.vocabulary", str(root / "vocabularies" / "city.parquet"))
            set_key(config, "features.user.vocabulary", str(root / "vocabularies" / "user.parquet"))
            config["tasks"].append({"name": "age_of", "label": "age_label", "kind": "regression", "clip": [0.0, 70.0]})
            write_log(root / "log", DAYS, ROWS, **{n: odd(n) for n in columns}, age_label=np.linspace(0, 90, ROWS))
            config["model"]["norm"] = "layer"
        else:
            config["model"] = {"arch": name, **MODELS[name]}
        out[name] = config
    return out


def trained(rank: int, world: int, by_name: dict[str, dict[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """Trains each, commits it, and returns its logits of the rows of data.eval by row id."""
    out = {}
    for name, config in by_name.items():
        job, model, optimizers, ranks = build(config, rank, world)
        manifest = planned(job)
        step = TrainStep(model, optimizers, job, ranks, total_steps(job, manifest.rows))
        batches = training_batches(job, manifest, ranks, START)
        for number in range(total_steps(job, manifest.rows)):
            step(batches, number)
        batches.close()
        step.detach()
        saved = job.model_dump(mode="json", by_alias=True) | {VOCABULARIES: fingerprints(job)}
        Checkpoints(f"{job.output}/checkpoints", 1).save(model, optimizers.all, START, saved, "none")
        rows = plan(job, job.data.eval)
        attach(job, [(rows, job.data.eval)])
        model.eval()
        logits: dict[int, list[float]] = {}
        with Loader(job, epoch_source(job, rows, 0, shuffle=False), rank, world) as loader, torch.no_grad():
            for batch in loader:
                logits |= dict(zip(batch.row_ids_B.tolist(), model(batch).tolist(), strict=True))
        out[name] = logits
    return out


class Trained:
    """Models, the trainer's logits of a day's rows, and bundles of them."""

    def __init__(self, root: Path, archs: list[str]) -> None:
        self.root, self.configs = root, configs(root, archs)
        found: dict[str, dict[int, list[float]]] = {name: {} for name in archs}
        for logits in run_ranks(2, trained, 2, self.configs):
            for name, own in logits.items():
                found[name] |= own
        self.logit_NT = {name: np.array([own[row] for row in range(ROWS)]) for name, own in found.items()}
        self.day = root / "log" / f"dt={DAYS[-1]}" / "part-00000.parquet"
        self.table = pq.ParquetFile(self.day).read()

    def export(self, name: str, out: str, **options: Any) -> Path:
        path = self.root / out
        if not path.exists():
            write_bundle(plan_export(f"{self.root}/{name}/checkpoints", str(path), **options), lambda _: None)
        return path

    def job(self, name: str) -> Any:
        return parse_job(self.configs[name], "test")

    def wanted(self, name: str, logit_NT: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The scores that the trainer's logits, or these, come to."""
        job, logit_NT = self.job(name), self.logit_NT[name] if logit_NT is None else logit_NT
        price = np.nan_to_num(self.table["price"].fill_null(math.nan).to_numpy(), nan=3.0)
        out = outputs(job.outputs, logit_NT)
        log_N = fused_log_score(job.fusion.model_dump(mode="json"), job.outputs, logit_NT, price)
        return out | {"score": np.exp(log_N), "log_score": log_N}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("export"), [MIXED, SEPARATE])


@pytest.fixture(scope="module")
def bundle(models: Trained) -> Any:
    return load_bundle(str(models.export(MIXED, "bundle", onnx=True)))


def rows_of(bundle: Any, table: pa.Table) -> list[dict[str, Any]]:
    """As a request has them: what JSON can hold."""
    rows = table.select([field["name"] for field in bundle.fields]).to_pylist()
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]


def assert_scores(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], within: float = 1e-6) -> None:
    assert list(got) == list(wanted)
    for name, x_N in wanted.items():
        np.testing.assert_allclose(got[name], x_N, rtol=within, atol=within, err_msg=name)


def test_a_bundle_scores_as_the_trainer_on_two_ranks(models: Trained) -> None:
    bundle = load_bundle(str(models.export(SEPARATE, "bundle-separate")))
    assert_scores(bundle.score_table(models.table), models.wanted(SEPARATE))


def test_so_it_does_for_every_kind_of_feature_and_values_unheard_of(models: Trained, bundle: Any) -> None:
    assert_scores(bundle.score_table(models.table), models.wanted(MIXED))
    kinds = {feature["kind"] for feature in bundle.about["features"]}
    assert kinds == {"id", "ids", "string", "bucket", "float", "count", "target_encoding", "history"}


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(MODELS))
def test_so_does_every_architecture(tmp_path: Path, name: str) -> None:
    models = Trained(tmp_path, [name])
    folder = str(models.export(name, "bundle", onnx=True))
    for engine in ("torch", "onnx"):
        assert_scores(load_bundle(folder, engine).score_table(models.table), models.wanted(name))


def test_rows_columns_and_parts_of_them_score_alike(models: Trained, bundle: Any) -> None:
    rows = rows_of(bundle, models.table)
    whole = bundle.score_table(models.table)
    assert_scores(bundle.score(rows), whole, 1e-12)
    assert_scores(bundle.score(json.loads(json.dumps(rows))), whole, 1e-12)
    columns = {field["name"]: [row[field["name"]] for row in rows] for field in bundle.fields}
    columns["age"] = np.array(columns["age"])
    assert_scores(bundle.score_columns(columns | {"unread": None}), whole, 1e-12)
    for part in (slice(0, 1), slice(3, 12)):
        got = bundle.score(rows[part])
        assert_scores(got, {name: x_N[part] for name, x_N in whole.items()})
    assert {name: len(x_N) for name, x_N in bundle.score([]).items()} == dict.fromkeys(whole, 0)


def test_more_rows_than_go_through_the_network_at_once(models: Trained, bundle: Any) -> None:
    many = pa.concat_tables([models.table] * 70)
    got = bundle.score_table(many)
    assert_scores(got, {name: np.tile(x_N, 70) for name, x_N in bundle.score_table(models.table).items()})


def test_a_lacking_field_is_null(models: Trained, bundle: Any) -> None:
    rows = rows_of(bundle, models.table)
    assert rows[5]["city"] is None
    del rows[5]["city"]
    assert_scores(bundle.score(rows), bundle.score_table(models.table), 1e-12)


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import json
from scorer import Bundle
scores = Bundle(sys.argv[1], {engine!r}).score(json.load(open(sys.argv[2])))
print(json.dumps({{name: x_N.tolist() for name, x_N in scores.items()}}))
"""
REFUSED = {"torchrec", "fbgemm_gpu", "pyarrow", "pydantic", "pipeline", "schemas", "jobs"}


@pytest.mark.parametrize(("engine", "refused"), [("torch", set()), ("onnx", {"torch", "onnx", "onnxscript"})])
def test_it_needs_numpy_and_its_engine_alone(
    models: Trained, bundle: Any, tmp_path: Path, engine: str, refused: set[str]
) -> None:
    """Moved elsewhere, in a process that refuses to import anything else."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle.folder, moved)
    (tmp_path / "rows.json").write_text(json.dumps(rows_of(bundle, models.table)))
    script = ALONE.format(refused=REFUSED | refused, engine=engine)
    words = [sys.executable, "-I", "-c", script, str(moved), str(tmp_path / "rows.json")]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    assert_scores({k: np.array(v) for k, v in json.loads(said.stdout).items()}, models.wanted(MIXED))


def test_it_scores_a_file(models: Trained, bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(type(bundle).__module__.replace(".bundle", ".__main__"))
    out = tmp_path / "scores.parquet"
    assert command.main([str(models.day), str(out)]) == 0
    assert capsys.readouterr().out == f"{ROWS} rows scored: {out}\n"
    got = pq.read_table(out)
    assert_scores({name: got[name].to_numpy() for name in got.column_names}, models.wanted(MIXED))
    pq.write_table(models.table.set_column(0, "user_id", models.table["age"]), tmp_path / "bad.parquet")
    assert command.main([str(tmp_path / "bad.parquet"), str(out)]) == 2
    assert "bad.parquet: user_id: is of type double; it must be an integer" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.parquet", "scores.parquet"]


@pytest.mark.parametrize(("tables", "loss"), [pytest.param("fp16", 0.001, marks=pytest.mark.long), ("int8", 0.005)])
def test_smaller_tables_cost_little_auc(models: Trained, bundle: Any, tables: Any, loss: float) -> None:
    small = load_bundle(str(models.export(MIXED, tables, tables=tables)))
    got, whole = small.score_table(models.table), bundle.score_table(models.table)
    label_N = models.table["click"].to_numpy()
    assert abs(roc_auc_score(label_N, got["p.click"]) - roc_auc_score(label_N, whole["p.click"])) <= loss
    difference = np.abs(got["p.click"] - whole["p.click"]).max()
    assert 0 < difference < (1e-4 if tables == "fp16" else 5e-3)


# ---- what is refused


def tampered(bundle: Any, to: Path) -> Path:
    shutil.copytree(bundle.folder, to)
    return to


def sums_anew(folder: Path) -> None:
    """As whoever swaps a file may write them."""
    from pipeline.export.runtime.integrity import CHECKSUMS, digest

    told = json.loads((folder / CHECKSUMS).read_text())
    told["files"] = {name: digest(folder / name) for name in told["files"]}
    (folder / CHECKSUMS).write_text(json.dumps(told))


def flip(folder: Path) -> str:
    path = folder / "model.pt2"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "model.pt2: is not as it was exported"


def swap(folder: Path) -> str:
    one, other = folder / "vocabularies" / "user.npz", folder / "statistics" / "user_click.npz"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    sums_anew(folder)
    return "statistics/user_click.npz: is not the one that the model was exported with"


def older(folder: Path) -> str:
    about = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(about | {"format": 1}))
    sums_anew(folder)
    return "bundle.json: an older schema, format 1 where this reads 2"


def edited(folder: Path) -> str:
    (folder / "bundle.json").write_text((folder / "bundle.json").read_text().replace('"log1p"', '"none"'))
    return "bundle.json: is not as it was exported"


def lost(folder: Path) -> str:
    (folder / "statistics" / "clicked.npz").unlink()
    return "clicked.npz: is missing"


def code(folder: Path) -> str:
    (folder / "scorer" / "encode.py").write_text("raise SystemExit('run')")
    return "encode.py: is not as it was exported"


def other_weights(folder: Path) -> str:
    shutil.copyfile(folder / "model.onnx", folder / "model.pt2")
    sums_anew(folder)
    return "model.pt2: is not the one that the model was exported with"


def other_code(folder: Path) -> str:
    code(folder)
    sums_anew(folder)
    return "encode.py: is not the one that the model was exported with"


def unlisted(folder: Path) -> str:
    told = json.loads((folder / "checksums.json").read_text())
    told["files"] = {"bundle.json": told["files"]["bundle.json"]}
    (folder / "checksums.json").write_text(json.dumps(told))
    return "is not the one that the model was exported with"


def incomplete(folder: Path) -> str:
    about = json.loads((folder / "bundle.json").read_text())
    del about["data"]
    (folder / "bundle.json").write_text(json.dumps(about))
    sums_anew(folder)
    return "bundle.json: does not tell 'data'"


def none(folder: Path) -> str:
    (folder / "checksums.json").unlink()
    return "is no bundle"


TAMPERED = [flip, swap, older, edited, lost, code, other_weights, other_code, unlisted, incomplete, none]


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_bundle_is_refused_by_name(bundle: Any, tmp_path: Path, how: Callable[[Path], str]) -> None:
    folder = tampered(bundle, tmp_path / "bundle")
    told = how(folder)
    with pytest.raises(InputError) as refused:
        load_bundle(str(folder))
    assert told in str(refused.value)
    if how not in (code, other_code):  # by the bundle's own scorer too
        with pytest.raises(ValueError, match="export the checkpoint again") as refused_alone:
            type(bundle)(folder)
        assert told in str(refused_alone.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"item_id": "7"}, "row 1, item_id: is '7'; it must be an integer"),
        ({"item_id": True}, "row 1, item_id: is True; it must be an integer"),
        ({"item_id": 7.0}, "row 1, item_id: is 7.0; it must be an integer"),
        ({"item_id": 2**64}, "row 1, item_id: is 18446744073709551616, an integer of more than 64 bits"),
        ({"item_id": None}, "row 1, item_id: is null or missing; it must be an integer"),
        ({"age": None}, "row 1, age: is null or missing; it must be a number"),
        ({"age": math.nan}, "row 1, age: is null or missing; it must be a number"),
        ({"age": math.inf}, "row 1, age: is inf; it must be a finite number"),
        ({"age": 1e300}, "row 1, age: is too large for 32 bits"),
        ({"age": 10**400}, "row 1, age: is too large for 64 bits"),
        ({"city": 5}, "row 1, city: is 5; it must be a string"),
        ({"city": "\ud800"}, "row 1, city: is no text that UTF-8 can hold"),
        ({"history": 5}, "row 1, history: is 5; it must be a list of integers"),
        ({"recent": None}, "row 1, recent: is null or missing; it must be a list of integers"),
        ({"recent": [1, None]}, "row 1, recent: holds a null inside its list; leave it out"),
        ({"history_weight": [1, 1], "history": [1, "x"]}, "row 1, history: its list is 'x'; it must be an integer"),
        ({"history": [1, 2], "history_weight": [1.0]}, "row 1, history_weight: has 1 numbers, history 2"),
        ({"history": [1], "history_weight": [-1.0]}, "row 1, history_weight: holds -1.0; a weight is a finite number"),
        ({"prize": 5}, "row 1, prize: the model has no such field; it reads age, city"),
    ],
)
def test_a_value_that_the_schema_refuses_is_named(models: Trained, bundle: Any, change: Any, told: str) -> None:
    rows = rows_of(bundle, models.table.slice(0, 3))
    rows[1] |= change
    with pytest.raises(ValueError, match="row 1") as refused:
        bundle.score(rows)
    assert str(refused.value).startswith(told)
    assert (refused.value.row, refused.value.field) == (1, next(reversed(change)))  # type: ignore[attr-defined]


def test_a_row_that_no_number_comes_out_for_is_named(models: Trained, bundle: Any, monkeypatch: Any) -> None:
    rows = rows_of(bundle, models.table.slice(0, 3))
    network = bundle.network

    def overflowing(*inputs: Any) -> Any:
        logits = network(*inputs)
        logits[1, 0] = math.nan
        return logits

    monkeypatch.setattr(bundle, "network", overflowing)
    with pytest.raises(ValueError, match=r"^row 1: the model's output is not a finite number"):
        bundle.score(rows)


def test_columns_that_are_none_are_named(models: Trained, bundle: Any) -> None:
    rows = rows_of(bundle, models.table.slice(0, 3))
    columns = {field["name"]: [row[field["name"]] for row in rows] for field in bundle.fields}
    for name, values, told in (
        ("item_id", np.ma.masked_array([1, 2, 3], [False, True, False]), "row 1, item_id: is null or missing"),
        ("item_id", np.array(["2026-01-01"] * 3, "datetime64[ns]"), "item_id: is of type datetime64[ns]; it must be"),
        ("age", np.array([1, 2, 3], "timedelta64[ns]"), "age: is of type timedelta64[ns]; it must be a number"),
        ("age", np.array(3.0), "age: is a ndarray; a column is a list, or a numpy array of one dimension"),
        ("age", {0: 1.0, 1: 2.0, 2: 3.0}, "age: is a dict; a column is a list"),
        ("recent", [np.array(3), [], []], "row 0, recent: is a ndarray; it must be a list of integers"),
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            bundle.score_columns(columns | {name: values})
        assert str(refused.value).startswith(told)
    codes = pa.DictionaryArray.from_arrays([0, 1, None], pa.array(["Oslo", None]))
    table = models.table.slice(0, 3)
    at = table.column_names.index("city")
    plain = bundle.score_table(table.set_column(at, "city", pa.array(["Oslo", None, None])))
    assert_scores(bundle.score_table(table.set_column(at, "city", codes)), plain, 1e-12)
    at = table.column_names.index("user_id")
    large = pa.array([2**64 - 1, 2**63, 3], pa.uint64())
    plain = bundle.score_table(table.set_column(at, "user_id", large))
    assert_scores(bundle.score_table(table.set_column(at, "user_id", large.dictionary_encode())), plain, 1e-12)


def test_a_table_of_other_types_is_named(models: Trained, bundle: Any) -> None:
    for name, column, told in (
        ("item_id", models.table["age"], "item_id: is of type double; it must be an integer"),
        ("city", models.table["age"], "city: is of type double; it must be a string"),
        ("history", models.table["age"], "history: is of type double; it must be a list of integers"),
    ):
        at = models.table.column_names.index(name)
        with pytest.raises(ValueError, match="it must be") as refused:
            bundle.score_table(models.table.set_column(at, name, column))
        assert str(refused.value) == told
    with pytest.raises(ValueError, match="age: is missing; the model reads it as a number"):
        bundle.score_table(models.table.drop(["age"]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"out": "s3://bucket/b"}, "is a URL, and a bundle is written to a folder"),
        ({"out": "."}, "is there already; name another"),
        ({"checkpoint": "nowhere"}, "is no committed checkpoint"),
        ({"calibrate": "platt"}, "go together"),
        ({"calibrate": "platt", "predictions": "nowhere/x"}, "is no scored model"),
        ({"as_of": "2026-01-41"}, "is no day; write it as"),
        ({"as_of": DAYS[0]}, "has no earlier day"),
        ({"overrides": ["model.levels=3"]}, "a checkpoint comes with its configuration"),
        ({"overrides": ["fusion.factor.map=none"]}, "fusion.factor.map"),
        ({"overrides": ["features.city.vocabulary=gone.parquet"]}, "gone.parquet: no such file"),
    ],
)
def test_an_export_that_cannot_be_is_refused(models: Trained, options: dict[str, Any], told: str) -> None:
    given = {"checkpoint": f"{models.root}/{MIXED}/checkpoints", "out": str(models.root / "never")} | options
    with pytest.raises(InputError) as refused:
        plan_export(**given)
    assert told in str(refused.value)
    assert not (models.root / "never").exists()


def test_a_commit_that_changed_is_refused_and_nothing_is_left(models: Trained, tmp_path: Path) -> None:
    shutil.copytree(models.root / SEPARATE / "checkpoints", tmp_path / "checkpoints")
    piece = next(tmp_path.rglob("*.distcp"))
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    export = plan_export(str(tmp_path / "checkpoints"), str(tmp_path / "bundle"))
    with pytest.raises(InputError, match=r"distcp: missing, cut short or changed"):
        write_bundle(export, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_fused_score_of_other_weights_may_be_exported(models: Trained, tmp_path: Path) -> None:
    (tmp_path / "fusion.yaml").write_text("fusion: {terms: [{task: cart, weight: 2}]}\n")
    checkpoint = f"{models.root}/{SEPARATE}/checkpoints"
    export = plan_export(checkpoint, str(tmp_path / "b"), overrides=[f"fusion=@{tmp_path}/fusion.yaml"])
    assert export.job.fusion is not None
    assert [(term.task, term.weight) for term in export.job.fusion.terms] == [("cart", 2.0)]


@pytest.mark.long
def test_machine_code_scores_alike(models: Trained, bundle: Any) -> None:
    folder = models.export(MIXED, "compiled", aoti=True)
    assert_scores(load_bundle(str(folder), "aoti").score_table(models.table), models.wanted(MIXED))


def test_probabilities_are_calibrated_on_held_out_rows(models: Trained, tmp_path: Path) -> None:
    """From the checkpoint and its predictions to the bundle's scores, joint ones and fused included."""
    logit_NT, table = models.logit_NT[SEPARATE], models.table
    labels = np.stack([table[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in TASKS])
    spaces = np.stack([np.ones(ROWS, np.bool_)] + [(labels[0] > 0) & (np.arange(ROWS) < 90)] * 3)
    found = Predictions(np.arange(ROWS), list(TASKS), logit_NT.T.astype(np.float32), labels, spaces, None)
    export = plan_export(f"{models.root}/{SEPARATE}/checkpoints", str(tmp_path / "bundle"))
    fewer = dataclasses.replace(export, calibration=Calibration("isotonic", found, "scores"))
    with pytest.raises(InputError, match=r"task 'cart' has \d+ rows of its own space"):
        write_bundle(fewer, lambda _: None)
    assert list(tmp_path.iterdir()) == []
    wide = dataclasses.replace(found, space_TN=np.ones_like(spaces))
    told = fitted(dataclasses.replace(export, calibration=Calibration("isotonic", wide, "scores")))
    assert (told["method"], told["rows"], list(told["maps"])) == ("isotonic", ROWS, list(TASKS))


def test_a_calibrated_bundle_scores_by_each_tasks_own_line(models: Trained, tmp_path: Path) -> None:
    """The lines are those of scikit-learn's logistic regression; joint probabilities and fused score come after."""
    logit_NT, random = models.logit_NT[SEPARATE], np.random.default_rng(3)
    standard_NT = (logit_NT - logit_NT.mean(0)) / logit_NT.std(0)
    share_NT = 1 / (1 + np.exp(-(np.array([0.5, 1.0, 1.5, 2.0]) * standard_NT + np.array([0.7, 0.0, -0.4, -1.0]))))
    label_NT = (random.random(share_NT.shape) < share_NT).astype(np.float32)
    everywhere = np.ones((len(TASKS), ROWS), np.bool_)
    found = Predictions(np.arange(ROWS), list(TASKS), logit_NT.T.astype(np.float32), label_NT.T, everywhere, None)
    export = plan_export(f"{models.root}/{SEPARATE}/checkpoints", str(tmp_path / "bundle"))
    write_bundle(dataclasses.replace(export, calibration=Calibration("platt", found, "scores")), lambda _: None)
    line_NT = np.empty_like(logit_NT)
    for k in range(len(TASKS)):
        x_N, ones = logit_NT[:, k : k + 1], label_NT[:, k].sum()
        target_N = np.where(label_NT[:, k] > 0, (ones + 1) / (ones + 2), 1 / (ROWS - ones + 2))  # Platt's
        both, weights = np.repeat([1, 0], ROWS), np.concatenate([target_N, 1 - target_N])
        fitted = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(np.vstack([x_N, x_N]), both, weights)
        line_NT[:, k] = fitted.decision_function(x_N)
    assert np.abs(line_NT - logit_NT).max(0).min() > 0.1, "each line moves its task"
    got = load_bundle(str(tmp_path / "bundle")).score_table(models.table)
    assert_scores(got, models.wanted(SEPARATE, line_NT), within=2e-4)


# ---- over HTTP


def started(folder: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """The real command, and the address that it tells."""
    command = [sys.executable, "-m", "jobs.serve", str(folder), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.readline()
    assert told.startswith("serving small of step 0 on http://127.0.0.1:"), told
    return process, told.split("http://")[1].strip()


def posted(address: str, rows: list[dict[str, Any]], sent: Callable[[], None] = lambda: None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", "/score", json.dumps({"rows": rows}))
    sent()
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def test_the_service_scores_alike_and_loses_nothing_as_it_stops(models: Trained, bundle: Any) -> None:
    rows = rows_of(bundle, models.table)
    process, address = started(bundle.folder, "--drain-seconds", "1")
    try:
        status, got = posted(address, rows)
        assert status == 200, got
        assert_scores({k: np.array(v) for k, v in got["scores"].items()}, models.wanted(MIXED))
        assert posted(address, [{"item_id": "x"}])[1]["field"] == "item_id"
        many, asked = rows * 2, threading.Semaphore(0)
        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(posted, address, many[n:], asked.release) for n in range(16)]
            for _ in answers:
                assert asked.acquire(timeout=60)
            process.send_signal(signal.SIGTERM)
            for n, answer in enumerate(answers):
                status, got = answer.result()
                assert (status, got["rows"]) == (200, len(many) - n), got
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == "stopped: every accepted request was answered\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_stop_sends_who_keeps_a_connection_elsewhere_and_tells_whom_it_cut_off(bundle: Any, models: Trained) -> None:
    process, address = started(bundle.folder, "--engine", "onnx", "--drain-seconds", "1", "--answer-seconds", "1")
    try:
        body = json.dumps({"rows": rows_of(bundle, models.table.slice(0, 1))})
        kept = http.client.HTTPConnection(address, timeout=60)
        half = http.client.HTTPConnection(address, timeout=60)
        half.putrequest("POST", "/score")
        half.putheader("Content-Length", "100")
        half.endheaders(b"{")
        for status, connection in ((200, None), (503, "close")):
            kept.request("POST", "/score", body)
            answer = kept.getresponse()
            assert (answer.status, answer.headers["connection"]) == (200, connection), answer.read()
            answer.read()
            if status == 200:
                process.send_signal(signal.SIGTERM)
                health = http.client.HTTPConnection(address, timeout=60)
                assert 503 in (_health(health) for _ in range(10_000)), "the signal does not come"
        assert half.getresponse().status == 503
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def _health(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    return answer.status
