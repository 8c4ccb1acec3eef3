"""The sections as a workspace of wandb-workspaces: built without a network, saved to a server.

The library is an extra (FULCRUM_EXTRAS=dashboard) and brings wandb along; it is imported here alone, where it is used.
"""

import hashlib
import json
from types import ModuleType
from typing import Any

from pipeline.dashboard.panels import Panel, Section, main_metric, sections
from schemas.errors import InputError
from schemas.job import JobConfig

ID_LENGTH = 11
"""Of a saved view's id, as wandb makes them."""
TASK = "Task: "
"""Begins the titles of the tasks' sections: those of tasks that went are removed."""
MOST_RUNS = 120
"""That a panel shows: a day of retraining has four."""
SAMPLES = "samples"
"""Every curve's x axis: rows trained."""


def view_id(job: JobConfig) -> str:
    """The id of the job's view, the same each time, by which it is found again."""
    return hashlib.sha256(f"fulcrum {job.name}".encode()).hexdigest()[:ID_LENGTH]


def build(job: JobConfig, entity: str, project: str) -> Any:
    """The job's workspace, unsaved. Raises InputError where the library is not installed."""
    ws, wr = _libraries()
    out = ws.Workspace(
        entity=entity,
        project=project,
        name=title(job),
        sections=[_section(ws, wr, section) for section in sections(job)],
        settings=ws.WorkspaceSettings(x_axis=SAMPLES, max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(query=runs_query(job), regex_query=True, pinned_columns=columns(job)),
    )
    out._internal_name = f"nw-{view_id(job)}-v"  # save() would draw one, and every call make another view
    return out


def title(job: JobConfig) -> str:
    """What the view is called."""
    return f"Fulcrum: {job.name}"


def runs_query(job: JobConfig) -> str:
    """The regular expression that the names of the job's runs match: its own, and those of its days.

    By name and not by group: each day's runs have a group of their own.
    """
    types = "train|eval|gate|backfill"
    return f"^{job.name.replace('.', '[.]')}([.][0-9].*)?-({types})$"


def columns(job: JobConfig) -> list[str]:
    """Of the table of runs."""
    out = ["run:displayName", "run:state", "run:jobType"]
    if job.daily is not None:
        out += ["config:day.value", "summary:daily/promoted"]
    out += ["summary:outcome", "summary:why"]
    side = "daily/held/challenger" if job.daily is not None else "eval"
    return out + [f"summary:{side}/{task.name}/{main_metric(task)}" for task in job.tasks]


def save(job: JobConfig, entity: str, project: str) -> tuple[str, bool]:
    """Creates the job's view, or updates it; its page, and whether it is new.

    Of a view that is there already, sections of the same titles are replaced, those that people added stay below, and
    so do its choice of runs and its settings. Raises InputError where the server does not do it.
    """
    ws, _ = _libraries()
    made = build(job, entity, project)
    try:
        found = _found(ws, job, entity, project)
        if found is not None:
            _update(found, made)
        saved = (found or made).save()
        return saved.url, found is None
    except Exception as error:  # whatever wandb raises: of a key, a network, a right, a version
        raise InputError(
            f"{entity}/{project}: the workspace was not saved ({_first(error)}); see that WANDB_API_KEY is set (or "
            "`wandb login` was run), that entity and project are written as in the project's address and one run was "
            "logged there, and that WANDB_BASE_URL names your server where it is not wandb.ai. --dry-run shows the "
            "workspace without a server"
        ) from error


def spec(workspace: Any) -> dict[str, Any]:
    """What would be sent, as plain data."""
    view = workspace._to_model()
    told = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.name, "title": view.display_name, "spec": told}


def _found(ws: ModuleType, job: JobConfig, entity: str, project: str) -> Any:
    """The view as it is saved; None where there is none."""
    try:
        return ws.Workspace.from_url(f"https://wandb.ai/{entity}/{project}?nw={view_id(job)}")  # its path alone is read
    except ValueError as error:
        if str(error).startswith("Workspace `"):
            return None
        raise


def _update(found: Any, made: Any) -> None:
    """Puts what was made into what was found."""
    ours = {section.name for section in made.sections}
    before = {section.name: section for section in found.sections}
    for section in made.sections:
        if section.name in before:
            section._id = before[section.name]._id  # what people moved there stays there
            section.is_open = before[section.name].is_open
    kept = [s for s in found.sections if s.name not in ours and not s.name.startswith(TASK)]
    found.sections = [*made.sections, *kept]
    found.name = made.name
    found.runset_settings.pinned_columns = made.runset_settings.pinned_columns


def _section(ws: ModuleType, wr: ModuleType, section: Section) -> Any:
    panels = []
    for number, panel in enumerate(section.panels):
        made = _panel(wr, panel)
        # the same each time, so that what people changed in it is kept: wandb tells their changes by it
        made._id = hashlib.sha256(f"{section.title}\n{panel.title}\n{number}".encode()).hexdigest()[:ID_LENGTH]
        panels.append(made)
    layout = ws.SectionLayoutSettings(columns=3, rows=max(1, min(4, -(-len(panels) // 3))))
    axis = ws.SectionPanelSettings(x_axis=SAMPLES)
    return ws.Section(
        name=section.title, panels=panels, is_open=section.opened, layout_settings=layout, panel_settings=axis
    )


def _panel(wr: ModuleType, panel: Panel) -> Any:
    keys, bounds = list(panel.keys), (panel.low, panel.high)
    match panel.kind:
        case "words":
            return wr.MarkdownPanel(markdown=panel.words)
        case "table":
            return wr.WeavePanelSummaryTable(table_name=keys[0])
        case "bars":
            by_day = wr.Config("day")
            return wr.BarPlot(title=panel.title, metrics=keys, groupby=by_day, groupby_aggfunc="max", range_x=bounds)
        case "lines":
            return wr.LinePlot(title=panel.title, x=SAMPLES, y=keys, range_y=bounds)
        case "shares":
            return wr.LinePlot(title=panel.title, x=SAMPLES, y=keys, range_y=bounds, plot_type="stacked-area")


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise InputError(
            f"wandb-workspaces is not installed ({error}); FULCRUM_EXTRAS=dashboard ./launch.sh dashboard ... installs "
            "it"
        ) from error
    return ws, wr


def _first(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split("\n", 1)[0].rstrip(".")
