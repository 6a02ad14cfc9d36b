"""The figures of training in Ray's metrics, which Prometheus reads from each node.

In: a row of figures after each step. Out: gauges `ray_ragray_train_<figure>` with the run's name and the worker's rank.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Gauge

from ragray.train.trackers import Row

_TAGS = ("run", "rank")
_DESCRIPTIONS = {
    "step": "optimizer steps done",
    "loss": "mean over the step's answer tokens",
    "valid_loss": "mean over the validation answers, where it was last measured",
    "learning_rate": "of the step",
    "grad_norm": "global, before clipping",
    "tokens": "of the step's examples, all workers",
    "tokens_per_s": "of all workers",
    "seconds": "of the step",
    "rank_tokens_per_s": "of this worker",
    "rank_padded_tokens_per_s": "of this worker, with the tokens of rows without examples",
    "rank_data_wait_s": "for which the step waited for its examples, seconds",
    "rank_memory_mib": "most memory so far",
    "rank_mfu": "model FLOPs utilization",
    "validation_s": "of the step's validation, seconds",
    "checkpoint_s": "for which the step waited for its checkpoint, seconds",
    "report_s": "for which the step waited for its report, seconds",
}


class RayMetricsSink:
    """Gauges of one worker."""

    name = "prometheus"
    errors: tuple[type[Exception], ...] = (OSError, ValueError)

    def __init__(self, run_name: str, rank: int) -> None:
        self._tags = {"run": run_name, "rank": str(rank)}
        self._gauges: dict[str, Any] = {}

    def write(self, row: Row) -> None:
        """Set the gauges."""
        for name, value in row.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"ragray_train_{name}", _DESCRIPTIONS[name], tag_keys=_TAGS)
            self._gauges[name].set(value, self._tags)

    def close(self, failed: bool) -> None:
        """Nothing to close: Ray forgets the gauges with the process."""
