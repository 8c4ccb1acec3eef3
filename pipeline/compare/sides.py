"""The sides of a comparison: one job, with other settings for each side, all of them checked before anything starts.

A side may be an architecture, a training space, both, or an entry of a SIDES.yaml: `name: {dotted.key: value, ...}`.
"""

import copy
import re
from typing import Any, get_args

from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import load_tree, parse_job, set_key
from schemas.model import ModelConfig
from schemas.strict import nearest
from schemas.tasks import Space

ARCHS = {get_args(each.model_fields["arch"].annotation)[0]: each for each in get_args(get_args(ModelConfig)[0])}
"""Every architecture's settings, by name."""
SPACES = get_args(Space)
DEFAULT_ARCHS = ("single_task", "shared_bottom", "mmoe", "ple")
OURS = ("name", "output", "seed", "tracking")
"""Settings that the comparison gives to each run."""
NAME = re.compile(r"[A-Za-z0-9_.-]+")
Settings = dict[str, Any]


def flag_sides(archs: list[str], spaces: list[str]) -> dict[str, Settings]:
    """Sides by name: every architecture, every space, or every pair of them. Raises InputError for unknown words."""
    for word, known in [*((arch, list(ARCHS)) for arch in archs), *((space, list(SPACES)) for space in spaces)]:
        if word not in known:
            flag = "--arch" if known[0] in ARCHS else "--space"
            raise InputError(f"{flag}: no '{word}'; {nearest(word, known)}")
    for words in (archs, spaces):
        if len(set(words)) < len(words):
            raise InputError(f"--arch, --space: {' '.join(words)} names one side twice; keep one")
    if archs and spaces:
        return {f"{arch}-{space}": {"model.arch": arch, "space": space} for arch in archs for space in spaces}
    return {arch: {"model.arch": arch} for arch in archs} | {space: {"space": space} for space in spaces}


def file_sides(path: str) -> dict[str, Settings]:
    """Sides by name, of a YAML file. Raises InputError."""
    sides = load_tree(path)
    for name, settings in sides.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.startswith("."):
            raise InputError(f"{path}: '{name}' names a folder too; use letters, digits, and _ . - within")
        if settings is not None and not isinstance(settings, dict):
            raise InputError(f"{path}: {name}: holds '{settings}', not a mapping of settings")
    return {name: settings or {} for name, settings in sides.items()}


def jobs_of(tree: dict[str, Any], source: str, sides: dict[str, Settings], size: int | None) -> dict[str, JobConfig]:
    """The checked job of each side, all complaints in one message; `tree` is the job's YAML, `source` names it.

    With `size`, every dense network is scaled to so many parameters. Raises InputError for a side that is no valid job,
    two sides that are one job, fewer than two, or a job without evaluation.
    """
    parse_job(copy.deepcopy(tree), source)  # its own mistakes are no side's
    if len(sides) < 2:
        raise InputError(f"{' '.join(sides) or 'no side'}: a comparison takes two sides or more; see --arch, --sides")
    found: dict[str, JobConfig] = {}
    complaints = []
    for name, settings in sides.items():
        try:
            found[name] = parse_job(_applied(tree, settings, size), f"side '{name}'")
        except InputError as error:
            text = str(error)
            complaints.append(text if text.startswith("side '") else f"side '{name}': {text}")
    if complaints:
        raise InputError("\n".join(complaints))
    seen: dict[str, str] = {}
    for name, job in found.items():
        if job.data.eval is None:
            raise InputError(f"side '{name}': data.eval: nothing to compare on; give the days to evaluate on")
        same = seen.setdefault(job.model_dump_json(by_alias=True), name)
        if same != name:
            raise InputError(f"sides '{same}' and '{name}' are the same job; change one, or leave it out")
    return found


def _applied(tree: dict[str, Any], settings: Settings, size: int | None) -> dict[str, Any]:
    """A copy of the tree with a side's settings in it."""
    out = copy.deepcopy(tree)
    flat = _flat(settings)
    for key in flat:
        if key.split(".")[0] in OURS:
            raise InputError(f"{key}: every run is given its own; leave it out")
    arch = flat.get("model.arch")
    model = out.get("model")
    if arch is not None and isinstance(model, dict) and model.get("arch") != arch:
        out["model"] = carried(model, arch)
    if "balance.method" in flat and (out.get("balance") or {}).get("method") != flat["balance.method"]:
        out["balance"] = {}  # the settings of one method are not those of another
    for key, value in flat.items():
        set_key(out, key, value)
    if size is not None:
        set_key(out, "model.match_parameters", size)
    return out


def _flat(settings: Settings, prefix: str = "") -> Settings:
    """Dotted keys: mappings are merged into the job's, key by key, but for the counts of experts by task."""
    out: Settings = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        whole = name in ("model.task_experts", "model.reads")
        out |= _flat(value, f"{name}.") if isinstance(value, dict) and value and not whole else {name: value}
    return out


def carried(model: dict[str, Any], arch: str) -> dict[str, Any]:
    """The settings of another architecture: those that it shares with `model`'s are kept, the others its defaults."""
    known = ARCHS[arch].model_fields if arch in ARCHS else {}
    # sluice wants all layers of one width
    kept = {key: value for key, value in model.items() if key in known and (arch, key) != ("sluice", "bottom_layers")}
    return kept | {"arch": arch}
