"""The points of drawn curves are those of training; the charts are the same bytes each time."""

import math

import pytest

from ragray.config_train import LossConfig, ScheduleShape, TrainConfig
from ragray.train.curves import loss_curve, schedule_curve
from ragray.train.schedule import learning_rate_of


def settings(**changes):
    return TrainConfig(base_model="x", **changes)


def test_a_schedule_has_a_point_for_each_step_and_its_turns_in_the_table():
    given = settings(schedule="cosine_restarts", warmup_share=0.1, schedule_shape=ScheduleShape(cycles=3))
    curve = schedule_curve(given, 100)
    (rates,) = curve.lines.values()
    assert (curve.x[0], curve.x[-1]) == (1.0, 100.0)
    assert list(rates) == [learning_rate_of(given, step, 100) for step in range(100)]
    # 90 steps after a warm-up of 10, so cycles begin at the steps 11, 41 and 71, counted from 1
    assert {10.0, 40.0, 41.0, 70.0, 71.0} <= {curve.x[at] for at in curve.shown}
    assert "| 41 | 0.0002 |" in curve.table()


def points(given, line):
    curve = loss_curve(given)
    return {round(curve.x[at], 2): curve.lines[line][at] for at in curve.shown}


def test_losses_by_hand():
    assert points(LossConfig(), "loss")[0.25] == pytest.approx(math.log(4))
    assert points(LossConfig(kind="focal"), "focal")[0.75] == pytest.approx(0.0625 * math.log(4 / 3))
    assert points(LossConfig(kind="focal"), "cross-entropy")[0.75] == pytest.approx(math.log(4 / 3))
    assert points(LossConfig(z_weight=0.3), "loss")[0.5] == pytest.approx(math.log(2) + 0.3)
    wrong = points(LossConfig(kind="unlikelihood", unlikelihood_weight=2.0), "token of a hard negative")
    assert wrong[0.75] == pytest.approx(2 * math.log(4))
    smoothed = loss_curve(LossConfig(label_smoothing=0.5), vocabulary=2).lines["loss"][24]
    assert smoothed == pytest.approx(0.5 * math.log(4) + 0.25 * (math.log(4) + math.log(4 / 3)))


def test_preferences_are_drawn_over_the_margin():
    curve = loss_curve(LossConfig(kind="dpo", dpo_beta=0.5))
    middle = curve.shown[6]
    assert (curve.x[middle], curve.lines["dpo"][middle]) == pytest.approx((0.0, math.log(2)))
    assert curve.x[-1] == pytest.approx(12.0)


def test_charts_are_the_same_bytes():
    for curve in (loss_curve(LossConfig(kind="unlikelihood")), schedule_curve(settings(), 30)):
        assert curve.svg() == curve.svg()
        assert curve.svg().startswith("<?xml")
