"""`predict` on real ranks: training's own scores, each row once and in its place, killed anywhere, at any number of
ranks; what is bad, and what is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from jobs import evaluate as evaluate_job
from jobs import predict as predict_job
from pipeline.data.checks import Where
from pipeline.predict import inputs, output, run, schedule, stream
from pipeline.predict.output import QUARANTINE, SUMMARY
from pipeline.predict.plan import Prediction, prediction_from_bytes
from pipeline.predictions import read_predictions
from pipeline.train.dist import Ranks, quiet_libraries
from pipeline.train.scoring import ToScore
from schemas.errors import InputError
from schemas.fusion import FusionFactor
from schemas.job import JobConfig
from schemas.load import load_job
from tests.distributed.command import run as run_command
from tests.distributed.ranks import RankFailureError, run_ranks
from tests.logs import DAYS, put, small_config, write_config, write_log, write_parquet

ROWS, GROUP = 1500, 700
UNIT, BATCH = 512, 512
"""In place of the real ones, so that small row groups are cut."""
LABELS = ("click", "cart", "fav", "order", "watch")
KEEP = ["user_id", "city", "history"]


@dataclass
class Trained:
    folder: Path
    log: list[Path]
    evaluated: list[Path]
    """Files of the evaluation day."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model with every kind of feature, and a regression task, trained on two ranks; its log without labels."""
    folder = tmp_path_factory.mktemp("predict")
    watch = np.random.default_rng(0).random(ROWS).astype(np.float32) * 4 - 1
    paths = write_log(folder / "log", DAYS, ROWS, row_group_rows=[GROUP], files_per_day=2, watch=watch)
    config = small_config(folder / "log", folder / "out")
    config["tasks"].append({"name": "watch", "kind": "regression", "given": "click", "clip": [0, 2]})
    config["tables"] |= {"small": {"rows": 7, "dim": 4}}
    config["features"] += [
        {"name": "unknown", "kind": "id", "column": "item_id", "table": "small"},  # most ids out of vocabulary
        {"name": "clicks", "kind": "target_encoding", "column": "item_id", "task": "click"},
        {"name": "seen", "kind": "count", "column": "user_id"},
    ]
    config["train"]["batch_size"] = 256
    config["fusion"] = {
        "terms": [
            {"task": "click", "weight": 1.0},
            {"task": "order", "weight": 0.5, "probability": "joint"},
            {"task": "watch", "weight": 0.4, "map": "log1p"},
        ],
        "factor": {"column": "price", "map": "sigmoid", "center": 20, "scale": 10, "weight": -0.3},
    }
    run_command(write_config(folder / "job.yaml", config))
    for path in paths:
        table = pq.read_table(path).drop_columns([*LABELS, "event_time", "recent"])
        there = folder / "bare" / Path(path).relative_to(folder / "log")
        there.parent.mkdir(parents=True, exist_ok=True)
        # `recent` is read: only what the model does not read is left out
        write_parquet(there, table.append_column("recent", pq.read_table(path)["recent"]), GROUP)
    return Trained(folder, [Path(p) for p in paths], sorted((folder / "bare" / f"dt={DAYS[2]}").iterdir()))


def words(trained: Trained, out: Path, *more: str) -> list[str]:
    given = [f"predict.out={out}", f"predict.input={trained.folder / 'bare'}", f"predict.keep=[{','.join(KEEP)}]"]
    return [str(trained.folder / "job.yaml"), *given, *more]


def planned(trained: Trained, out: Path, *more: str) -> Prediction:
    job = load_job(*_split(words(trained, out, *more)))
    return predict_job.plan(job)


def _split(argv: list[str]) -> tuple[str, list[str]]:
    return argv[0], argv[1:]


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "UNIT_ROWS", UNIT)


