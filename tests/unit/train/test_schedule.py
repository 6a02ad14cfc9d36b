"""Learning rates worked out by hand."""

import math

import pytest

from ragray.train.schedule import learning_rate


def rates(total, schedule, warmup_share, peak=1.0):
    return [
        learning_rate(step, total, peak=peak, schedule=schedule, warmup_share=warmup_share) for step in range(total)
    ]


def test_warm_up_rises_in_equal_parts_and_reaches_the_peak():
    assert rates(10, "constant", 0.4, peak=2.0)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_linear_falls_to_one_step_before_zero():
    # 4 steps after a warm-up of 1: done = 0, 1/4, 2/4, 3/4
    assert rates(5, "linear", 0.2) == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_is_half_in_the_middle():
    found = rates(4, "cosine", 0.0)
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
def test_every_rate_is_positive_and_at_most_the_peak(schedule, share):
    for total in (1, 2, 7, 100):
        assert all(0 < rate <= 1.0 for rate in rates(total, schedule, share))
