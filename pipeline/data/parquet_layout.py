"""The recommended layout of a log's Parquet files: what is declared required, how columns are encoded and compressed.

Measured by benchmarks/layout.py, told in docs/data.md. Nothing here changes a value or its type. No torch.
"""

import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

ROW_GROUP_ROWS = 65_536
"""Rows of a row group. Groups of twice the size decode hardly faster; the fewer a day has, the more often two lanes
share one and both decode its head."""
DICTIONARY_SHARE = 1 / 8
"""Most distinct values, as a share of a row group's, with which a number decodes fastest from a dictionary."""


def writer_options(dictionary: Iterable[str], split: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments of ParquetWriter. `dictionary`, `split`: Parquet paths of columns, see `encodings`."""
    return {
        "compression": "lz4",
        "write_page_checksum": True,
        # training prunes nothing by them, and every footer is read before it starts
        "write_statistics": False,
        "use_dictionary": sorted(dictionary),
        "use_byte_stream_split": sorted(split),
    }


def encodings(sample: pa.Table) -> tuple[list[str], list[str]]:
    """Parquet paths of the columns for a dictionary, and of those for byte-stream split, judged by some of their rows.

    Strings and numbers that repeat get a dictionary. Other numbers of 8 bytes, ids foremost, are split into streams of
    their first bytes, second bytes and so on, which makes them small and quick to decompress.
    """
    dictionary, split = [], []
    arrays = itertools.chain.from_iterable(_leaves(column.combine_chunks()) for column in sample.columns)
    for path, values in zip(leaf_paths(sample.schema), arrays, strict=True):
        kind = values.type
        number = pt.is_integer(kind) or pt.is_float32(kind) or pt.is_float64(kind) or pt.is_temporal(kind)
        if _is_text(kind):
            dictionary.append(path)
        elif not number or not len(values):
            continue
        elif pc.count_distinct(values).as_py() <= DICTIONARY_SHARE * len(values):
            dictionary.append(path)
        elif kind.bit_width == 64:
            split.append(path)
    return dictionary, split


def leaf_paths(schema: pa.Schema) -> list[str]:
    """The Parquet path of every leaf column, as `history.list.element`, in the schema's order."""
    sink = io.BytesIO()
    pq.ParquetWriter(sink, schema).close()
    leaves = pq.ParquetFile(sink).schema
    return [leaves.column(i).path for i in range(len(leaves))]


def loosest(fields: list[pa.Field]) -> pa.Field:
    """The first of some fields of one name and type, nullable wherever one of them is."""
    return required(fields[0], set().union(*(nullable_fields(field) for field in fields)))


def leaf_count(kind: pa.DataType) -> int:
    """Leaf columns that Parquet keeps for an Arrow type."""
    return sum(leaf_count(child.type) for child in _children(kind)) if pt.is_nested(kind) else 1


def nullable_fields(field: pa.Field, path: str = "") -> set[str]:
    """The paths of the field itself and of those inside it that may hold nulls, as `history.element`."""
    path = f"{path}.{field.name}" if path else field.name
    own = {path} if field.nullable else set()
    return own.union(*(nullable_fields(child, path) for child in _open_children(field.type)))


def fields_with_nulls(name: str, array: pa.Array) -> set[str]:
    """Of `nullable_fields`, those that do hold a null in this array, if only under a null struct."""
    kind, found = array.type, set()
    if array.null_count or pt.is_null(kind):
        found.add(name)
    children = _open_children(kind)
    if pt.is_fixed_size_list(kind) and array.null_count:
        array = array.drop_null()  # what lies under a null is no element
    for i, child in enumerate(children):
        inner = array.field(i) if pt.is_struct(kind) else array.flatten()
        found |= fields_with_nulls(f"{name}.{child.name}", inner)
    return found


def required(field: pa.Field, with_nulls: set[str], path: str = "") -> pa.Field:
    """The field, declared non-nullable, with the fields inside it, wherever its path is not in `with_nulls`."""
    path = f"{path}.{field.name}" if path else field.name
    kind = field.type
    children = [required(child, with_nulls, path) for child in _open_children(kind)]
    if pt.is_struct(kind):
        kind = pa.struct(children)
    elif pt.is_large_list(kind):
        kind = pa.large_list(children[0])
    elif pt.is_fixed_size_list(kind):
        kind = pa.list_(children[0], kind.list_size)
    elif pt.is_list(kind):
        kind = pa.list_(children[0])
    return pa.field(field.name, kind, path in with_nulls or pt.is_null(kind), field.metadata)


def _children(kind: pa.DataType) -> list[pa.Field]:
    if pt.is_map(kind):
        return [kind.key_field, kind.item_field]
    return [kind.field(i) for i in range(kind.num_fields)]


def _open_children(kind: pa.DataType) -> list[pa.Field]:
    """The fields inside lists and structs; Arrow casts no other nested type to one with required fields."""
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return [kind.value_field.with_name("element")]  # as Parquet has it; Arrow's own name for it varies
    return _children(kind) if pt.is_struct(kind) else []


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """The values of every leaf column, in Parquet's order."""
    if pt.is_struct(array.type):
        for child in array.flatten():
            yield from _leaves(child)
    elif pt.is_map(array.type):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pt.is_nested(array.type):
        yield from _leaves(array.flatten())
    else:
        yield array


def _is_text(kind: pa.DataType) -> bool:
    text = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_binary, pt.is_large_binary, pt.is_binary_view)
    return pt.is_dictionary(kind) or any(fits(kind) for fits in text)
