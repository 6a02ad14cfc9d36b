"""All segments of an index as one corpus: queries are weighted by it, and the segments' rankings are merged.

In: opened postings and the statistics of the corpus. Out: rankings and scores as of one index over all live documents.
Documents are numbered through the segments in their order, those that are gone included.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragray.config import RetrievalConfig
from ragray.retrieval import bm25, tfidf, topk
from ragray.retrieval.postings import Floats, Postings, Queries, QueryTerms, Ranked
from ragray.retrieval.segment import Ints
from ragray.schema import Passage

_REMEMBERED_TERMS = 1 << 16  # looked up before: binary search costs as much as scoring does
_TERM_BITS = 40  # of a number that holds a query and a term
_NOTHING: Ranked = np.empty(0, np.int64), np.empty(0)


class Corpus:
    """The documents of some segments; read-only, safe to share between threads.

    Args:
        parts: the segments, or some of them.
        starts: the number of each one's first document.
        frequencies: [terms], live documents that hold each term.
        numbers: those of the corpus, from `write_statistics`.
        settings: of both models.
    """

    def __init__(
        self, parts: Sequence[Postings], starts: Sequence[int], frequencies: NDArray[np.uint32],
        numbers: dict[str, Any], settings: RetrievalConfig,
    ) -> None:  # fmt: skip
        self.parts = list(parts)
        self.starts: Ints = np.array(starts, np.int64)
        self._known: Callable[[str], int | None] = lru_cache(maxsize=_REMEMBERED_TERMS)(
            partial(_find_term, self.parts, frequencies)  # a method here would keep files mapped until the next gc
        )
        self._frequencies, self._corpus, self._settings = frequencies, numbers, settings
        self._thread = threading.local()

    def __len__(self) -> int:
        """Live documents."""
        return int(self._corpus["documents"])

    @property
    def size(self) -> int:
        """The number after that of the last document, those that are gone included."""
        return int(self.starts[-1]) + len(self.parts[-1])

    def number(self, doc_id: str) -> int | None:
        """The number of a live document, or None."""
        for part, start in zip(reversed(self.parts), self.starts[::-1].tolist(), strict=True):  # new ones are last
            if (number := part.find(doc_id)) is not None:
                return int(start + number)
        return None

    def doc_id(self, number: int) -> str:
        """The id of a document."""
        part, local = self._place(number)
        return part.segment.ids[local]

    def doc_ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of some documents."""
        return [self.doc_id(number) for number in numbers]

    def passage(self, number: int) -> Passage:
        """The passage of a document."""
        part, local = self._place(number)
        return part.segment.passage(local)

    def passages(self) -> Iterator[Passage]:
        """The passages of all live documents, in their order."""
        return (self.passage(number) for number in range(self.size) if not self.is_gone(number))

    def is_gone(self, number: int) -> bool:
        """Whether a document is no longer live."""
        part, local = self._place(number)
        return part.is_gone(local)

    def term(self, term: str) -> int | None:
        """The place of a term among all, or None where no live document holds it."""
        return self._known(term)

    def term_at(self, place: int) -> str | None:
        """The term at a place, or None where none of the segments holds it."""
        return next((term for part in self.parts if (term := part.term(place)) is not None), None)

    def frequency(self, place: int) -> int:
        """How many live documents hold a term."""
        return int(self._frequencies[place])

    def query(self, terms: Sequence[str]) -> QueryTerms:
        """Weights of a query's terms: unknown ones are left out, repeated ones count each time."""
        return self.queries([terms])[0]

    def queries(self, queries: Sequence[Sequence[str]]) -> Queries:
        """Weights of the terms of each query."""
        held = [[place for term in terms if (place := self.term(term)) is not None] for terms in queries]
        return weigh(held, lambda places: self._frequencies[places], self._corpus, self._settings)

    def search(self, query: QueryTerms, depth: int, absent: Ints | None = None) -> tuple[Ranked, Ranked]:
        """The `depth` best documents by BM25 and by cosine, of those that hold a term of the query.

        Args:
            query: from `query`.
            depth: how many of each at most.
            absent: int64, ascending: documents to pass over.
        """
        return next(self.search_each(Queries.one(query), depth, None if absent is None else [absent]))

    def search_each(
        self, queries: Queries, depth: int | None, absent: Sequence[Ints] | None = None
    ) -> Iterator[tuple[Ranked, Ranked]]:
        """`search` for each of some queries.

        Args:
            queries: from `queries`.
            depth: how many of each ranking at most; None: every document that holds a term.
            absent: for each query: documents to pass over.

        Raises:
            ValueError: `absent` is given, but not for each query.
        """
        if absent is not None and len(absent) != len(queries):
            raise ValueError(f"{len(absent)} lists of documents to pass over for {len(queries)} queries")
        whole = depth is None
        depth = len(self) if depth is None else max(0, min(depth, len(self)))
        # okapi gives negative weights in small corpora: no bound holds for them
        by_all = np.full(len(queries), whole)
        np.logical_or.at(by_all, np.repeat(np.arange(len(queries)), np.diff(queries.starts)), queries.terms.bm25 <= 0)
        found = [] if depth == 0 or whole else [
            part.search_each(queries, depth, self._absent_of(place, absent), by_all, self._room())
            for place, part in enumerate(self.parts)
        ]  # fmt: skip
        if depth == 0:
            yield from [(_NOTHING, _NOTHING)] * len(queries)
            return
        counts = [best.found.tolist() for best in found]
        for best, start in zip(found, self.starts, strict=False):
            best.documents[:] += start
        for query, (searched_all, floor) in enumerate(zip(by_all.tolist(), queries.floors.tolist(), strict=True)):
            if searched_all:
                passed_over = np.empty(0, np.int64) if absent is None else absent[query]
                yield self._search_all(queries[query], depth, passed_over)
                continue
            by_bm25, by_tfidf = (
                merged([(b.documents[query, model, : c[query][model]], b.scores[query, model, : c[query][model]])
                        for b, c in zip(found, counts, strict=True)], depth)
                for model in range(2)
            )  # fmt: skip
            yield _raised(by_bm25, floor) if floor else by_bm25, by_tfidf

    def scores_of_each(self, queries: Queries, documents: Sequence[Ints]) -> list[Floats]:
        """The exact BM25 scores and cosines of some documents for each query, float64 [2, documents] each."""
        starts = np.array([0, *itertools.accumulate(map(len, documents))])
        numbers = np.concatenate([np.empty(0, np.int64), *documents])
        scores = np.zeros((2, len(numbers)))
        for part, first in zip(self.parts, self.starts.tolist(), strict=True):
            if len(self.parts) == 1:
                scores = part.scores_of_each(queries, numbers - first, starts)
            elif (held := (numbers >= first) & (numbers < first + len(part))).any():
                begins = np.concatenate(([0], np.cumsum(held)))[starts]
                scores[:, held] = part.scores_of_each(queries, numbers[held] - first, begins)
        scores[0] += np.repeat(queries.floors, np.diff(starts))
        return [scores[:, begin:end] for begin, end in itertools.pairwise(starts.tolist())]

    def score(self, query: QueryTerms) -> tuple[Floats, Floats]:
        """BM25 scores and cosines of all documents, float64 [size] each; 0 where a document is gone.

        A document shares a term with the query exactly where its cosine is above 0.
        """
        found = [part.score(query) for part in self.parts]
        return np.concatenate([bm25_of for bm25_of, _ in found]), np.concatenate([cosine for _, cosine in found])

    def held(self, places: Iterable[int], document: int) -> list[int]:
        """Those of the terms that a document holds, in their order."""
        part, local = self._place(document)
        return list(part.held(places, local))

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """For each term of the query: its place, and what it adds to the BM25 score and cosine."""
        part, local = self._place(document)
        return part.contributions(query, local)

    def _place(self, number: int) -> tuple[Postings, int]:
        place = int(np.searchsorted(self.starts, number, "right")) - 1
        return self.parts[place], number - int(self.starts[place])

    def _absent_of(self, place: int, absent: Sequence[Ints] | None) -> list[Ints]:
        """The documents of a segment that each query passes over."""
        if absent is None:
            return []
        start = self.starts[place]
        end = start + len(self.parts[place])
        return [numbers[(numbers >= start) & (numbers < end)] - start for numbers in absent]

    def _search_all(self, query: QueryTerms, depth: int, absent: Ints) -> tuple[Ranked, Ranked]:
        scores, cosines = self.score(query)
        candidates = np.setdiff1d(np.flatnonzero(cosines > 0), absent, assume_unique=True)
        found = [ranked(values, candidates, depth) for values in (scores, cosines)]
        return (found[0], scores[found[0]]), (found[1], cosines[found[1]])

    def _room(self) -> Any:
        """Working memory of this thread."""
        if not hasattr(self._thread, "room"):
            self._thread.room = topk.room()
        return self._thread.room


