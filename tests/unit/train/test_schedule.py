"""Learning rates worked out by hand."""

import math
from typing import get_args

import pytest
from pydantic import ValidationError

from ragray.config_train import Schedule, ScheduleShape, TrainConfig
from ragray.train.schedule import learning_rate, learning_rate_of

HALF = math.sqrt(0.5)


def rates(total, schedule, warmup_share, peak=1.0, **shape):
    return [
        learning_rate(
            step, total, peak=peak, schedule=schedule, warmup_share=warmup_share, shape=ScheduleShape(**shape)
        )
        for step in range(total)
    ]


def test_warm_up_rises_in_equal_parts_and_reaches_the_peak():
    assert rates(10, "constant", 0.4, peak=2.0)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_linear_falls_to_one_step_before_zero():
    # 4 steps after a warm-up of 1: done = 0, 1/4, 2/4, 3/4
    assert rates(5, "linear", 0.2) == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_linear_falls_towards_its_floor():
    # 0.2 + 0.8 * (1, 3/4, 2/4, 1/4)
    assert rates(4, "linear", 0.0, floor_share=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_cosine_is_half_in_the_middle():
    expected = [1.0, (1 + HALF) / 2, 0.5, (1 - HALF) / 2]
    assert rates(4, "cosine", 0.0) == pytest.approx(expected)


def test_cosine_restarts_repeat_one_cosine():
    cycle = [1.0, (1 + HALF) / 2, 0.5, (1 - HALF) / 2]
    assert rates(8, "cosine_restarts", 0.0, cycles=2) == pytest.approx(cycle * 2)
    assert rates(8, "cosine_restarts", 0.0, cycles=1) == pytest.approx(rates(8, "cosine", 0.0))


@pytest.mark.parametrize("cycles", [49, 98, 103])
def test_every_cycle_begins_at_the_peak(cycles):
    """1/49 of a run times 49 is just below 1 in floating point."""
    assert rates(10 * cycles, "cosine_restarts", 0.0, cycles=cycles)[::10] == [1.0] * cycles


def test_warmup_stable_decay_is_flat_and_then_falls_in_equal_parts():
    # 10 steps after 2 of warm-up, of which the last 4 are one, two, three and four parts before zero
    expected = [0.5, 1.0] + [1.0] * 6 + [1.0, 0.75, 0.5, 0.25]
    assert rates(12, "warmup_stable_decay", 1 / 6, decay_share=0.4) == pytest.approx(expected)
    assert rates(4, "warmup_stable_decay", 0.0, decay_share=0.0) == [1.0] * 4


def test_polynomial_is_a_power_of_what_is_left():
    # (1, 3/4, 2/4, 1/4) squared, and to the power 1/2
    assert rates(4, "polynomial", 0.0) == pytest.approx([1.0, 0.5625, 0.25, 0.0625])
    assert rates(4, "polynomial", 0.0, power=0.5)[2] == pytest.approx(HALF)


def test_one_cycle_rises_and_falls_along_half_cosines():
    # up from 1/25 in 2 steps: half of the way, then the peak; down as the cosine does
    found = rates(6, "one_cycle", 1 / 3, peak=5.0)
    assert found[:2] == pytest.approx([5 * (0.04 + 0.96 * 0.5), 5.0])
    assert found[2:] == pytest.approx([5 * rate for rate in rates(4, "cosine", 0.0)])


def test_inverse_sqrt_halves_when_the_steps_are_four_times_the_warm_up():
    found = rates(40, "inverse_sqrt", 0.25)
    assert found[9] == 1.0
    assert found[10] == pytest.approx(math.sqrt(10 / 11))
    assert found[39] == pytest.approx(0.5)
    assert rates(4, "inverse_sqrt", 0.0)[3] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_every_rate_is_positive_and_from_floor_to_peak(schedule, share, floor):
    for total in (1, 2, 7, 100):
        found = rates(total, schedule, share, floor_share=floor, cycles=3)
        assert all(0 < rate <= 1.0 for rate in found)
        assert all(rate >= floor - 1e-12 for rate in found[round(share * total) :])


def test_the_settings_say_which_curve():
    settings = TrainConfig(
        base_model="x",
        learning_rate=2.0,
        schedule="polynomial",
        warmup_share=0.0,
        schedule_shape=ScheduleShape(power=1.0, floor_share=0.5),
    )
    assert [learning_rate_of(settings, step, 2) for step in range(2)] == [2.0, 1.5]


@pytest.mark.parametrize("shape", [{"cycles": 2}, {"power": 3.0}, {"decay_share": 0.5}])
def test_a_parameter_of_another_schedule_is_refused(shape):
    with pytest.raises(ValidationError, match="and schedule is linear"):
        TrainConfig(base_model="x", schedule="linear", schedule_shape=ScheduleShape(**shape))
    with pytest.raises(ValidationError, match="has no floor"):
        TrainConfig(base_model="x", schedule="constant", schedule_shape=ScheduleShape(floor_share=0.1))
