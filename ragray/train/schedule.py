"""Learning rates as a pure function of the step.

In: step, number of steps, settings. Out: the rate. Nothing is kept between steps, so a resumed run needs no
scheduler state, and any schedule can be drawn without training (`ragray inspect schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ragray.config_train import Schedule, ScheduleShape, TrainConfig

ONE_CYCLE_START = 1 / 25  # of the peak: Smith 2018 starts "an order of magnitude" lower; 25 as in fastai and PyTorch


@dataclass(frozen=True)
class _Place:
    """Where a step stands after the warm-up."""

    step: int
    warmup: int
    total: int

    @property
    def done(self) -> float:
        """The share of the steps after the warm-up that are done, from 0 to below 1."""
        return self.done_of_cycle(1)

    def done_of_cycle(self, cycles: int) -> float:
        """The same within one of so many cycles; in whole numbers, so that each begins at 0 and not just before 1."""
        after = self.total - self.warmup
        return (self.step - self.warmup) * cycles % after / after


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _stable_decay(place: _Place, shape: ScheduleShape) -> float:
    return min(1.0, (1.0 - place.done) / shape.decay_share) if shape.decay_share else 1.0


# The rate after the warm-up: 1 is the peak, 0 the floor.
_SHAPES: dict[Schedule, Callable[[_Place, ScheduleShape], float]] = {
    "constant": lambda place, shape: 1.0,
    "linear": lambda place, shape: 1.0 - place.done,
    # Loshchilov & Hutter 2017, "SGDR", eq. 5, with one cycle and with several of equal length
    "cosine": lambda place, shape: _cosine(place.done),
    "cosine_restarts": lambda place, shape: _cosine(place.done_of_cycle(shape.cycles)),
    # Hu et al. 2024, "MiniCPM", section 4 (WSD); the decay is linear as in Hägele et al. 2024, arXiv:2405.18392
    "warmup_stable_decay": _stable_decay,
    # Liu et al. 2015, "ParseNet", section 3.2 ("poly")
    "polynomial": lambda place, shape: (1.0 - place.done) ** shape.power,
    # Smith & Topin 2018, "Super-Convergence", with both halves as half cosines; the rise is in `learning_rate`
    "one_cycle": lambda place, shape: _cosine(place.done),
    # Vaswani et al. 2017, "Attention Is All You Need", eq. 3, scaled to the peak
    "inverse_sqrt": lambda place, shape: math.sqrt(max(1, place.warmup) / (place.step + 1)),
}


def learning_rate(
    step: int,
    total_steps: int,
    *,
    peak: float,
    schedule: Schedule,
    warmup_share: float,
    shape: ScheduleShape | None = None,
) -> float:
    """The learning rate of a step.

    The first `round(warmup_share * total_steps)` steps rise in equal parts to the peak, which the last
    of them reaches (`one_cycle`: along a half cosine from 1/25 of the peak); the rest follow the schedule, whose last
    step is one step short of its end, the floor.

    Args:
        step: from 0 to total_steps - 1.
        total_steps: of the whole run.
        peak: the highest rate.
        schedule: what follows the warm-up.
        warmup_share: share of the steps with rising rate, 0 to 1.
        shape: the schedule's parameters; by default those of the configuration.
    """
    shape = shape or ScheduleShape()
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        risen = (step + 1) / warmup
        return peak * (_between(ONE_CYCLE_START, 1.0, 1.0 - _cosine(risen)) if schedule == "one_cycle" else risen)
    place = _Place(step, warmup, total_steps)
    return peak * _between(shape.floor_share, 1.0, _SHAPES[schedule](place, shape))


def learning_rate_of(settings: TrainConfig, step: int, total_steps: int) -> float:
    """The learning rate of a step under a run's settings."""
    return learning_rate(
        step,
        total_steps,
        peak=settings.learning_rate,
        schedule=settings.schedule,
        warmup_share=settings.warmup_share,
        shape=settings.schedule_shape,
    )


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
