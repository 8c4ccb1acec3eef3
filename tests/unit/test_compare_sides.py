"""What the sides of a comparison are, and what is told before anything starts."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.compare import arguments_of, baseline_of, settled_parent, sides_of
from pipeline.compare.runs import runs_of
from pipeline.compare.sides import ARCHS, carried
from pipeline.train.checkpoint_store import CheckpointStore
from schemas.errors import InputError
from schemas.identity import fingerprint
from schemas.job import JobConfig
from tests.logs import DAYS, set_key, small_config, write_config, write_log
from tests.unit.test_warm_start import commit


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", small_config("log", "out"))


def sides(config: Path, *words: str) -> dict[str, JobConfig]:
    return sides_of(arguments_of([str(config), "--out", "x", *words]))


def written(config: Path, text: str) -> tuple[str, str]:
    (config.parent / "sides.yaml").write_text(text)
    return "--sides", str(config.parent / "sides.yaml")


def test_four_architectures_by_default(config: Path) -> None:
    assert list(sides(config)) == ["single_task", "shared_bottom", "mmoe", "ple"]


def test_architectures_spaces_and_both(config: Path) -> None:
    assert list(sides(config, "--space", "entire", "conditional")) == ["entire", "conditional"]
    both = sides(config, "--arch", "ple", "mmoe", "--space", "entire", "naive", "train.epochs=3")
    assert list(both) == ["ple-entire", "ple-naive", "mmoe-entire", "mmoe-naive"]
    assert (both["mmoe-naive"].model.arch, both["mmoe-naive"].space) == ("mmoe", "naive")
    assert {job.train.epochs for job in both.values()} == {3}


def test_a_setting_may_stand_behind_a_list_of_words(config: Path) -> None:
    found = sides(config, "train.epochs=3", "--arch", "ple", "mmoe", "train.batch_size=7")
    assert {(job.train.epochs, job.train.batch_size) for job in found.values()} == {(3, 7)}


def test_the_job_may_stand_behind_a_list_of_words() -> None:
    found = arguments_of(["--sides", "sides.yaml", "--arch", "ple", "mmoe", "job.yaml", "a=1", "--out", "x"])
    assert (found.config, found.sides, found.arch, found.overrides) == (
        "job.yaml",
        "sides.yaml",
        ["ple", "mmoe"],
        ["a=1"],
    )


def test_another_architecture_keeps_what_it_shares(config: Path) -> None:
    found = sides(config, "model.dropout=0.25")
    assert found["ple"].model.task_experts == 1, "the job's own"
    assert {job.model.dropout for job in found.values()} == {0.25}
    assert {tuple(job.model.tower_layers) for job in found.values()} == {(4,)}
    assert found["mmoe"].model.expert_layers == [8]
    assert found["shared_bottom"].model.bottom_layers == [128, 64], "its default"


def test_every_architecture_is_carried_to(config: Path) -> None:
    own = {"arch": "shared_bottom", "bottom_layers": [8, 4], "dropout": 0.1}
    for arch, settings in ARCHS.items():
        more = {"reads": {"click": ["cart"]}} if arch == "asymmetric" else {}
        assert settings.model_validate(carried(own, arch) | more).dropout == 0.1


def test_a_size_for_all(config: Path) -> None:
    found = sides(config, "--size", "5000")
    assert {job.model.match_parameters for job in found.values()} == {5000}


def test_sides_of_a_file(config: Path) -> None:
    text = """
