"""The workspace as code: its panels, what is sent, and what a server is asked, by the real library and client."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from jobs.dashboard import main
from pipeline.archs import ARCHS
from pipeline.daily.documents import day_job
from pipeline.daily.place import Place, place_of
from pipeline.dashboard.panels import MOST, keys_of, sections
from pipeline.dashboard.workspace import build, columns, runs_query, save, spec, view_id
from pipeline.keys import gates_of, logged_keys
from pipeline.tracking import Tracking
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import small_config, small_job, write_config
from tests.workspaces import Views, wandb_server

NUMBER = {"tasks.order.kind": "regression", "tasks.order.given": ..., "tasks.order.label": "seconds"}
MODELS: list[dict[str, Any]] = [
    {"arch": "ple", "levels": 3, "task_experts": {"click": 2, "cart": 1, "fav": 1, "order": 0}, "shared_experts": 2},
    {"arch": "ple", "shared_experts": 0},
    {"arch": "cgc"},
    {"arch": "ml_mmoe"},
    {"arch": "mmoe", "experts": 3},
    {"arch": "moe"},
    {"arch": "sluice"},
    {"arch": "cross_stitch"},
    {"arch": "single_task"},
]


def job_of(model: dict[str, Any] | None = None, daily: bool = False, **changes: Any) -> JobConfig:
    told = {"model": {**model, "tower_layers": [4]}} if model else {}
    out = small_job("log", "out", told | changes)
    return out.model_copy(update={"daily": small_daily()}) if daily else out


def small_daily() -> Any:
    from schemas.daily import DailyConfig

    return DailyConfig()


def panel_keys(sent: dict[str, Any]) -> set[str]:
    """Every key that a panel of a sent workspace refers to."""
    out: set[str] = set()
    for section in sent["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            out.update(config.get("metrics", []))
            out.update(axis.removeprefix("summary:") for axis in [config.get("yAxis")] if isinstance(axis, str))
            out.update(re.findall(r'"(curves/[^"]+)"', json.dumps(config)))
    return out


@pytest.mark.parametrize("daily", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["arch"])
def test_every_panels_key_is_one_that_the_job_logs(model: dict[str, Any], daily: bool) -> None:
    job = job_of(model, daily)
    logged, shown = logged_keys(job), keys_of(sections(job))
    assert sorted(set(shown) - set(logged)) == []
    assert panel_keys(spec(build(job, "team", "ranking"))) == set(shown), "and they are sent under these names"


@pytest.mark.parametrize("daily", [False, True])
def test_what_is_logged_is_shown_but_for_details(daily: bool) -> None:
    details = re.compile(r".*/(positives|rows|log_loss|mae|r2|joint_.*|log_loss_joint|calibration_joint|calibration)")
    job = job_of(daily=daily, **NUMBER)
    unseen = set(logged_keys(job)) - set(keys_of(sections(job)))
    assert [key for key in unseen if not details.fullmatch(key)] == []


@pytest.mark.parametrize("model", [m for m in MODELS if "m" in m["arch"] or m["arch"] in ("ple", "cgc")])
def test_gates_have_the_experts_of_the_network(model: dict[str, Any]) -> None:
    job = job_of(model)
    arch = ARCHS[job.model.arch](in_dim=5, tasks=4, **job.model.arguments([task.name for task in job.tasks]))
    levels = getattr(arch, "levels", [])
    assert len(gates_of(job)) == len(levels)
    for level, gates in zip(levels, gates_of(job), strict=True):
        found = getattr(level, "task_gates", None) or level.gates
        widths = [gate.out_features for gate in found]
        shared = getattr(level, "shared_gate", None)
        assert [len(seen) for seen in gates.values()] == widths + ([shared.out_features] if shared is not None else [])


def test_every_task_has_its_section_and_a_stranger_is_told_how_to_read() -> None:
    shown = {section.title: section for section in sections(job_of(daily=True))}
    assert [title.removeprefix("Task: ") for title in shown if title.startswith("Task: ")] == [
        "click", "cart", "fav", "order",
    ]  # fmt: skip
    words = shown["How to read this"].panels[0].words
    for outcome in ("finished", "refused", "failed", "stopped"):
        assert f"| {outcome} |" in words
    assert "./launch.sh daily CONFIG.yaml --date DAY" in words
    assert {"config:day.value", "summary:outcome", "summary:why"} <= set(columns(job_of(daily=True)))
    assert "Days: champion and challenger" not in {section.title for section in sections(job_of())}


def test_a_panel_has_no_more_lines_than_can_be_told_apart() -> None:
    job = job_of({"arch": "ple", "task_experts": 3})
    panels = [panel for section in sections(job) for panel in section.panels if panel.kind == "lines"]
    assert max(len(panel.keys) for panel in panels) == MOST
    assert any(panel.title.endswith("(2 of 7)") for panel in panels)


def test_a_regression_task_is_read_by_its_error() -> None:
    job = job_of(**NUMBER)
    assert "summary:eval/order/mse" in columns(job)
    (own,) = [section for section in sections(job) if section.title == "Task: order"]
    assert "train/order/mse" in keys_of([own])
    assert not any("auc" in key or "scores" in key for key in keys_of([own]))


def test_the_query_finds_the_jobs_runs_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(wandb, "init", lambda **told: names.append(told["name"]))
    job = small_job("log", tmp_path, {"name": "ranker.v2", "tracking.mode": "offline"})
    day = place_of("root", "2026-01-08.2")
    kinds = [(job, "train"), (job, "eval"), (job, "gate"), (job, "backfill")]
    kinds += [(day_job(job, day, f"{job.name}.{day.key}{end}", str(tmp_path)), "train") for end in ("", ".held")]
    for each, kind in kinds:
        Tracking(each, kind, {})
    assert len(names) == len(kinds)
    assert [name for name in names if not re.search(runs_query(job), name)] == []
    for other in ("ranker.v2-wide-train", "ranker.v3-train", "rankerxv2-train", "my-ranker.v2-train"):
        assert not re.search(runs_query(job), other)
    assert Place("root", day.day).key == "2026-01-08"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Views]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with wandb_server(monkeypatch) as views:
        yield views


def test_it_is_created_once_and_updated_from_then_on(server: Views) -> None:
    job = job_of()
    url, new = save(job, "team", "ranking")
    assert new
    assert url.endswith(f"/team/ranking?nw={view_id(job)}")
    ((key, view),) = server.saved.items()
    assert key == ("team", "ranking", f"nw-{view_id(job)}-v")
    assert view["displayName"] == "Fulcrum: small"
    assert json.loads(view["spec"]) == spec(build(job, "team", "ranking"))["spec"], "--dry-run shows what is sent"
    assert save(job, "team", "ranking") == (url, False)
    assert [sent.get("id") for sent in server.mutations] == [None, view["id"]]
    assert server.mutations[0]["spec"] == server.mutations[1]["spec"], "nothing changed"


def test_what_people_added_stays_and_tasks_that_went_go(server: Views) -> None:
    save(job_of(), "team", "ranking")
    (view,) = server.saved.values()
    tree = json.loads(view["spec"])
    bank = tree["section"]["panelBankConfig"]["sections"]
    bank.insert(0, {**bank[0], "name": "Our own"})
    tree["section"]["runSets"][0]["search"]["query"] = "theirs"
    view["spec"] = json.dumps(tree)
    job = job_of(**{"tasks.fav": ...})
    save(job, "team", "ranking")
    after = json.loads(next(iter(server.saved.values()))["spec"])["section"]
    titles = [section["name"] for section in after["panelBankConfig"]["sections"]]
    assert titles == [*(section.title for section in sections(job)), "Our own"]
    assert "Task: fav" not in titles
    assert after["runSets"][0]["search"]["query"] == "theirs"


@pytest.mark.parametrize(
    ("project", "refuses", "said"),
    [("nowhere", "", "Project `team/nowhere` not found"), ("ranking", "no right to save", "no right to save")],
)
def test_what_the_server_refuses_is_told_with_the_remedy(server: Views, project: str, refuses: str, said: str) -> None:
    server.refuses = refuses
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        save(job_of(), "team", project)
    assert "WANDB_API_KEY" in str(caught.value)
    assert str(caught.value).startswith(f"team/{project}: ")


def test_without_a_network_the_dry_run_shows_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    path = str(write_config(tmp_path / "job.yaml", small_config("log", "out")))
    main([path, "--entity", "team", "--project", "ranking", "--dry-run"])
    printed = capsys.readouterr().out
    job = job_of()
    assert printed.startswith(f"Fulcrum: small in team/ranking: {len(sections(job))} sections, ")
    assert [key for key in keys_of(sections(job)) if key not in printed] == []
    main([path, "--entity", "team", "--project", "ranking", "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["entity"], told["project"], told["title"]) == ("team", "ranking", "Fulcrum: small")
    assert panel_keys(told) == set(keys_of(sections(job)))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_config(tmp_path / "job.yaml", small_config("log", "out")))
    with pytest.raises(InputError, match=r"--entity: name the wandb entity"):
        main([path, "--dry-run"])
    with pytest.raises(InputError, match="--json goes with --dry-run"):
        main([path, "--entity", "team", "--json"])
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(InputError, match=r"FULCRUM_EXTRAS=dashboard \./launch\.sh dashboard"):
        main([path, "--entity", "team", "--dry-run"])


def test_a_panel_shows_a_month_of_days() -> None:
    config = small_config("log", "out") | {"daily": {}}
    config["data"].pop("eval", None)
    told = spec(build(parse_job(config, "test"), "team", "ranking"))["spec"]
    assert json.dumps(told).count('"maxRuns": 120') == 1, "a day has four runs: its own, and those of its steps"


@pytest.mark.parametrize("name", ["shared", "cosine"])
def test_names_that_keys_have_for_themselves_are_refused(name: str) -> None:
    config = small_config("log", "out")
    config["tasks"][0]["name"] = name
    config["tasks"][0]["label"] = "click"
    with pytest.raises(InputError, match=f"'{name}' is a name that the keys"):
        parse_job(config, "test")
