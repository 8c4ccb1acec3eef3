"""Create or update the team's wandb workspace for a job: panels per task, seesaw, gates, data, days.

    ./launch.sh dashboard CONFIG.yaml --entity TEAM --project PROJECT
    ./launch.sh dashboard CONFIG.yaml --entity TEAM --project PROJECT --dry-run     what it would save; no network
    ./launch.sh dashboard CONFIG.yaml --entity TEAM --project PROJECT --dry-run --json

Entity and project default to tracking.entity and tracking.project. The view is found again by the job's name: called
again, it is updated, and sections that people added to it stay. Needs FULCRUM_EXTRAS=dashboard, and a key of wandb.
"""

import argparse
import json
import sys

from jobs.failure import reported
from pipeline.dashboard.panels import sections
from pipeline.dashboard.workspace import build, save, spec, title
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import load_job


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("config", metavar="CONFIG.yaml", help="the job whose runs are shown")
    add("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    add("--entity", metavar="TEAM", help="wandb entity (default: tracking.entity)")
    add("--project", metavar="PROJECT", help="wandb project (default: tracking.project)")
    add("--dry-run", action="store_true", help="print what would be saved, and save nothing")
    add("--json", action="store_true", help="with --dry-run: the whole workspace as it would be sent")
    return out


def summary(job: JobConfig, entity: str, project: str) -> str:
    """Sections, panels and their keys, for people."""
    shown = sections(job)
    count = sum(len(section.panels) for section in shown)
    lines = [f"{title(job)} in {entity}/{project}: {len(shown)} sections, {count} panels"]
    for section in shown:
        lines += ["", section.title]
        for panel in section.panels:
            if panel.kind == "words":
                lines += [f"  {line}".rstrip() for line in panel.words.splitlines()]
            else:
                lines += [f"  {panel.title}", f"      {', '.join(panel.keys)}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Saves the workspace, or prints it; raises InputError."""
    given = parser().parse_intermixed_args(sys.argv[1:] if argv is None else argv)
    job = load_job(given.config, given.overrides)
    entity, project = given.entity or job.tracking.entity, given.project or job.tracking.project
    if not entity:
        raise InputError("--entity: name the wandb entity (team or user), or set tracking.entity")
    if given.json and not given.dry_run:
        raise InputError("--json goes with --dry-run")
    if given.dry_run:
        made = build(job, entity, project)  # by the library, whatever is printed: what it refuses is told here
        print(json.dumps(spec(made), indent=2) if given.json else summary(job, entity, project))
        return
    url, new = save(job, entity, project)
    print(f"{'created' if new else 'updated'}  {url}")


if __name__ == "__main__":
    with reported():
        main()
