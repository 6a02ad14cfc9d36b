"""What a run records about itself, step by step, and when it has learnt enough.

In: a `StepRecord` after each optimizer step. Out: history.parquet, the same bytes for the same run;
timings.parquet, which differs; loss.svg; and `Progress`, one line for the person who waits. What each worker measures
of itself is in `meter`, where all of it goes while a run goes on in `sinks`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ragray.config_train import ValidationConfig

HISTORY = "history.parquet"
TIMINGS = "timings.parquet"
PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step; step 0 is the state before any, with a validation loss alone."""

    step: int
    loss: float | None  # mean over the step's answer tokens, before its update
    valid_loss: float | None  # mean over the validation answers, after its update, where it was measured
    learning_rate: float
    grad_norm: float | None  # before clipping
    tokens: int  # of its examples


_HISTORY_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("valid_loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("grad_norm", pa.float64()),
        ("tokens", pa.int64()),
    ]
)
_TIMINGS_SCHEMA = pa.schema([("step", pa.int64()), ("seconds", pa.float64())])


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens_per_s: float  # over the steps since the last report, all workers
    remaining_s: float  # at the pace of these steps

    def line(self) -> str:
        """The one line that a person reads."""
        return (
            f"step {self.step}/{self.steps}  loss {self.loss:.4f}  lr {self.learning_rate:.2e}  "
            f"{self.tokens_per_s:,.0f} tokens/s  {timedelta(seconds=round(self.remaining_s))} left"
        )


@dataclass
class History:
    """All steps so far, and how long each took."""

    records: list[StepRecord] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, record: StepRecord, seconds: float) -> None:
        """Append a step."""
        self.records.append(record)
        self.seconds.append(seconds)

    def save(self, folder: Path) -> None:
        """Write history.parquet and timings.parquet."""
        names = [f.name for f in fields(StepRecord)]
        columns = {name: [getattr(record, name) for record in self.records] for name in names}
        pq.write_table(pa.table(columns, schema=_HISTORY_SCHEMA), folder / HISTORY, compression="zstd")
        timings = {"step": columns["step"], "seconds": self.seconds}
        pq.write_table(pa.table(timings, schema=_TIMINGS_SCHEMA), folder / TIMINGS, compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> History:
        """Read what `save` wrote."""
        rows = pq.read_table(folder / HISTORY).to_pylist()
        seconds = pq.read_table(folder / TIMINGS).column("seconds").to_pylist()
        return cls([StepRecord(**row) for row in rows], seconds)

    @property
    def losses(self) -> list[float]:
        """The training loss of each step."""
        return [record.loss for record in self.records if record.loss is not None]

    @property
    def valid_losses(self) -> list[float]:
        """The validation losses, the first before any step."""
        return [record.valid_loss for record in self.records if record.valid_loss is not None]

    @property
    def last_loss(self) -> float | None:
        """The training loss of the latest step that was not left out."""
        return next((record.loss for record in reversed(self.records) if record.loss is not None), None)

    def tokens_per_s(self) -> float:
        """Tokens of all workers a second, over all steps."""
        total = sum(self.seconds[1:])
        return sum(record.tokens for record in self.records) / total if total else 0.0

    def progress(self, steps: int, since: int) -> Progress:
        """Where the run stands; the speed is over the steps after the first `since` records."""
        last, loss = self.records[-1], self.last_loss
        seconds = sum(self.seconds[since:])
        tokens = sum(record.tokens for record in self.records[since:])
        assert loss is not None
        speed = tokens / seconds if seconds else 0.0
        each = seconds / max(1, len(self.seconds) - since)
        return Progress(last.step, steps, loss, last.learning_rate, speed, each * (steps - last.step))


def should_stop(valid_losses: Sequence[float], settings: ValidationConfig) -> bool:
    """Whether the last `patience` validations brought no improvement over the best before them.

    Source: Goodfellow, Bengio and Courville 2016, "Deep Learning", algorithm 7.1.

    Args:
        valid_losses: all so far, the first before any step.
        settings: patience, and the least fall that is an improvement.
    """
    if settings.patience is None:
        return False
    best, since = float("inf"), 0
    for loss in valid_losses:
        improved = loss < best - settings.min_improvement
        best, since = (loss, 0) if improved else (best, since + 1)
    return since >= settings.patience


def write_progress(progress: Progress, folder: Path) -> None:
    """Put the latest progress where `read_progress` finds it, whole or not at all."""
    aside = folder / f".{PROGRESS}.{os.getpid()}"
    aside.write_text(json.dumps(asdict(progress)), encoding="utf-8")
    aside.replace(folder / PROGRESS)


def read_progress(folder: Path) -> Progress | None:
    """The latest progress of the run that works in `folder`."""
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def draw_losses(history: History, path: Path) -> None:
    """Draw training and validation loss and the learning rate over the steps, as SVG with stable bytes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    trained = [record for record in history.records if record.loss is not None]
    validated = [record for record in history.records if record.valid_loss is not None]
    with matplotlib.rc_context({"svg.hashsalt": "ragray", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.plot([r.step for r in trained], history.losses, label="training", linewidth=1.2)
        if validated:
            axes.plot([r.step for r in validated], history.valid_losses, "o-", label="validation")
        axes.set(xlabel="step", ylabel="loss per answer token")
        axes.grid(alpha=0.3)
        rates = axes.twinx()
        rates.plot([r.step for r in trained], [r.learning_rate for r in trained], color="gray", linestyle=":")
        rates.set_ylabel("learning rate (dotted)")
        axes.legend(loc="upper right")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
