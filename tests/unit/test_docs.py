"""README and docs against the repository: links, file tree, YAML, jobs, keys, variables, and what may not be told."""

import ast
import fnmatch
import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import __main__ as jobs_list
from schemas.job import JobConfig, json_schema
from schemas.load import parse_job

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
SHELL_WORDS = {"test", "check", "help"}
"""What `./launch.sh` takes beside the names of jobs."""
UNREAD = {"CUDA_VISIBLE_DEVICES"}
"""Variables named in order to say that they are not read."""


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


# ---- the files of the repository


@cache
def repository_files() -> frozenset[str]:
    """Every file that is tracked, or untracked and not ignored."""
    return from_git() or from_disk()


def from_git() -> frozenset[str]:
    """Git's own answer; empty without git or outside a checkout."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(name for name in listed.split("\0") if name and (ROOT / name).exists())


def from_disk() -> frozenset[str]:
    """The tree less what .gitignore names, and less folders that bring a .gitignore of their own, as caches do."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()] + [".git"]

    def kept(name: str) -> bool:
        return not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)

    found = set()
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [name for name in folders if kept(name) and not (here / name / ".gitignore").exists()]
        found |= {(here / name).relative_to(ROOT).as_posix() for name in names if kept(name)}
    return frozenset(found)


def has_code(path: Path) -> bool:
    """Whether a Python file holds anything beside a docstring."""
    body = ast.parse(path.read_text()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def tree_of(text: str) -> list[str]:
    """The files that the README's tree names, `a_{b,c}.py` spelt out."""
    block = text[text.index("\n## Files\n") :].split("```text\n", 1)[1].split("```", 1)[0]
    files, folders = [], []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        assert len(line.split()) > 1 or name.endswith("/"), f"no phrase for {name}"
        if name.endswith("/"):
            folders[depth:] = [name]
        else:
            files += ["".join([*folders[:depth], each]) for each in braces(name)]
    return files


def braces(name: str) -> list[str]:
    before, brace, rest = name.partition("{")
    if not brace:
        return [name]
    inner, _, after = rest.partition("}")
    return [before + each + after for each in inner.split(",")]


def test_the_tree_names_every_file_once_and_no_other() -> None:
    named = tree_of(README.read_text())
    there = {f for f in repository_files() if not f.endswith("__init__.py") or has_code(ROOT / f)}
    assert len(named) == len(set(named)), "a file is named twice"
    assert sorted(there - set(named)) == [], "files that README's tree does not name"
    assert sorted(set(named) - there) == [], "files that README's tree names and that are not there"


def test_without_git_the_tree_is_walked_to_the_same_files() -> None:
    if tracked := from_git():
        assert from_disk() == tracked


# ---- links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in [slug(h) for h in re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)], target


def test_every_page_is_reached_from_the_readme() -> None:
    named = tree_of(README.read_text())
    assert [page_id(page) for page in PAGES if page_id(page) not in named] == []


# ---- YAML


def yaml_blocks() -> Iterator[tuple[str, Any]]:
    for page in PAGES:
        for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)):
            yield f"{page_id(page)}, YAML block {number}", yaml.safe_load(text)


def is_whole(tree: Any) -> bool:
    return isinstance(tree, dict) and {"name", "features", "tasks"} <= tree.keys()


def test_whole_jobs_are_valid_and_fragments_have_known_keys() -> None:
    blocks = list(yaml_blocks())
    for source, tree in blocks:
        if is_whole(tree):
            parse_job(tree, source)
        else:
            assert set(tree or {}) <= set(JobConfig.model_fields), source
    assert sum(is_whole(tree) for _, tree in blocks) >= 2, "the reader found the README's examples"


def test_the_configuration_walked_through_is_the_one_in_the_box() -> None:
    packaged = yaml.safe_load((ROOT / "jobs/configs/generated.yaml").read_text())
    assert [source for source, tree in yaml_blocks() if tree == packaged], "README's copy of generated.yaml differs"


# ---- jobs, keys, variables


@every_page
def test_every_job_that_is_named_exists(page: Path) -> None:
    for word in re.findall(r"\./launch\.sh[ \t]+([a-z_]+)", page.read_text()):
        assert word in SHELL_WORDS or (ROOT / f"jobs/{word}.py").exists(), f"./launch.sh {word}"
        assert word not in jobs_list.PARTS, f"./launch.sh {word} is no job"


def test_the_schema_for_editors_is_up_to_date() -> None:
    stored = json.loads((ROOT / "schemas/job.schema.json").read_text())
    assert stored == json_schema(), "run ./launch.sh schema > schemas/job.schema.json"


def words_to_tell() -> set[str]:
    """Every key of the configuration, and every word that one of its settings may be."""
    out: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            out.update(node.get("properties", {}))
            out.update(word for word in [*node.get("enum", []), node.get("const")] if isinstance(word, str))
            for key, value in node.items():
                if key not in ("enum", "const", "required", "default"):
                    walk(value)

    walk(json_schema())
    return out


def told() -> set[str]:
    """Every word that stands in code of the pages: between backticks, or as a key or value of a YAML block."""
    out: set[str] = set()
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", prose(page)):
            out.update(re.findall(r"\w+", span))
    for _, tree in yaml_blocks():
        out.update(re.findall(r"\w+", yaml.safe_dump(tree)))
    return out


def test_every_key_and_choice_of_the_configuration_is_told() -> None:
    words = words_to_tell()
    assert len(words) > 80, "the schema was walked"
    assert sorted(words - told()) == []


def test_variables_of_the_environment_exist_in_code() -> None:
    code = "\n".join(
        (ROOT / name).read_text()
        for name in repository_files()
        if name.endswith((".py", ".sh")) and "test_docs" not in name
    )
    pages = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"\b(?:FULCRUM|WANDB|OMP|CUDA)_[A-Z_]+\b", pages))
    assert {"FULCRUM_VENV", "FULCRUM_TRACE", "OMP_NUM_THREADS"} <= named
    assert sorted(name for name in named if name not in code and name not in UNREAD) == []


# ---- what the repository may not tell


MACHINES = [f"/{folder}/" for folder in ("work", "tmp", "root")]
HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("files", "pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
    )
]


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_runs_by_its_path_alone(script: Path) -> None:
    text = script.read_text()
    if '__name__ == "__main__"' in text:
        ours = re.search(r"^from (benchmarks|jobs|pipeline|schemas|tests)\b", text, re.MULTILINE)
        found = text.find("sys.path.insert(0, str(")
        assert ours is None or 0 <= found < ours.start(), "its own folder is on its path, not the root"


def test_no_machines_path_and_no_package_index_is_told() -> None:
    found = []
    for name in sorted(repository_files()):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not a text
        found += [f"{name}: {word}" for word in itertools.chain(MACHINES, HOSTS) if word in text]
    assert found == []
