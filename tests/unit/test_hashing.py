"""Hashing against published vectors and a byte-by-byte implementation; buckets spread evenly."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.data.hashing import bucket_distinct, bucket_integers, bucket_strings, fnv1a, mix

WORD = 2**64 - 1

# Landon Curt Noll's test vectors of FNV-1a, 64 bits.
FNV1A = {
    "": 0xCBF29CE484222325,
    "a": 0xAF63DC4C8601EC8C,
    "b": 0xAF63DF4C8601F1A5,
    "foo": 0xDCB27518FED9D577,
    "foob": 0xDD120E790C2512AF,
    "fooba": 0xCAC165AFA2FEF40A,
    "foobar": 0x85944171F73967E8,
    "chongo was here!\n": 0x46810940EFF5F915,
}
# fmix64 of MurmurHash3, by the reference C code.
FMIX64 = {0: 0, 1: 0xB456BCFC34C2CB2C, 2: 0x3ABF2A20650683E7, WORD: 0x64B5720B4B825F21}


def slow_fnv1a(text: str) -> int:
    out = 0xCBF29CE484222325
    for byte in text.encode():
        out = (out ^ byte) * 0x100000001B3 & WORD
    return out


def slow_mix(x: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * factor & WORD
    return x ^ x >> 33


def test_fnv1a_matches_the_published_vectors() -> None:
    assert dict(zip(FNV1A, fnv1a(pa.array(FNV1A.keys())).tolist(), strict=True)) == FNV1A


def test_mix_matches_the_reference() -> None:
    assert dict(zip(FMIX64, mix(np.array(list(FMIX64), np.uint64)).tolist(), strict=True)) == FMIX64


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=12), st.data())
def test_fnv1a_of_any_strings_and_any_slice(texts: list[str], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(texts)))
    length = data.draw(st.integers(0, len(texts) - begin))
    expected = [slow_fnv1a(text) for text in texts[begin : begin + length]]
    for kind in (pa.string(), pa.large_string()):
        assert fnv1a(pa.array(texts, kind).slice(begin, length)).tolist() == expected


def test_the_strings_of_a_dictionary_go_where_those_of_a_column_go() -> None:
    texts = pa.array(["a", None, "", "b\u00e9", None, "a" * 40])
    found = bucket_distinct(texts, 1000)
    assert found.tolist() == bucket_strings(texts, 1000).tolist()
    assert (found < 0).tolist() == texts.is_null().to_pylist()


def test_fnv1a_of_more_strings_than_are_hashed_at_a_time() -> None:
    texts = [f"{n:x}" * (n % 4) for n in range(40_000)]
    found = fnv1a(pa.array(texts))
    for row in (0, 1, 16_383, 16_384, 16_385, 32_767, 32_768, 39_999):
        assert found[row] == slow_fnv1a(texts[row])
    assert np.array_equal(found[16_000:17_000], fnv1a(pa.array(texts[16_000:17_000])))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=12),
    st.integers(1, 2**31),
    st.integers(0, 3),
    st.data(),
)
def test_a_string_has_one_bucket_however_it_is_stored(
    texts: list[str | None], rows: int, begin: int, data: st.DataObject
) -> None:
    expected = [-1 if text is None else slow_mix(slow_fnv1a(text)) % rows for text in texts][begin:]
    plain = pa.array(texts, pa.string())
    forms = [plain, plain.cast(pa.large_string()), plain.dictionary_encode()]
    # a dictionary in another order, with an entry that no row has and one that stands for null
    words = [*data.draw(st.permutations(sorted({t for t in texts if t is not None}))), "spare", None]
    index = pa.array([words.index(text) for text in texts], pa.int8())
    forms.append(pa.DictionaryArray.from_arrays(index, pa.array(words, pa.string())))
    for column in forms:
        assert bucket_strings(column.slice(begin), rows).tolist() == expected


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_a_dictionary_that_fills_its_index_type(kind: pa.DataType) -> None:
    words = [f"w{i}" for i in range(128)]
    column = pa.DictionaryArray.from_arrays(pa.array([0, 127, None], kind), words)
    assert bucket_strings(column, 1000).tolist() == [*(slow_mix(slow_fnv1a(w)) % 1000 for w in ("w0", "w127")), -1]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.integers(1, 2**31))
def test_any_integer_has_the_bucket_of_its_64_bits(ids: list[int], rows: int) -> None:
    expected = [slow_mix(i & WORD) % rows for i in ids]
    assert bucket_integers(np.array(ids, np.int64), rows).tolist() == expected


@pytest.mark.parametrize("rows", [64, 100, 1021])
def test_buckets_are_even(rows: int) -> None:
    """Sequential ids and names, and random ones: chi-square does not tell their buckets from uniform ones."""
    count = 40 * rows
    draw = random.Random(rows)
    samples = {
        "sequential ids": bucket_integers(np.arange(count), rows),
        "ids in steps of 2^20": bucket_integers(np.arange(count) << 20, rows),
        "sequential names": bucket_strings(pa.array([f"user-{i}" for i in range(count)]), rows),
        "random names": bucket_strings(pa.array([draw.randbytes(8).hex() for _ in range(count)]), rows),
    }
    for name, bucket_N in samples.items():
        assert bucket_N.dtype == np.int64
        counts = np.bincount(bucket_N, minlength=rows)
        assert len(counts) == rows, name
        assert chisquare(counts).pvalue > 1e-4, name
