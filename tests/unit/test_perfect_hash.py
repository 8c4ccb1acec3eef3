"""The perfect hash against a Python dict: keys of any kind, absent ones included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.perfect_hash import PerfectHash

LOW, HIGH = -(2**63), 2**63 - 1
WORDS = st.integers(LOW, HIGH)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, unique=True, max_size=60), st.lists(WORDS, max_size=20))
def test_any_keys_have_their_positions_and_others_none(keys: list[int], others: list[int]) -> None:
    find = PerfectHash(np.array(keys, np.int64))
    asked = [*reversed(keys), *others, 0, -1]
    position = {key: place for place, key in enumerate(keys)}
    assert find(np.array(asked, np.int64), 77).tolist() == [position.get(key, 77) for key in asked]
    assert find(np.zeros(0, np.int64), 77).tolist() == []


@pytest.mark.parametrize("name", ["in a row", "steps of 2^20", "high bits alone", "negative", "random"])
def test_two_hundred_thousand_keys(name: str) -> None:
    count = 200_000
    step_N = np.arange(count)
    random = np.random.default_rng(0)
    keys = {
        "in a row": step_N,
        "steps of 2^20": step_N << 20,
        "high bits alone": step_N << 45,
        "negative": -step_N,
        "random": np.unique(random.integers(LOW, HIGH, count)),
    }[name]
    keys = random.permutation(keys)
    find = PerfectHash(keys)
    assert np.array_equal(find(keys, -1), np.arange(len(keys)))
    absent = np.setdiff1d(random.integers(LOW, HIGH, count), keys)
    assert (find(absent, -1) == -1).all()
