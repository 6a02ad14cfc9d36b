"""One question answered in one cell, and all of them as a table.

In: what retrieval and model gave. Out: `predictions.parquet`: every figure of the report can be
computed again from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ragray.evaluation.answers import METRICS, Scores

PREDICTIONS = pa.schema(
    [
        ("query_id", pa.string()),
        ("cell", pa.string()),
        ("lang", pa.string()),
        ("question", pa.string()),
        ("references", pa.list_(pa.string())),
        ("right", pa.list_(pa.string())),
        ("shown", pa.list_(pa.string())),
        ("probability", pa.float64()),
        ("answer", pa.string()),
        ("citations", pa.list_(pa.string())),
        ("declined_by", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        *((metric, pa.float64()) for metric in METRICS),
    ]
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One question answered in one cell, with all that led to the answer."""

    query_id: str
    cell: str
    lang: str
    question: str
    references: tuple[str, ...]
    right: tuple[str, ...]  # ids of the passages that hold the answer; none: nothing answers it
    shown: tuple[str, ...]  # ids of the passages that the model read, in ranked order
    probability: float | None  # that the shown passages answer; None without retrieval
    text: str
    cited: tuple[str, ...]  # ids
    declined_by: str  # "", "retrieval" (the confidence gate) or "model"
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    scores: Scores

    @property
    def answerable(self) -> bool:
        """Whether anything in the corpus answers the question."""
        return bool(self.right)


def predictions_table(predictions: Sequence[Prediction]) -> pa.Table:
    """The predictions sorted by question and cell, with one column for each metric (null: not counted)."""
    rows = [_row(p) for p in sorted(predictions, key=lambda p: (p.query_id, p.cell))]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _row(prediction: Prediction) -> dict[str, Any]:
    row = asdict(prediction)
    return {**row, **row["scores"], "answer": row["text"], "citations": row["cited"]}
