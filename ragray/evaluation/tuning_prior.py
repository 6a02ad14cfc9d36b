"""The last step of a search for settings: whether a learned prior helps queries that it did not learn from.

In: documents, judged queries with their folds, fused settings, and priors to try. Out: one value for each prior and
query. Every query is measured with a prior that was learned without the query's own fold, also where it only helps to
choose the weight: a prior always looks good on the judgements that it was made of. Where a fold is held out, the
priors of the other folds' queries are learned without that fold too (nested cross-validation).

Source: Varma and Simon 2006, "Bias in error estimation when using cross-validation for model selection".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ragray.config import RetrievalConfig
from ragray.evaluation.collections import Collection
from ragray.evaluation.retrieval import measure
from ragray.evaluation.search_quality import METRICS
from ragray.evaluation.tuning import Asked, PriorChoice, Values
from ragray.evaluation.tuning_values import Judged, of_lists
from ragray.retrieval.found import found_each
from ragray.retrieval.fusion import Fused, fuse
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.prior import SEPARATOR, Grouping, Prior, Shares, learn, reranked
from ragray.retrieval.writing import build_index

WEIGHTS = (0.25, 0.5, 1.0, 2.0)


def prior_choices(
    passages: Sequence[tuple[str, str]], groupings: Sequence[Grouping], separator: str = SEPARATOR
) -> list[PriorChoice]:
    """All groupings with all weights, but groupings that put all passages into one group.

    Args:
        passages: title and source of each.
        groupings: by what passages may be grouped; () tries no prior.
        separator: where the head of a title ends.
    """
    several = [group for group in groupings if len(learn(passages, (), group, separator).groups) > 1]
    return [PriorChoice(group, weight) for group in several for weight in WEIGHTS]


def prior_of(collection: Collection, choice: PriorChoice, separator: str = SEPARATOR) -> Prior:
    """The prior of a choice, learned from all judgements of a collection."""
    passages = [(document.title, document.source) for document in collection.documents]
    places = {document.doc_id: place for place, document in enumerate(collection.documents)}
    return learn(passages, _relevant(collection.qrels, collection.queries, places), choice.group, separator)


def values_with_priors(
    documents: pa.Table,
    judged: Judged,
    fold_of: NDArray[np.int64],
    settings: RetrievalConfig,
    left_out: Sequence[int | None],
    choices: Sequence[PriorChoice],
    separator: str = SEPARATOR,
) -> NDArray[np.float64]:
    """The metric of a setting without a prior and with each, float64 [left_out, 1 + choices, queries].

    Args:
        documents: with the schema of `Passage`.
        judged: the queries.
        fold_of: int64 [queries], of each query.
        settings: the fusion that is re-ranked.
        left_out: folds that no prior learns from, beside each query's own; None: that of the query alone.
        choices: the priors to try.
        separator: where the head of a title ends.
    """
    fused = _fused(documents, judged, settings)
    doc_ids, queries = documents.column("doc_id").to_pylist(), list(judged.queries)
    shares = _Shares(documents, judged, fold_of, separator)

    def values(of: Sequence[Fused]) -> Values:
        ranked = {
            query: [doc_ids[n] for n in one.first(judged.depth).documents.tolist()]
            for query, one in zip(queries, of, strict=True)
        }
        by_query = measure(ranked, judged.qrels, {judged.metric: METRICS[judged.metric]})[judged.metric]
        return np.array([by_query[query] for query in queries])

    found = np.empty((len(left_out), 1 + len(choices), len(queries)))
    found[:, 0] = values(fused)
    for place, without in enumerate(left_out):
        for row, choice in enumerate(choices, 1):
            learned = [shares.without(choice.group, frozenset({int(fold), without} - {None})) for fold in fold_of]
            pairs = zip(fused, learned, strict=True)
            found[place, row] = values([reranked(one, given, choice.weight)[0] for one, given in pairs])
    return found


def by_settings(asked: Sequence[Asked]) -> dict[RetrievalConfig, list[int]]:
    """The places of what is asked, by settings: their lists are made once."""
    places: dict[RetrievalConfig, list[int]] = {}
    for place, (settings, _) in enumerate(asked):
        places.setdefault(settings, []).append(place)
    return places


class _Shares:
    """What priors learned without some folds give to each document; those of equal folds are learned once."""

    def __init__(self, documents: pa.Table, judged: Judged, fold_of: NDArray[np.int64], separator: str) -> None:
        titles, sources = (documents.column(name).to_pylist() for name in ("title", "source"))
        self._passages = list(zip(titles, sources, strict=True))
        self._places = {doc_id: place for place, doc_id in enumerate(documents.column("doc_id").to_pylist())}
        self._judged, self._fold_of, self._separator = judged, fold_of, separator
        self.without = lru_cache(maxsize=None)(self._without)

    def _without(self, group: Grouping, folds: frozenset[int]) -> Shares:
        seen = [q for q, fold in zip(self._judged.queries, self._fold_of.tolist(), strict=True) if fold not in folds]
        relevant = _relevant(self._judged.qrels, seen, self._places)
        prior = learn(self._passages, relevant, group, self._separator)
        return prior.shares(prior.group_of(*passage) for passage in self._passages)


def _relevant(qrels: Mapping[str, Mapping[str, int]], queries: Iterable[str], places: Mapping[str, int]) -> list[int]:
    """The places of the documents that are judged relevant to some queries; absent ones are left out."""
    return [
        places[document]
        for query in queries
        for document, grade in qrels[query].items()
        if grade > 0 and document in places
    ]


def _fused(documents: pa.Table, judged: Judged, settings: RetrievalConfig) -> list[Fused]:
    """The whole fused list of each query."""
    with TemporaryDirectory(prefix="ragray-tune-") as name:
        build_index(documents, of_lists(settings), Path(name))  # without embeddings, which are not searched
        index = HybridIndex.open(Path(name))
        asked = index.corpus.queries([index.terms(text) for text in judged.queries.values()])
        found = found_each(index.corpus, asked, index.corpus.search_each(asked, index.fused_depth))
        return [fuse(settings, one) for one in found]
