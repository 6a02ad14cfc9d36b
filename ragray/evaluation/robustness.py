"""The held-out questions as other people would send them: with typos, through speech recognition, in other words.

In: the questions and the kinds that are wanted. Out: for each kind the questions that it changes, and, of the answers
to both forms, what the change cost. A question's form depends on (seed, kind, its id) alone.

The rules are those that make training's variants. They draw from other random numbers here, and a kind uses only
methods that `augment.methods` leaves out, as long as it leaves any out. Where it uses them all, the model was trained
on questions of that manner, other ones than these: `shared` says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

import pyarrow as pa

from ragray.dataprep.augment import form
from ragray.dataprep.methods import LANGUAGES, REWORDINGS, RULES
from ragray.evaluation.predictions import PREDICTIONS, Prediction, predictions_table
from ragray.evaluation.significance import Difference, Interval, Resampling
from ragray.schema import EvalQuestion, stable_digest

ROBUSTNESS = PREDICTIONS.append(pa.field("method", pa.string()))
KINDS: Mapping[str, tuple[str, ...]] = {
    "typos": ("typo", "keyboard", "homophones"),
    "speech": ("speech",),
    "wording": tuple(REWORDINGS),
}
KIND_NAMES = {"typos": "Typos", "speech": "Speech recognition", "wording": "Other wording"}
ANSWER_METRICS = ("f1", "exact_match", "declined_answerable", "declined_unanswerable", "groundedness")
RETRIEVAL_METRICS = ("recall@5", "ndcg@10")

Values = Mapping[str, Mapping[str, float]]  # metric -> query -> value


@dataclass(frozen=True)
class Reworded:
    """One kind's questions: those that it changes, under their own ids, and the method that changed each."""

    kind: str
    questions: tuple[EvalQuestion, ...]
    methods: Mapping[str, str]  # query -> method
    unchanged: int  # questions in which it finds nothing to change, or in other languages
    shared: bool  # training's variants were made by these methods too


@dataclass(frozen=True, slots=True)
class Drop:
    """One metric on the same questions as they were written and reworded; `difference` is reworded - written."""

    metric: str
    written: Interval
    reworded: Interval
    difference: Difference | None  # None: no question counts in one of the two forms


@dataclass(frozen=True)
class Robustness:
    """What one kind of change costs."""

    kind: str
    changed: int
    unchanged: int
    shared: bool
    drops: tuple[Drop, ...]

    def tree(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def reword(questions: Sequence[EvalQuestion], kind: str, trained: Collection[str], seed: int) -> Reworded:
    """The questions that a kind of `KINDS` changes.

    Args:
        questions: as they were written.
        kind: which of the kinds.
        trained: the methods that made training's variants.
        seed: the run's.
    """
    methods = KINDS[kind]
    apart = tuple(name for name in methods if name not in trained)
    changed, by = [], {}
    for question in questions:
        text, method = _changed(question, kind, apart or methods, seed)
        if method:
            changed.append(replace(question, question=text))
            by[question.query_id] = method
    return Reworded(kind, tuple(changed), by, len(questions) - len(changed), not apart)


def measure_robustness(
    reworded: Reworded,
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    retrieval: tuple[Values, Values],
    resampling: Resampling,
) -> Robustness:
    """What a kind costs, over the questions that it changes.

    Args:
        reworded: the kind.
        before: the answers of the same model to all questions as they were written.
        after: its answers to the reworded ones.
        retrieval: the hybrid's values, of the written questions and of the reworded ones.
        resampling: of the intervals.
    """
    first, second = ({p.query_id: p for p in predictions} for predictions in (before, after))
    ids = sorted(reworded.methods)
    pairs: dict[str, list[tuple[float | None, float | None]]] = {
        metric: [(retrieval[0][metric].get(q), retrieval[1][metric].get(q)) for q in ids]
        for metric in RETRIEVAL_METRICS
    }
    for metric in ANSWER_METRICS:
        pairs[metric] = [(getattr(first[q].scores, metric), getattr(second[q].scores, metric)) for q in ids]
    drops = tuple(_drop(metric, both, f"robustness.{reworded.kind}", resampling) for metric, both in pairs.items())
    return Robustness(reworded.kind, len(ids), reworded.unchanged, reworded.shared, drops)


def robustness_table(predictions: Sequence[Prediction], methods: Mapping[tuple[str, str], str]) -> pa.Table:
    """The answers to reworded questions: as `predictions_table`, with the kind for a cell, and the method.

    Args:
        predictions: of all kinds.
        methods: (query, kind) -> the method that reworded it.
    """
    table = predictions_table(predictions)
    keys = zip(table["query_id"].to_pylist(), table["cell"].to_pylist(), strict=True)
    return table.append_column("method", pa.array([methods[key] for key in keys], pa.string()))


def _changed(question: EvalQuestion, kind: str, methods: Sequence[str], seed: int) -> tuple[str, str]:
    """The question changed by the first of the methods, in random order, that does; both "" where none does."""
    if question.lang not in LANGUAGES:
        return "", ""
    chance = Random(stable_digest(seed, "robustness", kind, question.query_id))
    for method in chance.sample(methods, len(methods)):
        text = RULES[method][question.lang](question.question, chance)
        if form(text) not in ("", form(question.question)):
            return text, method
    return "", ""


def _drop(metric: str, pairs: Sequence[tuple[float | None, float | None]], label: str, resampling: Resampling) -> Drop:
    written, reworded = ([pair[side] for pair in pairs] for side in (0, 1))
    counted = [[value for value in values if value is not None] for values in (written, reworded)]
    difference = resampling.compare_counted(reworded, written, f"{label}.{metric}") if all(counted) else None
    return Drop(
        metric,
        resampling.interval(counted[0], f"{label}.{metric}.written"),
        resampling.interval(counted[1], f"{label}.{metric}.reworded"),
        difference,
    )
