"""How good and how fast search is on a test collection: TF-IDF alone, BM25 alone, and the hybrid of both.

In: a `Collection` and the retriever's settings. Out: each retriever's rankings of the judged queries, the means of
their metrics, and queries a second. The index is built as `ragray index` builds one, in a temporary folder.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from ragray.config import RetrievalConfig
from ragray.errors import WorkError
from ragray.evaluation.collections import Collection
from ragray.evaluation.retrieval import measure
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index

DEPTH = 100  # documents of each ranking that are judged
RETRIEVERS = ("tfidf", "bm25", "hybrid")

# Metric -> its name in ir-measures; those that collections are published with.
METRICS = {
    "ndcg@10": "nDCG@10",
    "recall@10": "R@10",
    "recall@100": "R@100",
    "mrr@10": "RR@10",
    "map": "AP",
}

_AT_ONCE = 256  # queries
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast queries were answered by one process, after each had been asked once."""

    queries_per_s: float  # many queries in one call
    p50_ms: float  # one query in a call: the median
    p99_ms: float


@dataclass(frozen=True, slots=True)
class SearchQuality:
    """What was measured on one collection."""

    metrics: dict[str, dict[str, float]]  # retriever -> metric -> mean over the judged queries
    lists: Speed  # of making the rankings of TF-IDF and BM25, which one walk over the postings gives
    hybrid: Speed  # of the search that users call: both rankings, fused, with all scores
    index_seconds: float
    rankings: dict[str, dict[str, list[str]]]  # retriever -> query -> documents, best first, `DEPTH` at most


def evaluate_search(
    collection: Collection, settings: RetrievalConfig, report: Callable[[str], None] = lambda line: None
) -> SearchQuality:
    """Index the documents, search for every judged query, and measure.

    Args:
        collection: what to search, and what is right.
        settings: of the index.
        report: is told what begins.

    Raises:
        WorkError: ir-measures is not installed.
    """
    if importlib.util.find_spec("ir_measures") is None:
        raise WorkError("the package ir-measures is not installed", "pip install 'ragray[evaluate]'")
    with TemporaryDirectory(prefix="ragray-evaluate-") as name:
        report(f"indexing {len(collection.documents):,} documents")
        begin = time.perf_counter()
        build_index(collection.documents, settings, Path(name))
        index_seconds = time.perf_counter() - begin
        report(f"searching for {len(collection.queries):,} queries")
        rankings, lists, hybrid = _search(HybridIndex.open(Path(name)), collection)
    return SearchQuality(
        metrics={retriever: _means(rankings[retriever], collection) for retriever in RETRIEVERS},
        lists=lists,
        hybrid=hybrid,
        index_seconds=index_seconds,
        rankings=rankings,
    )


def quality_tree(collection: Collection, settings: RetrievalConfig, quality: SearchQuality) -> dict[str, Any]:
    """All but the rankings, as JSON has it."""
    return {
        "queries_file": str(collection.queries_file),
        "qrels_file": str(collection.qrels_file),
        "documents": len(collection.documents),
        "queries": collection.queries_read,
        "judged_queries": len(collection.queries),
        "judged_queries_without_relevant": collection.without_relevant,
        "judgements": collection.judgements_read,
        "judgements_of_unknown_queries": collection.of_unknown_queries,
        "judgements_of_unknown_documents": collection.of_unknown_documents,
        "depth": DEPTH,
        "metrics": quality.metrics,
        "speed": {"tfidf_and_bm25": asdict(quality.lists), "hybrid": asdict(quality.hybrid)},
        "index_seconds": quality.index_seconds,
        "retrieval": settings.model_dump(),
    }


def _search(index: HybridIndex, collection: Collection) -> tuple[dict[str, dict[str, list[str]]], Speed, Speed]:
    """The rankings of each retriever, and how fast they were made."""
    queries, texts = list(collection.queries), list(collection.queries.values())
    pairs, lists = _asked(lambda part: _lists(index, part), texts)
    fused, hybrid = _asked(lambda part: [[h.doc_id for h in hits] for hits in index.search_batch(part, DEPTH)], texts)
    rankings = {
        "tfidf": _named(queries, (by_tfidf for _, by_tfidf in pairs), collection),
        "bm25": _named(queries, (by_bm25 for by_bm25, _ in pairs), collection),
        "hybrid": dict(zip(queries, fused, strict=True)),
    }
    return rankings, lists, hybrid


def _lists(index: HybridIndex, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Document numbers by BM25 and by cosine, for each query."""
    return [(bm25[0].tolist(), tfidf[0].tolist()) for bm25, tfidf in index.lists(texts, DEPTH)]


def _named(queries: Sequence[str], ranked: Iterable[list[int]], collection: Collection) -> dict[str, list[str]]:
    documents = collection.documents
    return {query: [documents[n].doc_id for n in numbers] for query, numbers in zip(queries, ranked, strict=True)}


def _asked(search: Callable[[Sequence[str]], list[R]], texts: Sequence[str]) -> tuple[list[R], Speed]:
    """The results of all queries, and how fast they come: asked once untimed, then one by one, then many at once."""
    found = _in_parts(search, texts)
    seconds = []
    for text in texts:
        begin = time.perf_counter()
        search([text])
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    _in_parts(search, texts)
    elapsed = time.perf_counter() - begin
    p50, p99 = np.percentile(seconds, [50, 99]).tolist()
    return found, Speed(len(texts) / elapsed, 1000 * p50, 1000 * p99)


def _in_parts(search: Callable[[Sequence[str]], list[R]], texts: Sequence[str]) -> list[R]:
    return [result for at in range(0, len(texts), _AT_ONCE) for result in search(texts[at : at + _AT_ONCE])]


def _means(rankings: dict[str, list[str]], collection: Collection) -> dict[str, float]:
    values = measure(rankings, collection.qrels, METRICS)
    return {metric: fmean(by_query.values()) for metric, by_query in values.items()}
