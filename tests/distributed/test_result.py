"""result.json against what the job prints, on two ranks, again after its end, and in a store."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.train.pace import START_STEPS
from pipeline.train.result import RESULT, write_result
from schemas.errors import InputError
from schemas.identity import fingerprint
from schemas.load import parse_job
from tests.distributed.command import run
from tests.logs import DAYS, small_config, small_job, write_config, write_log

ROWS, BATCH = 700, 32


@dataclass
class Ended:
    config: dict[str, Any]
    printed: str
    result: dict[str, Any]
    again: dict[str, Any]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("result")
    write_log(folder / "log", DAYS, ROWS, watch=np.random.default_rng(0).random(ROWS).astype(np.float32))
    config = small_config(folder / "log", "out")
    config["tasks"].append({"name": "watch", "kind": "regression"})
    config["train"]["checkpoint_every"] = 11
    path = write_config(folder / "job.yaml", config)
    printed = run(path)
    result = json.loads((folder / "out" / RESULT).read_text())
    run(path, flags=("--nproc-per-node", "1"))
    return Ended(config, printed, result, json.loads((folder / "out" / RESULT).read_text()))


def test_it_holds_the_printed_tables_unrounded(ended: Ended) -> None:
    tasks = ended.result["tasks"]
    assert list(tasks) == ["click", "cart", "fav", "order", "watch"]
    lines = {line.split("  ")[0]: line.split() for line in ended.printed.splitlines() if "  " in line}
    for name, told in tasks.items():
        parts = [(name, told["own"])] + ([(f"{name} (joint)", told["joint"])] if "joint" in told else [])
        for row, m in parts:
            if told["kind"] == "regression":
                wanted = [f"{m['rows']:,}", f"{m['mse']:.4g}", f"{m['mse_low']:.4g}", "-", f"{m['mse_high']:.4g}"]
                wanted += [f"{m['mae']:.4g}", f"{m['r2']:.4f}"]
            else:
                wanted = [f"{m['rows']:,}", f"{m['positives']:,}", f"{m['auc']:.4f}", f"{m['auc_low']:.4f}", "-"]
                wanted += [f"{m['auc_high']:.4f}", f"{m['log_loss']:.4f}", f"{m['ne']:.4f}", f"{m['calibration']:.3f}"]
            assert lines[row][-len(wanted) :] == wanted, row
    assert {name for name, told in tasks.items() if "joint" in told} == {"cart", "fav", "order"}


def test_it_says_what_ran_and_what_it_cost(ended: Ended) -> None:
    told = ended.result
    steps = 2 * ROWS // BATCH + 1
    assert (told["arch"], told["space"], told["seed"], told["ranks"], told["precision"]) == (
        *("ple", "conditional"),
        *(0, 2, "fp32"),
    )
    assert (told["step"], told["samples"]) == (steps, 2 * ROWS)
    # all steps but the first few, and 24 rows in the last
    assert told["timed_rows"] == 2 * ROWS - START_STEPS * BATCH
    assert told["rows_per_second"] == pytest.approx(told["timed_rows"] / told["timed_seconds"])
    assert 0 < told["timed_seconds"] < told["seconds"]
    assert 100 << 20 < told["rss_bytes"] < 8 << 30
    assert told["cuda_bytes"] == 0
    assert f"network {told['dense_parameters']:,} parameters" in ended.printed
    assert f"{told['flops_per_row']:,} FLOPs" in ended.printed
    assert f"tables {told['table_parameters']:,} parameters" in ended.printed


def test_it_is_bound_to_the_job_and_its_rows(ended: Ended) -> None:
    job = parse_job(ended.config, "test").model_dump(mode="json", by_alias=True)
    assert ended.result["fingerprints"]["job"] == fingerprint(job)
    assert len(set(ended.result["fingerprints"].values())) == 3
    quiet = job | {"output": "elsewhere", "train": job["train"] | {"log_every": 7}}
    assert fingerprint(quiet) == fingerprint(job)
    for key, value in {"seed": 1, "space": "entire", "vocabularies": {"user": "abc"}}.items():
        assert fingerprint(job | {key: value}) != fingerprint(job), key


def test_evaluated_again_it_keeps_the_rate_of_its_training(ended: Ended) -> None:
    again, before = ended.again, ended.result
    assert again["ranks"] == 1
    assert (again["timed_rows"], again["timed_seconds"]) == (before["timed_rows"], before["timed_seconds"])
    assert again["fingerprints"] == before["fingerprints"]
    for task, told in before["tasks"].items():
        assert again["tasks"][task]["own"] == pytest.approx(told["own"], rel=1e-5)


def test_it_lies_in_a_store_too() -> None:
    job = small_job("unused", "memory://result-test/run")
    write_result(job, {"format": 1})
    with fsspec.open("memory://result-test/run/result.json") as file:
        assert json.load(file) == {"format": 1}


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / RESULT / "in the way").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{tmp_path}/result.json: cannot be written .* training is done"):
        write_result(small_job("unused", tmp_path), {"format": 1})
