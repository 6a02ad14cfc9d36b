"""Learning rates as a pure function of the step.

In: step, number of steps, peak rate, kind. Out: the rate. Nothing is kept between steps, so a resumed
run needs no scheduler state, and any schedule can be plotted without training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]

# The share of the peak rate after the warm-up; 0 <= done < 1 is the share of those steps that is done.
_DECAY: dict[Schedule, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),  # Loshchilov & Hutter 2017, eq. 5, one cycle
    "linear": lambda done: 1.0 - done,
    "constant": lambda done: 1.0,
}


def learning_rate(step: int, total_steps: int, *, peak: float, schedule: Schedule, warmup_share: float) -> float:
    """The learning rate of a step.

    The first `round(warmup_share * total_steps)` steps rise in equal parts to the peak, which the last
    of them reaches; the rest follow the schedule, whose last step is one step short of its end (zero).

    Args:
        step: from 0 to total_steps - 1.
        total_steps: of the whole run.
        peak: the highest rate.
        schedule: what follows the warm-up.
        warmup_share: share of the steps with rising rate, 0 to 1.
    """
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * _DECAY[schedule]((step - warmup) / max(1, total_steps - warmup))