def on_rank(rank: int, world: int, plan: bytes, dies: tuple[int, int, str] | None) -> int:
    """Predicts on this rank; where it `dies`, as (rank, write, when), it is gone before or after that write of its.

    Returns how many rows the rank has scored.
    """
    quiet_libraries()
    inputs.UNIT_ROWS, schedule.BATCH_ROWS = UNIT, BATCH
    scored, writes = 0, 0
    logits, replace = run._Run._logits, os.replace

    def counted(self: Any, module: Any, x: torch.Tensor) -> torch.Tensor:
        nonlocal scored
        scored += len(x)
        return logits(self, module, x)

    def replaced(a: Any, b: Any) -> None:
        nonlocal writes
        mine = dies is not None and dies[0] == rank and dies[1] == writes
        writes += 1
        if mine and dies is not None and dies[2] == "before":
            os._exit(137)
        replace(a, b)
        if mine:
            os._exit(137)

    run._Run._logits = counted  # type: ignore[method-assign]
    output.os.replace = replaced  # type: ignore[assignment]
    run.run_prediction(prediction_from_bytes(plan), Ranks(rank, world, torch.device("cpu")))
    return scored


def predicted(plan: Prediction, world: int, dies: tuple[int, int, str] | None = None) -> int:
    return sum(run_ranks(world, on_rank, world, plan.to_bytes(), dies))


def tables(out: Path) -> dict[str, pa.Table]:
    found = sorted(path for path in out.rglob("*.parquet"))
    return {str(path.relative_to(out)): pq.ParquetFile(path, page_checksum_verification=True).read() for path in found}


@pytest.fixture(scope="module")
def whole(trained: Trained) -> Path:
    """The uninterrupted output of the real command on two ranks, with units of the real size."""
    out = trained.folder / "whole"
    run_command(Path(words(trained, out)[0]), *words(trained, out)[1:], flags=("predict", "--nproc-per-node", "2"))
    return out


def test_every_row_once_in_its_place_with_what_is_kept(trained: Trained, whole: Path) -> None:
    found = tables(whole)
    assert list(found) == [str(path.relative_to(trained.folder / "log")) for path in trained.log]
    for name, table in found.items():
        source = pq.read_table(trained.folder / "bare" / name, partitioning=None)
        assert table["row"].to_pylist() == list(range(source.num_rows))
        for column in KEEP:
            assert table[column].equals(source[column]), column
    told = json.loads((whole / SUMMARY).read_text())
    assert (told["files"], told["rows"], told["scored"], told["bad"]) == (6, 3 * ROWS, 3 * ROWS, 0)
    assert not (whole / QUARANTINE).exists()
    assert not (whole / ".parts").exists()


@pytest.fixture(scope="module")
def evaluated(trained: Trained) -> tuple[JobConfig, ToScore]:
    """The evaluation day scored on two ranks, as training evaluates it."""
    sliced = "evaluate.slices=[city,item_id]"
    job = load_job(str(trained.folder / "job.yaml"), [f"evaluate.out={trained.folder / 'ev'}", sliced])
    scoring = evaluate_job.plan(job)
    run_ranks(2, score_on_rank, 2, evaluate_job.scoring_job(job), scoring.to_bytes())
    return job, scoring.models[0]


def test_its_numbers_are_those_of_trainings_evaluation_and_the_fused_score_is_its_formula(
    trained: Trained, whole: Path, evaluated: tuple[JobConfig, ToScore]
) -> None:
    logits = read_predictions(str(trained.folder / "ev"), "model")
    found = pa.concat_tables([t for name, t in tables(whole).items() if DAYS[2] in name]).to_pandas()
    x = dict(zip(logits.tasks, logits.logit_TN.astype(np.float64), strict=True))
    p = {task: 1 / (1 + np.exp(-x[task])) for task in LABELS[:4]}
    for task in LABELS[:4]:
        np.testing.assert_allclose(found[f"p.{task}"], p[task], atol=1e-7)
        np.testing.assert_allclose(found[f"joint.{task}"], p[task] * (1 if task == "click" else p["click"]), atol=1e-7)
    value = np.clip(x["watch"], 0, 2)
    np.testing.assert_allclose(found["value.watch"], value, atol=1e-6)
    price = pd.concat([pd.read_parquet(path)["price"] for path in trained.evaluated]).to_numpy().astype(np.float64)
    with np.errstate(divide="ignore"):
        log_watch = np.maximum(np.log(np.log1p(value)), -700)
    expected = np.log(p["click"]) + 0.5 * np.log(p["click"] * p["order"]) + 0.4 * log_watch
    expected -= 0.3 * np.log(1 / (1 + np.exp(-(price - 20) / 10)))
    inside = value > 1e-4  # near 0 the logarithm takes the last bit of a logit for news
    np.testing.assert_allclose(found["log_score"][inside], expected[inside], atol=1e-5)
    np.testing.assert_allclose(found["score"], np.exp(found["log_score"]), rtol=1e-12)