now: {}
wide: {model.tower_layers: [16], tasks.order.weight: 3}
moe: {model: {arch: moe, experts: 2}, train: {batch_size: 16}}
own: {model: {task_experts: {click: 2, cart: 1, fav: 1, order: 1}}}
"""
    found = sides(config, *written(config, text))
    assert list(found) == ["now", "wide", "moe", "own"]
    assert found["wide"].model.tower_layers == [16]
    assert [task.weight for task in found["wide"].tasks] == [1, 1, 1, 3]
    assert (found["moe"].model.arch, found["moe"].model.experts, found["moe"].train.batch_size) == ("moe", 2, 16)
    assert found["moe"].train.log_every == found["now"].train.log_every, "the rest of the section stays"
    assert found["own"].model.task_experts["click"] == 2


def test_another_method_of_balancing_brings_its_own_settings(config: Path) -> None:
    text = "a: {balance: {method: gradnorm}}\nb: {balance: {method: uncertainty}}\n"
    found = sides(config, *written(config, text), "balance={method: gradnorm, alpha: 1.0}")
    assert found["b"].balance.method == "uncertainty"
    assert found["a"].balance.alpha == 1.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {model.expert_layer: [3]}\nb: {}", r"side 'a': model: unknown key 'expert_layer'; did you mean"),
        ("a: {trian.batch_size: 3}\nb: {}", r"side 'a': unknown key 'trian'; did you mean 'train'"),
        ("a: {tasks.clik.weight: 3}\nb: {}", r"side 'a': tasks.clik: no entry 'clik'; there are click"),
        ("a: {seed: 3}\nb: {}", r"side 'a': seed: every run is given its own"),
        ("a: {output: x}\nb: {}", r"side 'a': output: every run is given its own"),
        ("a: {}\nb: {model: {levels: 2}}", r"sides 'a' and 'b' are the same job"),
        ("a: {}", r"a comparison takes two sides or more"),
        ("a: {}\n../b: {}", r"'../b' names a folder"),
        ("a: {}\nb: 3", r"b: holds '3', not a mapping"),
        ("a: {}\nb: {data.eval: null}", r"side 'b': data.eval: nothing to compare on"),
        ("a: {}\nb: {model.arch: plee}", r"side 'b': model.arch: Input should be one of"),
        ("a: {train.epochs: 0}\nb: {train.epochs: -1}", r"side 'a': train.epochs(.|\n)*side 'b': train.epochs"),
    ],
)
def test_a_side_that_is_wrong_is_named(config: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        sides(config, *written(config, text))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--arch", "plee", "mmoe"], "--arch: no 'plee'; did you mean 'ple'"),
        (["--space", "entired", "naive"], "--space: no 'entired'; did you mean 'entire'"),
        (["--arch", "ple", "ple"], "names one side twice"),
        (["--arch", "ple"], "takes two sides or more"),
        (["--arch", "ple", "asymmetric"], "side 'asymmetric': model.reads: Field required"),
        (["--seeds", "0"], "--seeds: takes a whole number of 1 or more"),
        (["batch"], "'batch' is no setting"),
        (["model.lvels=3"], "job.yaml: model: unknown key 'lvels'"),
    ],
)
def test_a_flag_that_is_wrong_is_named(config: Path, words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        sides(config, *words)


def test_the_baseline(config: Path) -> None:
    assert baseline_of(None, {"ple": 0, "single_task": 0}) == "single_task"
    assert baseline_of(None, {"now": 0, "wide": 0}) == "now"
    assert baseline_of("wide", {"now": 0, "wide": 0}) == "wide"
    with pytest.raises(InputError, match="--baseline: no side 'x'; there are now, wide"):
        baseline_of("x", {"now": 0, "wide": 0})


def test_runs_are_seed_by_seed_and_bound(config: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", rows_per_day=20)
    changed = small_config(tmp_path / "log", "out")
    write_config(config, changed | {"seed": 7})
    found = sides(config, "--arch", "ple", "mmoe")
    out = tmp_path / "cmp"
    runs = runs_of(found, range(7, 9), out, 1)
    assert [(run.side, run.seed) for run in runs] == [("ple", 7), ("mmoe", 7), ("ple", 8), ("mmoe", 8)]
    assert runs[3].job.output == str(out / "runs/mmoe/8")
    for run in runs:
        run.prepare()
    runs_of(found, range(7, 10), out, 1)  # more seeds, and what does not touch the numbers
    runs_of(sides(config, "--arch", "ple", "mmoe", "train.log_every=3", "tracking.project=y"), [7], out, 1)
    with pytest.raises(InputError, match=r"runs/ple/7: was run with other settings .* train.batch_size changed"):
        runs_of(sides(config, "--arch", "ple", "mmoe", "train.batch_size=16"), [7], out, 1)
    with pytest.raises(InputError, match="ranks changed"):
        runs_of(found, [7], out, 2)
    write_log(tmp_path / "log", rows_per_day=20, seed=3, files_per_day=2)
    with pytest.raises(InputError, match=r"rows.evaluation, rows.training changed"):
        runs_of(found, [7], out, 1)


def test_statistics_of_earlier_days_are_shared_and_bound(config: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", rows_per_day=20)
    changed = small_config(tmp_path / "log", "out")
    changed["features"].append({"name": "of_item", "kind": "count", "column": "item_id"})
    set_key(changed, "data.train.from", DAYS[1])
    set_key(changed, "data.history", {"from": DAYS[0]})
    write_config(config, changed)
    out = tmp_path / "cmp"
    runs = runs_of(sides(config, "--arch", "ple", "mmoe"), [0], out, 1)
    assert {run.job.data.history.folder for run in runs} == {str(out / "statistics")}
    assert sorted(day.name for day in (out / "statistics").iterdir()) == [f"dt={day}" for day in DAYS[:2]]
    for run in runs:
        run.prepare()
    runs_of(sides(config, "--arch", "ple", "mmoe"), [0], out, 1)
    write_log(tmp_path / "log", DAYS[:1], rows_per_day=20, seed=3)
    with pytest.raises(InputError, match=r"other settings or rows; rows.history changed"):
        runs_of(sides(config, "--arch", "ple", "mmoe"), [0], out, 1)


def test_sides_on_unlike_days_are_refused(config: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", rows_per_day=20)
    write_config(config, small_config(tmp_path / "log", "out"))
    text = "a: {}\nb: {data.eval: {from: 2026-01-02, to: 2026-01-02}}"
    with pytest.raises(InputError, match="sides 'a' and 'b' are evaluated on unlike files"):
        runs_of(sides(config, *written(config, text)), [0], tmp_path / "cmp", 1)


def test_every_seed_begins_from_one_checkpoint(config: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", rows_per_day=20)
    store, out = CheckpointStore(str(tmp_path / "parent/checkpoints")), tmp_path / "cmp"
    write_config(config, small_config(tmp_path / "log", "out"))
    asked = sides(config, *written(config, f"a: {{}}\nb: {{warm_start.checkpoint: {store.url}}}"))

    def begun() -> str:
        settled = {name: settled_parent(name, job, out) for name, job in asked.items()}
        for run in (runs := runs_of(settled, [0, 1], out, 1)):
            run.prepare()
        assert runs[0].job.warm_start is None
        assert runs[1].job.warm_start == runs[3].job.warm_start
        return runs[1].job.warm_start.checkpoint.rpartition("/")[2]

    with pytest.raises(InputError, match=r"side 'b': warm_start.checkpoint: .* is no committed checkpoint"):
        begun()
    first = commit(store, 5)
    assert begun() == first
    commit(store, 9)
    assert begun() == first, "as those that have begun"
    shutil.rmtree(tmp_path / "parent")
    assert begun() == first, "those that have commits of their own need it no more"
    other = commit(store, 9)
    asked = sides(config, *written(config, f"a: {{}}\nb: {{warm_start.checkpoint: {store.url}/{other}}}"))
    with pytest.raises(InputError, match=r"runs/b/0: was run with other .* warm_start.checkpoint changed"):
        begun()


def test_a_record_is_taken_from_its_own_run_alone(config: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", rows_per_day=20)
    write_config(config, small_config(tmp_path / "log", "out"))
    run, *_ = runs_of(sides(config, "--arch", "ple", "mmoe"), [0], tmp_path / "cmp", 1)
    assert run.result() is None
    run.prepare()
    whole = run.job.model_dump(mode="json", by_alias=True)
    rows = {"training": run.rows.training, "evaluation": run.rows.evaluation}
    record = {"fingerprints": {"job": fingerprint(whole), **rows}, "ranks": 1}
    path = run.folder / "result.json"
    path.write_text(json.dumps(record))
    assert run.result() == record
    others = {
        "fingerprints.job": record | {"fingerprints": {"job": fingerprint(whole | {"seed": 1}), **rows}},
        "fingerprints.training": record | {"fingerprints": {"job": fingerprint(whole), **rows, "training": "x"}},
        "fingerprints.evaluation": record | {"fingerprints": {"job": fingerprint(whole), **rows, "evaluation": "x"}},
        "ranks": record | {"ranks": 2},
    }
    for key, other in others.items():
        path.write_text(json.dumps(other))
        with pytest.raises(InputError, match=rf"result.json: is of another run \({key}\); remove"):
            run.result()
    path.write_text("{")
    with pytest.raises(InputError, match=r"result\.json: cannot be read"):
        run.result()
