"""The bundle's encoding in numpy beside training's over Arrow, and what 8 bits of a table keep."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.data import hashing as ours
from pipeline.data.history_keys import keys_of
from pipeline.data.perfect_hash import PerfectHash
from pipeline.data.vocabulary_file import Vocabulary
from pipeline.data.vocabulary_lookup import StringLookup
from pipeline.export.network import Table, quantized
from pipeline.export.runtime import hashing
from pipeline.export.runtime.arrow import column_of
from pipeline.export.runtime.columns import column_of as column_of_values
from pipeline.export.runtime.encode import finite
from pipeline.export.runtime.history import _keys
from pipeline.export.runtime.vocabulary import Integers, Strings

WORDS = ["", "a", "Łódź", "a" * 300, "\x00", "b\x00", "日本", "a"]


def test_strings_and_integers_hash_as_in_training() -> None:
    random = np.random.default_rng(0)
    words = WORDS + ["".join(map(chr, random.integers(1, 0x2000, n % 40))) for n in range(500)]
    hash_N = hashing.fnv1a([word.encode() for word in words])
    np.testing.assert_array_equal(hash_N, ours.fnv1a(pa.array(words)))
    np.testing.assert_array_equal(hashing.mix(hash_N), ours.mix(hash_N))
    assert hashing.fnv1a([]).tolist() == []
    assert [hex(int(x)) for x in hashing.fnv1a([b"", b"a", b"foobar"])] == [
        "0xcbf29ce484222325",
        "0xaf63dc4c8601ec8c",
        "0x85944171f73967e8",
    ], "the published vectors of FNV-1a"


def test_a_vocabulary_finds_the_rows_that_training_finds() -> None:
    known = ["b\x00", "Łódź", "", "x"]
    asked = [*WORDS, *known, "y"]
    wanted = StringLookup(Vocabulary("", pa.array(known, pa.large_string())), 9)(pa.array(asked))
    got = Strings([word.encode() for word in known])([word.encode() for word in asked], 9)
    np.testing.assert_array_equal(got, wanted)
    values = np.array([5, -(2**63), 2**63 - 1, 0])
    asked_M = np.array([0, 5, 6, -(2**63), 2**63 - 1, -1])
    np.testing.assert_array_equal(Integers(values)(asked_M, 7), PerfectHash(values)(asked_M, 7))


@pytest.mark.parametrize(
    ("kind", "values", "type_"),
    [
        ("integer", [3, None, -(2**63), 2**63 - 1], pa.int64()),
        ("integer", [3, None, 200], pa.uint8()),
        ("string", ["a", None, "", "Łódź", "a"], pa.string()),
        ("string", ["a", None, "", "Łódź", "a"], pa.dictionary(pa.int32(), pa.string())),
        ("list of integer", [[1, 2], None, [], [3]], pa.list_(pa.int32())),
        ("list of string", [["a"], ["b", "a"], []], pa.large_list(pa.string())),
    ],
)
def test_keys_of_earlier_days_are_those_of_training(kind: str, values: list, type_: pa.DataType) -> None:
    column = pa.array(values, type_)
    wanted = keys_of(pa.record_batch([column], ["c"]), ("c",))
    field = {"name": "c", "type": kind}
    for got in (column_of(pa.table({"c": column}), field), column_of_values("c", kind, values)):
        key_M, row_M = _keys({"c": got}, ["c"])
        np.testing.assert_array_equal(key_M, wanted.key_M)
        assert (row_M is None) == (wanted.row_M is None)
        if row_M is not None:
            np.testing.assert_array_equal(row_M, wanted.row_M)


def test_crossed_columns_have_the_keys_of_training() -> None:
    ids, words = [1, None, 2**63 - 1], ["a", "b", None]
    wanted = keys_of(pa.record_batch([pa.array(ids), pa.array(words)], ["i", "w"]), ("w", "i"))
    columns = {"i": column_of_values("i", "integer", ids), "w": column_of_values("w", "string", words)}
    np.testing.assert_array_equal(_keys(columns, ["w", "i"])[0], wanted.key_M)


def test_integers_of_64_bits_without_a_sign_are_as_large_as_numbers() -> None:
    big = [2**64 - 1, 2**63, 5, None]
    wanted = pa.array(big, pa.uint64()).cast(pa.float64(), safe=False).fill_null(1.5).to_pylist()
    by_list, by_arrow = (
        column_of_values("id", "integer", big),
        column_of(pa.table({"id": pa.array(big, pa.uint64())}), {"name": "id", "type": "integer"}),
    )
    by_numpy = column_of_values("id", "integer", np.array(big[:3], np.uint64))
    assert finite("id", by_list, 1.5).tolist() == finite("id", by_arrow, 1.5).tolist() == wanted
    assert finite("id", by_numpy, None).tolist() == wanted[:3]
    assert finite("id", column_of_values("id", "integer", [-1, 2**63]), None).tolist() == [-1.0, 2.0**63]


def test_integers_of_64_bits_without_a_sign_keep_their_bits() -> None:
    big = [2**64 - 1, 2**63, 5]
    by_list, by_arrow = (
        column_of_values("c", "integer", big),
        column_of(pa.table({"c": pa.array(big, pa.uint64())}), {"name": "c", "type": "integer"}),
    )
    assert by_list.values.tolist() == by_arrow.values.tolist() == [-1, -(2**63), 5]  # type: ignore[union-attr]


def test_a_number_of_8_bits_is_half_a_step_off_at_most() -> None:
    weight_RD = torch.randn(50, 16) * torch.logspace(-6, 3, 50)[:, None]
    weight_RD[7] = 0.25  # a row of one value
    weight_RD[8] = 0
    code_RD, scale_R2 = quantized(weight_RD)
    assert code_RD.dtype == torch.uint8
    off_RD = (code_RD * scale_R2[:, :1] + scale_R2[:, 1:] - weight_RD).abs()
    half_step_R = (weight_RD.amax(1) - weight_RD.amin(1)) / 510
    assert (off_RD.amax(1) <= half_step_R * 1.001 + 1e-7 * weight_RD.abs().amax(1)).all()
    assert torch.equal(off_RD[7:9], torch.zeros(2, 16))


@pytest.mark.parametrize("stored", ["fp32", "fp16", "int8"])
def test_a_list_is_the_weighted_sum_of_its_rows(stored: str) -> None:
    table = Table(torch.randn(30, 8), stored)  # type: ignore[arg-type]
    row_M, weight_M = torch.tensor([3, 3, 29, 0, 7]), torch.rand(5)
    got_BD = table.bags(row_M, torch.tensor([0, 2, 2, 5]), weight_M)
    by_row_MD = table.rows(row_M) * weight_M[:, None]
    wanted_BD = torch.stack([by_row_MD[:2].sum(0), torch.zeros(8), by_row_MD[2:].sum(0)])
    torch.testing.assert_close(got_BD, wanted_BD)