def score_on_rank(rank: int, world: int, job: Any, scoring: bytes) -> None:
    quiet_libraries()
    from pipeline.train.score import run_scoring
    from pipeline.train.scoring import scoring_from_bytes

    run_scoring(job, scoring_from_bytes(scoring, job), Ranks(rank, world, torch.device("cpu")), {})


def test_an_evaluation_is_trainings_own_and_its_slices_are_pandas(
    trained: Trained, evaluated: tuple[JobConfig, ToScore], capsys: pytest.CaptureFixture[str]
) -> None:
    job, model = evaluated
    evaluate_job.report(job.model_copy(update={"evaluate": job.evaluate.model_copy(update={"slice_values": 2})}), model)
    printed = capsys.readouterr().out
    told = json.loads((trained.folder / "ev" / "evaluation.json").read_text())
    result = json.loads((trained.folder / "out" / "result.json").read_text())
    for task, expected in result["tasks"].items():
        for kind in ("own", "joint"):
            if kind in expected:
                assert told["tasks"][task][kind] | expected[kind] == told["tasks"][task][kind], (task, kind)
    log = pd.concat([pd.read_parquet(path) for path in trained.log if DAYS[2] in str(path)], ignore_index=True)
    found = read_predictions(str(trained.folder / "ev"), "model")
    logit = dict(zip(found.tasks, found.logit_TN.astype(np.float64), strict=True))
    frequent = log["item_id"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index[:2]
    assert list(told["slices"]["item_id"]) == [*map(str, frequent), "(others)"]
    assert list(told["slices"]["city"])[-1] == "(others)"
    for column, value in (("city", next(iter(told["slices"]["city"]))), ("item_id", frequent[0])):
        own, each = log[column] == value, told["slices"][column][str(value)]
        assert each["rows"] == own.sum()
        click, order = each["tasks"]["click"]["own"], each["tasks"]["order"]["joint"]
        assert click["auc"] == pytest.approx(roc_auc_score(log["click"][own], logit["click"][own]))
        assert click["pr_auc"] == pytest.approx(average_precision_score(log["click"][own], logit["click"][own]))
        p = 1 / (1 + np.exp(-logit["click"])) / (1 + np.exp(-logit["order"]))
        assert order["auc"] == pytest.approx(roc_auc_score((log["order"] & log["click"])[own], p[own]))
        of_watch = own & (log["click"] == 1)
        mse = np.square(logit["watch"] - log["watch"].clip(0, 2))[of_watch].mean()
        assert each["tasks"]["watch"]["own"]["mse"] == pytest.approx(mse, rel=1e-5)
    by_user = [(roc_auc_score(g["click"], logit["click"][g.index]), len(g)) for _, g in log.groupby("user_id")]
    gauc = np.average([auc for auc, _ in by_user], weights=[rows for _, rows in by_user])
    assert told["tasks"]["click"]["own"]["gauc"] == pytest.approx(gauc)
    for words in ("GAUC", f"{told['tasks']['click']['own']['gauc']:.4f}", "item_id", "cart (joint)"):
        assert words in printed


def test_what_an_evaluation_goes_by_is_looked_for_before_anything_is_scored(trained: Trained) -> None:
    job = load_job(str(trained.folder / "job.yaml"), [f"evaluate.out={trained.folder / 'no'}"])
    for key, column, said in [
        ("user", "usr_id", r"column 'usr_id', which evaluate\.user names, is missing; did you mean 'user_id'"),
        ("slices", ["city", "age"], r"evaluate\.slices\.1: column 'age' holds double where an integer or a string"),
    ]:
        changed = job.evaluate.model_copy(update={key: column})
        with pytest.raises(InputError, match=said):
            evaluate_job.plan(job.model_copy(update={"evaluate": changed}))
    with pytest.raises(InputError, match=r"evaluate: says nothing; give evaluate\.out=DIR"):
        evaluate_job.plan(job.model_copy(update={"evaluate": None}))
    data = job.data.model_copy(update={"eval": None})
    with pytest.raises(InputError, match=r"evaluate\.days: missing, and so is data\.eval"):
        evaluate_job.plan(job.model_copy(update={"data": data}))


@pytest.mark.parametrize("world", [3])
def test_the_same_bits_on_other_ranks_and_cut_into_parts(trained: Trained, whole: Path, world: int) -> None:
    out = trained.folder / f"on{world}"
    assert predicted(planned(trained, out), world) == 3 * ROWS
    assert_same(whole, out)


def assert_same(a: Path, b: Path) -> None:
    one, other = tables(a), tables(b)
    assert list(one) == list(other)
    for name in one:
        assert one[name].equals(other[name]), name


KILLS = [(0, 4, "before"), (1, 5, "after")]


@pytest.mark.parametrize("dies", KILLS, ids=str)
def test_killed_and_gone_on_with_another_number_of_ranks(
    trained: Trained, whole: Path, tmp_path: Path, dies: tuple[int, int, str]
) -> None:
    first = planned(trained, tmp_path)
    with pytest.raises(RankFailureError):
        predicted(first, 2, dies)
    assert not (tmp_path / SUMMARY).exists()
    again = planned(trained, tmp_path)
    assert again.rows < first.rows or dies[1] == 0, "what was written is not scored again"
    assert predicted(again, 3 if dies[0] else 1) == again.rows
    assert_same(whole, tmp_path)
    assert json.loads((tmp_path / SUMMARY).read_text())["scored"] == 3 * ROWS
    assert planned(trained, tmp_path).complete
    assert not list(tmp_path.rglob("*.draft"))


SPOILT, DAMAGED = f"dt={DAYS[1]}/part-00001.parquet", f"dt={DAYS[2]}/part-00000.parquet"


def spoilt(trained: Trained, folder: Path, change: Callable[[Path], None]) -> str:
    """A copy of the unlabelled log, one of its files changed; the override that names it."""
    for path in (trained.folder / "bare").rglob("*.parquet"):
        there = folder / path.relative_to(trained.folder / "bare")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
    change(folder / SPOILT)
    return f"predict.input={folder}"


def bad_values(path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    for name, row, value in (("age", 600, np.nan), ("age", 601, np.nan), ("price", 33, None), ("session", 5, None)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, put(table[name].combine_chunks(), row, value))
    write_parquet(path, table, GROUP)


def flipped(path: Path) -> None:
    """A bit of the second row group's ages, which its checksum finds."""
    metadata = pq.read_metadata(path)
    at = metadata.schema.to_arrow_schema().names.index("city")
    chunk = metadata.row_group(1).column([c.path_in_schema for c in _leaves(metadata)].index("city"))
    assert at >= 0
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


def _leaves(metadata: Any) -> list[Any]:
    return [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]


def test_what_is_bad_keeps_its_place_without_numbers(trained: Trained, whole: Path, tmp_path: Path) -> None:
    given = spoilt(trained, tmp_path / "in", bad_values)
    with pytest.raises(InputError, match=r"part-00001\.parquet, row group 0: column 'session' holds nulls"):
        predicted(planned(trained, tmp_path / "refused", given), 1)
    values = ("data.bad.values=quarantine", "data.bad.rows_per_day=4")
    with pytest.raises(InputError, match=r"day 2026-01-02: 4 bad rows, the budget is 3\. .*row 5: column 'session'"):
        predicted(planned(trained, tmp_path / "over", given, values[0], "data.bad.rows_per_day=3"), 1)
    flipped(tmp_path / "in" / DAMAGED)
    lenient = (*values, "data.bad.corrupt=quarantine", "data.bad.row_groups_per_day=1")
    assert predicted(planned(trained, tmp_path / "out", given, *lenient), 2) == 3 * ROWS
    one, other = tables(whole), tables(tmp_path / "out")
    bad = [5, 33, 600, 601]
    kept = [row for row in range(ROWS // 2) if row not in bad]
    assert other[SPOILT].num_rows == ROWS // 2
    assert other[SPOILT].take(kept).equals(one[SPOILT].take(kept))
    for row in other[SPOILT].take(bad).to_pylist():
        assert all((value is None) == (column not in [*KEEP, "row"]) for column, value in row.items())
    assert other[DAMAGED].slice(0, GROUP).equals(one[DAMAGED].slice(0, GROUP))
    lost = other[DAMAGED].slice(GROUP)
    assert lost["row"].to_pylist() == list(range(GROUP, ROWS // 2))
    assert all(lost[column].null_count == lost.num_rows for column in lost.column_names if column != "row")
    for each in set(one) - {SPOILT, DAMAGED}:
        assert one[each].equals(other[each])
    told = json.loads((tmp_path / "out" / SUMMARY).read_text())
    assert told["rows"] - told["scored"] == told["bad"] == 4 + ROWS // 2 - GROUP
    pieces = [json.loads(line) for line in (tmp_path / "out" / QUARANTINE).read_text().splitlines()]
    assert [(p["file"], p["group"], p["first"], p["rows"], p["column"]) for p in pieces] == [
        (SPOILT, 0, 5, 1, "session"),
        (SPOILT, 0, 33, 1, "price"),
        (SPOILT, 0, 600, 2, "age"),
        (DAMAGED, 1, 0, ROWS // 2 - GROUP, ""),
    ]


def test_a_file_that_is_none_is_refused_or_left_out(trained: Trained, tmp_path: Path) -> None:
    given = spoilt(trained, tmp_path / "in", lambda path: path.write_bytes(b"no Parquet at all"))
    with pytest.raises(InputError, match=r"part-00001\.parquet: not a whole Parquet file"):
        planned(trained, tmp_path / "out", given)
    lenient = ("data.bad.corrupt=quarantine", "data.bad.row_groups_per_day=1")
    found = planned(trained, tmp_path / "out", given, *lenient)
    assert [each.name for each in found.left_out] == [f"dt={DAYS[1]}/part-00001.parquet"]
    assert len(found.files) == 5


def without(column: str) -> Callable[[Path], None]:
    return lambda path: write_parquet(path, pq.read_table(path, partitioning=None).drop_columns([column]), GROUP)


REFUSED: dict[str, tuple[list[str], str]] = {
    "no input": (["predict.input=nowhere"], r"predict\.input: 'nowhere' is no Parquet file and holds none"),
    "no checkpoint": (["predict.checkpoint=nowhere"], r"predict\.checkpoint: 'nowhere' is no committed checkpoint"),
    "no champion": (["predict.checkpoint=nowhere@champion"], r"predict\.checkpoint: .*nowhere"),
    "a name of its own": (["predict.keep=[row]"], r"predict\.keep: 'row' is a column that the prediction itself"),
    "kept and missing": (["predict.keep=[usr_id]"], r"'usr_id', which predict\.keep names, is missing; .*'user_id'"),
    "kept twice": (["predict.keep=[user_id,user_id]"], r"predict\.keep: 'user_id' stands there 2 times"),
    "a fused score of others": (["fusion={terms: [{task: buy}]}"], r"fusion\.terms\.0\.task: no task 'buy'"),
    "nothing said": (["predict=null"], r"predict: says nothing; give predict\.input=PATH"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_any_rank_starts(trained: Trained, tmp_path: Path, what: str) -> None:
    more, said = REFUSED[what]
    with pytest.raises(InputError, match=said):
        planned(trained, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_an_input_without_a_column_or_a_day_is_refused_by_name(trained: Trained, tmp_path: Path) -> None:
    given = spoilt(trained, tmp_path / "in", without("city"))
    with pytest.raises(InputError, match=r"part-00001\.parquet: column 'city', feature 'city', is missing"):
        planned(trained, tmp_path / "out", given)
    with pytest.raises(InputError, match=r"feature 'clicks' looks back on earlier days, and the file lies in no"):
        planned(trained, tmp_path / "out", f"predict.input={trained.evaluated[0]}")


def test_an_output_of_another_model_or_of_somebody_else_is_left_alone(trained: Trained, whole: Path) -> None:
    with pytest.raises(InputError, match=r"is there already, of another keep; name another predict\.out"):
        planned(trained, whole, "predict.keep=[]")
    with pytest.raises(InputError, match=r"is there already, of another fusion"):
        planned(trained, whole, "fusion.terms.0.weight=2")
    with pytest.raises(InputError, match=r"is the input's own folder; name another"):
        planned(trained, trained.folder / "bare")
    with pytest.raises(InputError, match=r"part-00000\.parquet: was not written by a prediction"):
        planned(trained, trained.folder / "log")


def test_new_and_changed_files_are_scored_and_the_others_are_not(trained: Trained, tmp_path: Path) -> None:
    given = spoilt(trained, tmp_path / "in", lambda path: None)
    out = tmp_path / "out"
    predicted(planned(trained, out, given), 1)
    before = tables(out)
    changed = tmp_path / "in" / f"dt={DAYS[1]}" / "part-00001.parquet"
    write_parquet(changed, _reversed(changed), 400)
    for name in ("_hidden/x.parquet", ".x.parquet", f"dt={DAYS[0]}/_x.parquet"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(changed.read_bytes())
    (tmp_path / "in" / f"dt={DAYS[0]}" / "part-00000.parquet").unlink()
    found = planned(trained, out, given)
    assert found.rows == ROWS // 2
    assert found.notes == [f"note: dt={DAYS[1]}/part-00001.parquet changed since it was scored; scored again"]
    assert (out / SUMMARY).exists()
    with pytest.raises(RankFailureError):
        predicted(found, 1, (0, 0, "before"))
    assert not (out / SUMMARY).exists(), "it tells of a whole output"
    assert predicted(found, 2) == ROWS // 2
    after, name = tables(out), f"dt={DAYS[1]}/part-00001.parquet"
    np.testing.assert_allclose(after[name]["p.click"], before[name]["p.click"].to_numpy()[::-1], atol=1e-7)
    assert json.loads((out / SUMMARY).read_text())["strays"] == [f"dt={DAYS[0]}/part-00000.parquet"]


def test_a_file_written_anew_is_another_whatever_its_size_and_footer_say(trained: Trained, tmp_path: Path) -> None:
    given = spoilt(trained, tmp_path / "in", lambda path: None)
    first = planned(trained, tmp_path / "out", given)
    path = tmp_path / "in" / first.files[0].name
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    again = planned(trained, tmp_path / "out", given)
    assert [a == b for a, b in zip(first.about, again.about, strict=True)] == [False] + [True] * (len(first.about) - 1)
    place = output.Output(str(tmp_path / "out"))
    unit = first.units[0][1:]
    parts = {place.part(each.about[0], each.files[0], unit) for each in (first, again)}
    assert len(parts) == 2, "no part of the old file is taken into the output of the new one"


def test_an_output_within_the_input_is_refused(trained: Trained, tmp_path: Path) -> None:
    given = spoilt(trained, tmp_path / "in", lambda path: None)
    with pytest.raises(InputError, match=r"predict\.out: .*scores' lies in the input, whose next run"):
        planned(trained, tmp_path / "in" / "scores", given)
    assert planned(trained, tmp_path / "in" / "_scores", given).rows == 3 * ROWS
    assert planned(trained, tmp_path / "in-scores", given).rows == 3 * ROWS


def without_numbers(rank: int, plan: bytes) -> None:
    quiet_libraries()
    logits = run._Run._logits
    run._Run._logits = lambda *given: logits(*given) * np.nan  # type: ignore[method-assign]
    run.run_prediction(prediction_from_bytes(plan), Ranks(rank, 1, torch.device("cpu")))


def test_outputs_that_are_no_numbers_end_the_run(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"part-00000\.parquet.*the model's output is not finite"):
        run_ranks(1, without_numbers, planned(trained, tmp_path).to_bytes())
    assert not list(tmp_path.rglob("*.parquet"))


def _reversed(path: Path) -> pa.Table:
    table = pq.read_table(path, partitioning=None)
    return table.take(list(range(table.num_rows - 1, -1, -1)))


def test_missing_numbers_of_the_factor_are_what_it_says(trained: Trained, tmp_path: Path) -> None:
    """And an input of one file, an empty file among them."""
    folder = tmp_path / "in" / f"dt={DAYS[2]}"
    folder.mkdir(parents=True)
    table = pq.read_table(trained.evaluated[0], partitioning=None).slice(0, 40)
    twice = pa.array([None if row < 2 else 7.0 for row in range(40)], pa.float64())
    write_parquet(folder / "a.parquet", table.append_column("margin", twice), 40)
    write_parquet(folder / "b.parquet", table.append_column("margin", twice).slice(0, 0), 40)
    fusion = "fusion={terms: [{task: click}], factor: {column: margin, map: identity, missing: 2}}"
    given = (f"predict.input={tmp_path / 'in'}", fusion)
    assert predicted(planned(trained, tmp_path / "out", *given), 1) == 40
    found = tables(tmp_path / "out")
    assert found[f"dt={DAYS[2]}/b.parquet"].num_rows == 0
    one = found[f"dt={DAYS[2]}/a.parquet"].to_pandas()
    np.testing.assert_allclose(one["score"] / one["p.click"], [2.0] * 2 + [7.0] * 38)
    nulls = stream._factor_column(FusionFactor(column="margin", map="identity"), pq.read_table(folder / "a.parquet"))[1]
    with pytest.raises(InputError, match=r"column 'margin' holds nulls; .*fusion\.factor\.missing"):
        nulls[0].refuse(Where("a.parquet", 0, 0))


def in_memory(rank: int, job: Any, files: dict[str, bytes]) -> dict[str, pa.Table]:
    """Input and output in a store of objects; what is there after the run."""
    quiet_libraries()
    fs = fsspec.filesystem("memory")
    for name, content in files.items():
        fs.pipe_file(f"/in/{name}", content)
    found = predict_job.plan(job)
    run.run_prediction(found, Ranks(rank, 1, torch.device("cpu")))
    assert predict_job.plan(job).complete
    assert [path for path in fs.find("/out") if "/.parts/" in path] == []
    there = [path for path in fs.find("/out") if path.endswith(".parquet")]
    return {path.removeprefix("/out/"): pq.read_table(fs.open(path)) for path in there}


def test_from_one_object_store_to_another(trained: Trained, whole: Path) -> None:
    job = load_job(*_split(words(trained, Path("unused"), "predict.input=memory://in", "predict.out=memory://out")))
    names = [f"dt={DAYS[2]}/part-0000{n}.parquet" for n in (0, 1)]
    files = {name: (trained.folder / "bare" / name).read_bytes() for name in names}
    (found,) = run_ranks(1, in_memory, job, files)
    expected = tables(whole)
    assert {name: table.equals(expected[name]) for name, table in found.items()} == dict.fromkeys(names, True)
