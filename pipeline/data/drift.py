"""Files whose schema is not that of most files of the manifest. No torch."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Drift:
    """One file that differs from most."""

    path: str
    column: str
    """The first column that differs."""
    reason: str
    """How all of them differ."""


def drifted(paths: Sequence[str], schema_of: Mapping[str, pa.Schema]) -> list[Drift]:
    """The files, in the order of `paths`, that differ in a column's presence, type or nullability.

    The reference is the schema that most of the files share, of several such the first file's. Schemas are told apart
    by identity: files of one schema must map to one object.
    """
    counts = Counter(id(schema_of[path]) for path in paths)
    if len(counts) < 2:
        return []
    most = counts.most_common(1)[0][0]  # the first met of equal counts
    reference = next(schema_of[path] for path in paths if id(schema_of[path]) == most)
    found = {key: differences(schema_of[path], reference) for path in paths if (key := id(schema_of[path])) in counts}
    return [
        Drift(path, told[0][0], ", ".join(words for _, words in told))
        for path in paths
        if (told := found[id(schema_of[path])])
    ]


def differences(schema: pa.Schema, reference: pa.Schema) -> list[tuple[str, str]]:
    """(column, what about it) for every column in which the schema is not the reference; order does not matter."""
    out = [(name, f"no column '{name}'") for name in reference.names if name not in schema.names]
    for name in dict.fromkeys(schema.names):
        there, here = reference.names.count(name), schema.names.count(name)
        if not there:
            out.append((name, f"a column '{name}' more"))
            continue
        if max(there, here) > 1:  # no name tells them apart: nobody can read them
            if there != here:
                out.append((name, f"'{name}' {here} times, not {there}"))
            continue
        field, other = schema.field(name), reference.field(name)
        if field.type != other.type:
            out.append((name, f"'{name}' of type {field.type}, not {other.type}"))
        if field.nullable != other.nullable:
            nullable = "nullable" if field.nullable else "not nullable"
            out.append((name, f"'{name}' {nullable}"))
    return out
