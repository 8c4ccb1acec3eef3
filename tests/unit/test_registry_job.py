"""`./launch.sh registry`: what it shows, whom it makes champion, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.registry import main
from pipeline.daily.lease import Lease
from pipeline.registry import Registry
from schemas.errors import InputError
from tests.logs import small_config, write_config
from tests.models import a_model, champions

ROOT = Path(__file__).parents[2]
DAYS = [f"2026-01-{day:02d}" for day in range(1, 10)]


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three champions, then one refused, that trained on two days and skipped one."""
    registry = Registry(str(tmp_path))
    champions(registry, tmp_path, DAYS[:3])
    metrics = {
        "click": {"kind": "binary", "own": {"rows": 1200, "auc": 0.76543}, "joint": {"rows": 2000, "auc": None}},
        "stay": {"kind": "regression", "own": {"mse": 1.25}},
    }
    model = a_model(tmp_path, DAYS[5], DAYS[2], days=[DAYS[3], DAYS[5]], skipped=[DAYS[4]], metrics=metrics)
    registry.register(model)
    verdict = {"blessed": False, "reasons": ["order pays .012 of AUC, and click gained .003"], "comparisons": []}
    (tmp_path / "days" / DAYS[5] / "verdict.json").write_text(json.dumps(verdict))
    (tmp_path / "days" / DAYS[2] / "verdict.json").write_text(json.dumps({"blessed": True}))
    return str(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def cells(text: str, begin: str) -> list[str]:
    """The words of the line that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(begin)]
    return line.split()


def test_a_list_shows_champion_models_and_promotions(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    Registry(root).retire(2, 1)
    text = said(capsys, root)
    assert text.startswith("champion 2026-01-03, by promotion 3 of 20")
    assert cells(text, "model ") == ["model", "parent", "trained", "on", "verdict", "weights", "click", "order", "stay"]
    assert cells(text, "2026-01-01") == ["2026-01-01", "-", "2026-01-01", "unread", "removed", "0.7512", "0.7000", "-"]
    assert cells(text, "2026-01-03")[:6] == ["2026-01-03", "*", "2026-01-02", "2026-01-03", "blessed", "kept"]
    trained = ["2026-01-04", "to", "2026-01-06", "(2)"]
    assert cells(text, "2026-01-06") == [
        "2026-01-06",
        "2026-01-03",
        *trained,
        "refused",
        "kept",
        "0.7654",
        "-",
        "1.2500",
    ]
    assert cells(text, "3 ")[:3] == ["3", "2026-01-03", "promotion"]
    assert cells(text, "3 ")[-1] == "blessed"
    text = said(capsys, root, "list", "--last", "1")
    assert [line.split()[0] for line in text.splitlines() if line.startswith("2026")] == ["2026-01-06"]
    assert "3 older models are not shown (--last 0)" in text


def test_a_model_is_shown_with_its_verdict_and_its_lineage(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, root, "show", DAYS[5])
    assert "skipped        2026-01-05\n" in text
    assert f"verdict        refused  {root}/days/{DAYS[5]}/verdict.json\n" in text
    assert "order pays .012 of AUC, and click gained .003" in text
    assert "lineage        2026-01-06 <- 2026-01-03 <- 2026-01-02 <- 2026-01-01" in text
    assert [line.split() for line in text.splitlines()[-5:]] == [
        ["task", "rows", "auc", "mse"],
        ["-" * 13, "-" * 5, "-" * 6, "-" * 6],
        ["click", "1,200", "0.7654", "-"],
        ["click", "(joint)", "2,000", "-", "-"],
        ["stay", "-", "-", "1.2500"],
    ]
    assert "champion       by promotion 3 of 20" in said(capsys, root, "show", DAYS[2])
    config = yaml.safe_load(said(capsys, root, "show", DAYS[5], "--config"))
    assert config == {"name": "ranker", "train": {"batch_size": 32}}


def test_a_lineage_counts_days_trained_and_skipped(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, root, "lineage", DAYS[5])
    assert [line.split()[0] for line in text.splitlines() if line.startswith("2026")] == [DAYS[5], *DAYS[2::-1]]
    assert text.endswith("4 models, 5 days trained, 1 skipped\n")


def test_one_command_rolls_back_and_gives_the_lease_back(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, root, "rollback", "--because", "clicks fell")
    assert text.startswith("champion 2026-01-02, by rollback 4 of 20")
    assert text.endswith(": clicks fell; before: 2026-01-03\n")
    text = said(capsys, root, "rollback", DAYS[0], "--because", "still")
    assert text.startswith("champion 2026-01-01, by rollback 5")
    text = said(capsys, root, "promote", DAYS[5], "--because", "the gate was too strict")
    assert text.startswith("champion 2026-01-06, by manual 6")
    champion = Registry(root).champion()
    assert champion is not None
    assert champion.name == DAYS[5]


def test_a_configuration_names_its_own_output(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = small_config("log", root)
    assert said(capsys, str(write_config(tmp_path / "job.yaml", config))).startswith("champion 2026-01-03")


def test_a_registry_without_a_champion_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Registry(str(tmp_path)).register(a_model(tmp_path, DAYS[0], verdict=None))
    text = said(capsys, str(tmp_path))
    assert text.startswith("no champion yet\n")
    assert cells(text, "2026-01-01")[3] == "none"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rollback"], "rollback: say why, for whoever reads it later: --because TEXT"),
        (["rollback", "--because", " "], "rollback: say why"),
        (["promote", "--because", "x"], "promote: name a model; there are 2026-01-01, "),
        (["show"], "show: name a model; there are 2026-01-01, "),
        (["show", "2026-02-01"], "no model '2026-02-01' is registered; there are 2026-01-01, "),
        (["promote", "2026-01-03", "--because", "x"], r"2026-01-03 is champion already \(promotion 3\)"),
        (["rollback", "2026-01-06", "--because", "x"], "'2026-01-06' is no earlier champion; those are 2026-01-02, "),
    ],
)
def test_what_cannot_be_done_is_told(root: str, arguments: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        main([root, *arguments])
    assert len(Registry(root).promotions()) == 3


def test_a_model_whose_checkpoint_is_not_whole_is_not_promoted_by_hand(root: str) -> None:
    (Path(Registry(root).model(DAYS[5]).checkpoint) / "__0_0.distcp").unlink()
    with pytest.raises(InputError, match=r"model 2026-01-06: .*__0_0\.distcp is missing or cut short"):
        main([root, "promote", DAYS[5], "--because", "x"])


@pytest.mark.parametrize("action", [["rollback"], ["promote", DAYS[5]]])
def test_while_a_day_is_at_work_nothing_is_changed(root: str, action: list[str]) -> None:
    with Lease(root, 3600, "2026-01-07") as lease:
        told = rf"2026-01-07 is at work, by process {os.getpid()} on .*, since .*; its lease ends at .* unless it is"
        with pytest.raises(InputError, match=told):
            main([root, *action, "--because", "x"])
        lease.check()
    assert len(Registry(root).promotions()) == 3


def test_a_path_that_holds_no_registry_is_told_with_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.registry", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/runs: holds no registry")
    assert list(tmp_path.iterdir()) == [], "nothing is made by looking"
