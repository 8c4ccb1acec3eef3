"""Reads a job's YAML, applies the command line's dotted overrides and turns every complaint into one message."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.errors import InputError, has_credentials
from schemas.job import JobConfig


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the plain loader keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # the loader's own business: it merges, and refuses a list or mapping as a key
            key = self.construct_object(key_node)
            if key in seen:
                raise InputError(f"line {key_node.start_mark.line + 1}: key '{key}' is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_job(path: str, overrides: list[str] | None = None) -> JobConfig:
    """The checked job of a YAML file with `key=value` overrides, such as `train.batch_size=4096`.

    Lists of named things take the name in the key: `tasks.cart.weight=2`. Raises InputError naming every bad key.
    """
    return parse_job(load_tree(path, overrides), path)


def load_tree(path: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """A YAML file's mapping with the overrides in it, its settings unchecked. Raises InputError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; name a YAML file") from error
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a day that no month has
        raise InputError(f"{path}: not valid YAML: {_problem(error)}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds {type(raw).__name__}, not a mapping of settings")
    return with_overrides(raw, overrides or [])


def with_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of an unchecked tree with the overrides in it. Raises InputError."""
    raw = _unshared(raw)
    for override in overrides:
        _apply(raw, override)
    return raw


def parse_job(raw: dict[str, Any], source: str) -> JobConfig:
    """The checked job of an already parsed tree; `source` names it in errors."""
    for key in _credentials(raw):
        raise InputError(
            f"{source}: {key}: the URL carries credentials, which would end up in logs and checkpoints (not shown "
            "here); take them out, and give them in the environment or in the driver's own configuration"
        )
    try:
        return JobConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError("\n".join(f"{source}: {line}" for line in _lines(error, raw))) from error


def _problem(error: Exception) -> str:
    """What YAML says, and where; its own message shows the text around the place, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return str(error)
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{said} (line {mark.line + 1}, column {mark.column + 1})"


def _credentials(node: Any, path: str = "") -> list[str]:
    """Dotted keys of the strings that are URLs with credentials in them."""
    if isinstance(node, str):
        return [path] if has_credentials(node) else []
    if isinstance(node, dict):
        children = [(str(key), value) for key, value in node.items()]
    else:
        children = [(str(i), value) for i, value in enumerate(node)] if isinstance(node, list) else []
    return [found for key, value in children for found in _credentials(value, f"{path}.{key}" if path else key)]


def _unshared(node: Any) -> Any:
    """The tree with every YAML alias a copy of its own, so that an override changes one place."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(item) for item in node] if isinstance(node, list) else node


def _apply(raw: dict[str, Any], override: str) -> None:
    """Sets one dotted key of the raw tree; types are left to the models."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"'{override}' is no override; write key=value, such as train.batch_size=4096")
    if value.startswith("@"):
        set_key(raw, key, _of_file(key, value[1:]))
        return
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"'{override}': the value is not valid YAML: {_problem(error)}") from None
    set_key(raw, key, parsed)


def _of_file(key: str, path: str) -> Any:
    """What a YAML file holds for the key: under the key's last part where it has one alone, or all of it."""
    tree = load_tree(path)
    last = key.rpartition(".")[2]
    return tree[last] if list(tree) == [last] else tree


def set_key(raw: dict[str, Any], key: str, value: Any) -> None:
    """Sets one dotted key of an unchecked tree; raises InputError where it leads nowhere."""
    node: Any = raw
    *path, last = key.split(".")
    for depth, part in enumerate(path):
        node = _step(node, part, ".".join(path[: depth + 1]), create=True)
    if isinstance(node, list):
        entry = _step(node, last, key, create=False)
        node[int(last) if last.isdigit() else node.index(entry)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"{key}: '{'.'.join(path)}' is a value, not a group of settings")


def _step(node: Any, part: str, so_far: str, create: bool) -> Any:
    if isinstance(node, list):
        named = [item for item in node if isinstance(item, dict) and item.get("name") == part]
        if named:
            return named[0]
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        names = [str(item.get("name") if isinstance(item, dict) else i) for i, item in enumerate(node)]
        raise InputError(f"{so_far}: no entry '{part}'; there are {', '.join(names)}")
    if not isinstance(node, dict):
        raise InputError(f"{so_far}: its parent is a value, not a group of settings")
    if create and node.get(part) is None:
        node[part] = {}
    return node[part]


def _lines(error: ValidationError, raw: Any) -> list[str]:
    """One line a key: its dotted path, what is wrong, what was given."""
    messages: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for problem in error.errors():
        location = _dotted(problem["loc"], raw, missing=problem["type"] == "missing")
        message, value = problem["msg"].removeprefix("Value error, "), problem.get("input")
        if problem["type"].startswith("union_tag"):  # kind, arch or method is absent or unknown
            tag = problem["ctx"]["discriminator"].strip("'")
            location = f"{location}.{tag}"
            value = value.get(tag) if isinstance(value, dict) else None
            expected = problem["ctx"].get("expected_tags")
            message = f"Input should be one of {expected}" if expected else "Field required"
        messages.setdefault(location, []).append(message)
        if isinstance(value, str | int | float | bool):
            given[location] = f" (given: {value!r})"
    # of the members of a union, the complaint that goes deepest is about the one the user meant
    deepest = [key for key in messages if not any(other.startswith(f"{key}.") for other in messages if key)]
    return [(f"{key}: " if key else "") + " or ".join(messages[key]) + given.get(key, "") for key in deepest]


def _dotted(loc: tuple[int | str, ...], raw: Any, missing: bool) -> str:
    """The path as the user wrote it: list entries by name, pydantic's own union tags left out."""
    out: list[str] = []
    node = raw
    for part in loc:
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            out.append(str(node.get("name", part)) if isinstance(node, dict) else str(part))
        elif isinstance(node, dict) and part in node:
            node = node[part]
            out.append(str(part))
        elif isinstance(node, dict) and part in (node.get("kind"), node.get("arch"), node.get("method")):
            continue  # the discriminator's tag
        elif isinstance(node, dict) and missing:
            out.append(str(part))
        # anything else is pydantic's name for the member of a union: not the user's business
    return ".".join(out)
