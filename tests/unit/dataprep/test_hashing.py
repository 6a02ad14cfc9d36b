"""Compiled work on hashes equals what Python's own containers say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.dataprep.hashing import number_hashes, numbers_of, sort_distinct

HASHES = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 3), st.just(2**64 - 1)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(HASHES)
def test_sorted_and_distinct(values: list[int]) -> None:
    n = len(values)
    out, bounds = np.empty(n, np.uint64), np.empty(2 * n + 4, np.int64)
    kept = sort_distinct(np.array(values, np.uint64), n, out, bounds)
    assert out[:kept].tolist() == sorted(set(values))


@settings(max_examples=100, deadline=None)
@given(HASHES, HASHES)
def test_hashes_are_numbered_as_they_first_occur(values: list[int], others: list[int]) -> None:
    numbered = {value: n for n, value in enumerate(dict.fromkeys(values))}
    slots, numbers, count = number_hashes(np.array(values, np.uint64))
    assert numbers.tolist() == [numbered[value] for value in values]
    assert count == len(numbered)
    assert numbers_of(np.array(others, np.uint64), slots).tolist() == [numbered.get(value, -1) for value in others]


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_the_table_grows(step: int) -> None:
    """More hashes than its first table holds; with the large step, many ask for the same slot."""
    values = np.arange(40_000 if step == 1 else 3_000, dtype=np.uint64) * np.uint64(step)
    slots, numbers, count = number_hashes(np.concatenate([values, values[::-1]]))
    expected = np.arange(len(values))
    assert count == len(values)
    assert numbers.tolist() == [*expected, *expected[::-1]]
    assert len(slots) >= 2 * count
    assert numbers_of(values + np.uint64(1 << 50), slots).max() == -1
