"""The search for the retriever's settings, spread over the cluster as Ray tasks.

In: a test collection and the settings to start from. Out: a `Tuning`. A task cuts the documents into terms by one
analyzer and measures a part of the settings with it; only numbers come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ragray.config import AnalyzerConfig, RetrievalConfig
from ragray.distributed.session import connect
from ragray.distributed.task_errors import run_tasks
from ragray.evaluation.collections import Collection
from ragray.evaluation.tuning import (
    Asked,
    PriorChoice,
    Priors,
    Retriever,
    Tuning,
    Values,
    assign_folds,
    check_start,
    tune,
)
from ragray.evaluation.tuning_prior import by_settings, prior_choices, prior_of, values_with_priors
from ragray.evaluation.tuning_values import Judged, check_metric, values_of
from ragray.retrieval.prior import SEPARATOR, Grouping, check_separator
from ragray.schema import Passage, table_of


def tune_remotely(
    collection: Collection,
    untuned: RetrievalConfig,
    folds: int,
    metric: str,
    report: Callable[[str], None] = lambda line: None,
    groupings: Sequence[Grouping] = (),
    separator: str = SEPARATOR,
) -> Tuning:
    """Search settings on a test collection.

    Args:
        collection: what to search, and what is right.
        untuned: what to start from.
        folds: of the cross-validation, at least 2.
        metric: what is to be high, of `search_quality.METRICS`.
        report: is told what begins.
        groupings: by what passages may be grouped for a learned prior; () tries none.
        separator: where the head of a title ends, for the grouping `head`.

    Raises:
        ConfigError: there is no such metric, there are fewer groups of queries than folds, the settings have a prior
            or feedback, or the separator is no regular expression.
        WorkError: Ray cannot be joined, or workers were lost too often.
    """
    check_metric(metric)
    check_separator(separator)
    check_start(untuned)
    assign_folds(collection.qrels, list(collection.queries), folds)  # an error comes before Ray starts
    choices = prior_choices(
        [(document.title, document.source) for document in collection.documents], groupings, separator
    )
    connect()
    tasks = _Tasks(collection, metric, choices, separator, report)
    priors = Priors(choices, tasks.with_priors, lambda choice: prior_of(collection, choice, separator))
    return tune(collection.qrels, collection.queries, untuned, folds, tasks.measured, priors)


class _Tasks:
    """What a search measures, as Ray tasks that share the documents and judgements."""

    def __init__(
        self, collection: Collection, metric: str, choices: Sequence[PriorChoice], separator: str,
        report: Callable[[str], None],
    ) -> None:  # fmt: skip
        import ray

        self._documents = ray.put(table_of(Passage, collection.documents))
        self._judged = ray.put(Judged(collection.queries, collection.qrels, metric))
        cpus: float = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        self._cpus, self._queries = int(cpus), len(collection.queries)
        self._choices, self._separator, self._report = choices, separator, report

    def measured(self, settings: Sequence[RetrievalConfig], retriever: Retriever) -> Values:
        """The metric of each setting for each query, float64 [settings, queries]."""
        parts = parts_of(settings, self._cpus)
        what = "terms and BM25" if retriever == "bm25" else "fusion"
        self._report(f"measuring {len(settings):,} settings of {what} in {len(parts)} tasks")
        arguments = [(self._documents, self._judged, [settings[place] for place in part], retriever) for part in parts]
        values = np.zeros((len(settings), self._queries))
        for part, found in zip(parts, run_tasks(f"measuring {what}", values_of, arguments), strict=True):
            values[part] = found
        return values

    def with_priors(self, asked: Sequence[Asked], fold_of: NDArray[np.int64]) -> Values:
        """The metric without a prior and with each, float64 [asked, 1 + choices, queries]."""
        groups = by_settings(asked)
        self._report(f"measuring {len(self._choices)} priors in {len(groups)} tasks")
        arguments = [
            (
                self._documents, self._judged, fold_of, settings, [asked[place][1] for place in places], self._choices,
                self._separator,
            )
            for settings, places in groups.items()
        ]  # fmt: skip
        values = np.zeros((len(asked), 1 + len(self._choices), self._queries))
        for places, found in zip(groups.values(), run_tasks("priors", values_with_priors, arguments), strict=True):
            values[places] = found
        return values


def parts_of(settings: Sequence[RetrievalConfig], tasks: int) -> list[list[int]]:
    """The places of the settings in parts that share what makes terms, so many that each of `tasks` CPUs has one.

    Settings with the same terms and BM25, whose rankings are made once, follow each other.
    """
    groups: dict[tuple[AnalyzerConfig, int], list[int]] = {}
    for place in sorted(range(len(settings)), key=lambda place: _order(settings[place])):
        groups.setdefault((settings[place].analyzer, settings[place].title_weight), []).append(place)
    each = math.ceil(tasks / len(groups))
    return [part.tolist() for places in groups.values() for part in np.array_split(places, each) if len(part)]


def _order(settings: RetrievalConfig) -> tuple[float, float]:
    return settings.bm25.k1, settings.bm25.b