def weigh(
    queries: Sequence[Sequence[int]], frequencies_of: Callable[[Ints], NDArray[Any]], numbers: Mapping[str, Any],
    settings: RetrievalConfig,
) -> Queries:  # fmt: skip
    """Weights of the terms of queries.

    Args:
        queries: places of the known terms of each, repeated ones as often as they occur.
        frequencies_of: how many live documents hold the terms at some places.
        numbers: those of the corpus, from `write_statistics`.
        settings: of both models.
    """
    owners = np.repeat(np.arange(len(queries)), [len(places) for places in queries])
    flat = np.fromiter(itertools.chain.from_iterable(queries), np.int64, len(owners))
    pairs, counted = np.unique(owners << _TERM_BITS | flat, return_counts=True)
    owners, places = pairs >> _TERM_BITS, pairs & ((1 << _TERM_BITS) - 1)
    frequencies = np.asarray(frequencies_of(places)).astype(np.int64)
    order = np.lexsort((places, -frequencies, owners))
    owners, places, frequencies = owners[order], places[order], frequencies[order]
    counts = counted[order].astype(np.float64)
    by_bm25 = bm25.idf(settings.bm25, numbers["documents"], frequencies, numbers["mean_idf"])
    by_tfidf = tfidf.idf(numbers["documents"], frequencies)
    raw = tfidf.raw_weights(counts, by_tfidf, settings.sublinear_tf)
    floor = bm25.floor(settings.bm25, by_bm25) * counts
    floors = np.bincount(owners, floor, len(queries)).astype(np.float64)
    weights = raw / tfidf.norms(raw, owners, len(queries))[owners]
    terms = QueryTerms(places, counts * by_bm25, weights, by_tfidf, 0.0)
    return Queries(terms, np.searchsorted(owners, np.arange(len(queries) + 1)), floors)


