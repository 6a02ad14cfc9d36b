"""Steps that must not be made: a loss that is not a number, or far above the others.

In: the loss of a step over all workers, and those before it. Out: a reason, or None; and what `train.on_bad_step`
says: stop, skip the step's batch, or go back to the last checkpoint and leave out all batches since.
Source of the last: Chowdhery et al. 2022, "PaLM", section 5.1 (restart before the spike, skip the batches around it).
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ragray.config_train import TrainConfig
from ragray.errors import WorkError
from ragray.train.examples import Example

WINDOW = 50  # losses that the running median is taken over

_log = logging.getLogger("ragray.train")


@dataclass(frozen=True)
class BadStep:
    """A step without an update, why, and what was done about it."""

    step: int  # counted from 1
    reason: str
    policy: str  # of train.on_bad_step
    left_out_from: int  # the steps from this one on left no trace in the weights
    examples: tuple[str, ...]  # ids of the packed row with a loss that is no number, else of the whole batch

    def line(self) -> str:
        """What the log says."""
        steps = f"step {self.step}" if self.left_out_from == self.step else f"steps {self.left_out_from}-{self.step}"
        return f"{steps} left out: {self.reason}; examples of step {self.step}: {', '.join(self.examples)}"


def why_bad(settings: TrainConfig, loss: float, before: Sequence[float]) -> str | None:
    """Why a step with this mean loss must not be made; None where it may.

    Args:
        settings: `spike_factor`, `spike_after_steps`.
        loss: of the step, per answer token.
        before: of all updates so far, in their order.
    """
    if not math.isfinite(loss):
        return "the loss is not a finite number"
    if settings.spike_factor is None or len(before) < settings.spike_after_steps:
        return None
    usual = statistics.median(before[-WINDOW:])
    if loss > settings.spike_factor * usual:
        return f"the loss {loss:.4g} is more than {settings.spike_factor:g} times the running median {usual:.4g}"
    return None


def judge(
    settings: TrainConfig, step: int, reason: str, examples: Sequence[Example], so_far: Sequence[BadStep]
) -> BadStep:
    """The record of a bad step that the run may go on after; logged on every worker.

    Args:
        settings: `on_bad_step`, `max_bad_steps`.
        step: counted from 1.
        reason: of `why_bad`.
        examples: those to look at.
        so_far: of this run.

    Raises:
        WorkError: the policy is to stop, or there were too many already.
    """
    ids = tuple(example.example_id for example in examples)
    fix = "look at these examples, or lower train.learning_rate; training resumes from the last checkpoint"
    if settings.on_bad_step == "stop":
        raise WorkError(
            f"training: step {step}: {reason}; examples: {', '.join(ids)}",
            f"{fix}; train.on_bad_step=skip leaves such a step out",
        )
    if len(so_far) >= settings.max_bad_steps:
        raise WorkError(
            f"training: step {step} is bad step {len(so_far) + 1} of this run, train.max_bad_steps allows "
            f"{settings.max_bad_steps}: {reason}; examples: {', '.join(ids)}",
            fix,
        )
    bad = BadStep(step, reason, settings.on_bad_step, step, ids)
    _log.warning("%s", bad.line())
    return bad
