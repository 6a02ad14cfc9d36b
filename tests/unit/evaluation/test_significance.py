"""Laws of the intervals and of the paired test."""

import itertools
import math
import random

import numpy as np
import pytest

from ragray.evaluation.significance import Interval, Resampling

MANY = Resampling(samples=20_000, seed=17)


def test_the_interval_is_near_the_normal_approximation():
    source = random.Random(0)
    values = [source.gauss(0.5, 0.2) for _ in range(400)]
    found = MANY.interval(values, "f1")
    mean = sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_the_interval_of_equal_values_is_a_point():
    assert MANY.interval([0.25] * 7, "x") == Interval(0.25, 0.25, 0.25, 7)


def test_nothing_counted_gives_no_figure():
    assert MANY.interval([], "x") == Interval(None, None, None, 0)


def test_the_interval_depends_on_seed_and_label_alone():
    values = [0.0, 1.0, 0.4, 0.7, 0.1]
    few = Resampling(200, 17)
    assert few.interval(values, "x") == few.interval(values, "x")
    assert few.interval(values, "x") != few.interval(values, "y")
    assert few.interval(values, "x") != Resampling(200, 18).interval(values, "x")


def test_p_value_is_near_that_of_all_sign_patterns():
    first, second = [0.9, 0.6, 0.8, 0.7, 0.3, 0.9], [0.5, 0.7, 0.2, 0.4, 0.3, 0.1]
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    seen = abs(sum(gaps))
    patterns = list(itertools.product((1, -1), repeat=len(gaps)))
    as_large = sum(abs(sum(s * g for s, g in zip(p, gaps, strict=True))) >= seen - 1e-12 for p in patterns)
    found = MANY.compare(first, second, "f1")
    assert found.p_value == pytest.approx(as_large / len(patterns), abs=0.01)
    assert found.mean == pytest.approx(sum(gaps) / 6)
    assert found.low <= found.mean <= found.high


def test_equal_runs_differ_by_nothing():
    found = MANY.compare([0.1, 0.9], [0.1, 0.9], "x")
    assert (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_swapping_the_runs_turns_the_sign():
    first, second = [0.9, 0.6, 0.8, 0.7], [0.5, 0.7, 0.2, 0.4]
    one, other = MANY.compare(first, second, "x"), MANY.compare(second, first, "x")
    assert one.mean == -other.mean
    assert one.p_value == other.p_value
    assert one.low == pytest.approx(-other.high)


def test_a_p_value_is_never_zero():
    found = Resampling(99, 1).compare([1.0] * 40, [0.0] * 40, "x")
    assert found.p_value == pytest.approx(1 / 100)


def test_runs_over_different_questions_are_refused():
    with pytest.raises(ValueError, match="same questions, got 2 and 1"):
        MANY.compare([0.1, 0.2], [0.1], "x")


def test_blocks_do_not_change_the_result(monkeypatch):
    from ragray.evaluation import significance

    values = [n / 50 for n in range(50)]
    whole = Resampling(500, 3).interval(values, "x")
    monkeypatch.setattr(significance, "_BLOCK", 50 * 7)
    assert Resampling(500, 3).interval(values, "x") == whole


def test_where_all_questions_count_both_comparisons_agree():
    random = np.random.default_rng(3)
    first, second = random.random(60).tolist(), random.random(60).tolist()
    resampling = Resampling(500, 17)
    plain, counted = (f(first, second, "x") for f in (resampling.compare, resampling.compare_counted))
    assert [counted.mean, counted.low, counted.high] == pytest.approx([plain.mean, plain.low, plain.high])
    assert counted.n == plain.n == 60
    assert abs(counted.p_value - plain.p_value) < 0.05  # the same test with other random numbers


def test_questions_that_a_run_leaves_out_do_not_count_in_it():
    found = Resampling(200, 1).compare_counted([1.0, None, 0.0, None], [None, 1.0, 1.0, None], "x")
    assert found.mean == pytest.approx(0.5 - 1.0)  # of {1, 0} and of {1, 1}
    assert found.n == 3
    turned = Resampling(200, 1).compare_counted([None, 1.0, 1.0, None], [1.0, None, 0.0, None], "x")
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_a_large_difference_among_counted_questions_is_significant():
    first = [1.0, None] * 40
    second = [0.0, 0.0] * 40
    found = Resampling(999, 1).compare_counted(first, second, "x")
    assert (found.mean, found.p_value) == (1.0, 0.001)


def test_a_run_that_counts_nothing_cannot_be_compared():
    with pytest.raises(ValueError, match="each run counts"):
        Resampling(10, 1).compare_counted([None, None], [1.0, 0.0], "x")
    with pytest.raises(ValueError, match="each run counts"):
        Resampling(10, 1).compare_counted([], [], "x")
