"""The dynamic loss scale of fp16, as a checkpoint holds it.

In: an optimizer of DeepSpeed. Out: its scale as plain values, and back. Gradients of a scaled loss keep small numbers
from becoming zero; where they overflow, the step is left out and the scale falls, and after 1,000 steps it rises.
Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2, arXiv:1710.03740.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LossScale:
    """What the next step's scale follows from."""

    scale: float
    steps: int  # judged so far, those left out too
    last_overflow: int  # which of them, from 0; -1: none
    hysteresis: int  # overflows until the scale falls

    @classmethod
    def of(cls, optimizer: Any) -> LossScale | None:
        """That of an optimizer; None where there is none: fp32 and bf16 need no scale."""
        holder = _holder(optimizer)
        if holder is None:
            return None
        hysteresis = int(getattr(holder, "cur_hysteresis", 1))  # without ZeRO, the first overflow lowers the scale
        return cls(float(holder.cur_scale), int(holder.cur_iter), int(holder.last_overflow_iter), hysteresis)

    def put_into(self, optimizer: Any) -> None:
        """Let an optimizer go on from here; one without a scale stays as it is."""
        holder = _holder(optimizer)
        if holder is None:
            return
        holder.cur_scale, holder.cur_iter, holder.last_overflow_iter = self.scale, self.steps, self.last_overflow
        if hasattr(holder, "cur_hysteresis"):
            holder.cur_hysteresis = self.hysteresis

    def fell_to(self, after: LossScale | None) -> bool:
        """Whether an overflow brought this scale, or what is left until it falls, down to `after`."""
        return after is not None and (after.scale, after.hysteresis) < (self.scale, self.hysteresis)


def go_on_at_the_least_scale(optimizer: Any) -> None:
    """Keep DeepSpeed from ending the run there: the gradient itself is then no number, which the loop judges."""
    holder = _holder(optimizer)
    if hasattr(holder, "raise_error_at_min_scale"):
        holder.raise_error_at_min_scale = False


def _holder(optimizer: Any) -> Any:
    """Where DeepSpeed keeps the scale: ZeRO in its scaler, without ZeRO in a record; None where it never changes."""
    scaler = getattr(optimizer, "loss_scaler", None)
    if scaler is not None:
        return scaler if scaler.dynamic else None
    record = getattr(optimizer, "loss_scale_config", None)
    return record if record is not None and record.dynamic_loss_scale else None
