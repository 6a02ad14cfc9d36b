"""The search for the retriever's settings, spread over the cluster as Ray tasks.

In: a test collection and the settings to start from. Out: a `Tuning`. A task cuts the documents into terms by one
analyzer and measures a part of the settings with it; only numbers come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ragray.config import AnalyzerConfig, RetrievalConfig
from ragray.distributed.session import connect
from ragray.distributed.task_errors import run_tasks
from ragray.evaluation.collections import Collection
from ragray.evaluation.tuning import Retriever, Tuning, Values, assign_folds, tune
from ragray.evaluation.tuning_values import Judged, check_metric, values_of
from ragray.schema import Passage, table_of


def tune_remotely(
    collection: Collection,
    untuned: RetrievalConfig,
    folds: int,
    metric: str,
    report: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Search settings on a test collection.

    Args:
        collection: what to search, and what is right.
        untuned: what to start from.
        folds: of the cross-validation, at least 2.
        metric: what is to be high, of `search_quality.METRICS`.
        report: is told what begins.

    Raises:
        ConfigError: there is no such metric, or there are fewer groups of queries than folds.
        WorkError: Ray cannot be joined, or workers were lost too often.
    """
    check_metric(metric)
    assign_folds(collection.qrels, list(collection.queries), folds)  # an error comes before Ray starts
    import ray

    connect()
    documents = ray.put(table_of(Passage, collection.documents))
    judged = ray.put(Judged(collection.queries, collection.qrels, metric))
    cpus: float = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]

    def measured(settings: Sequence[RetrievalConfig], retriever: Retriever) -> Values:
        parts = parts_of(settings, int(cpus))
        what = "terms and BM25" if retriever == "bm25" else "fusion"
        report(f"measuring {len(settings):,} settings of {what} in {len(parts)} tasks")
        arguments = [(documents, judged, [settings[place] for place in part], retriever) for part in parts]
        values = np.zeros((len(settings), len(collection.queries)))
        for part, found in zip(parts, run_tasks(f"measuring {what}", values_of, arguments), strict=True):
            values[part] = found
        return values

    return tune(collection.qrels, collection.queries, untuned, folds, measured)


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