def _find_term(parts: Sequence[Postings], frequencies: NDArray[np.uint32], term: str) -> int | None:
    for part in parts:
        if (place := part.place(term)) is not None:
            return place if frequencies[place] else None
    return None


def merged(lists: Sequence[Ranked], depth: int | None) -> Ranked:
    """The `depth` best of several rankings of distinct documents, equal scores in document order.

    Args:
        lists: best first, in document order: all of one ranking stand before those of the next.
        depth: how many at most; None: all.
    """
    if len(lists) == 1:
        return lists[0]
    documents, scores = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    order = np.argsort(-scores, kind="stable")[:depth]
    return documents[order], scores[order]


def _raised(ranking: Ranked, floor: float) -> Ranked:
    """A ranking with what BM25+ adds to all: scores that rounding makes equal by it stand in document order."""
    documents, scores = ranking[0], ranking[1] + floor
    order = np.lexsort((documents, -scores))
    return documents[order], scores[order]


def ranked(scores: Floats, candidates: Ints, depth: int) -> Ints:
    """The `depth` best of `candidates` (document numbers), best first; equal scores in document order."""
    values = scores[candidates]
    if len(candidates) > depth:
        worst = np.partition(values, len(values) - depth)[len(values) - depth]
        candidates = candidates[values >= worst]
        values = scores[candidates]
    order = np.lexsort((candidates, -values))
    return np.asarray(candidates[order[:depth]], np.int64)
