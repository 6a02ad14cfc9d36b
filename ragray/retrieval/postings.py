"""The postings of one segment, scored by both models.

In: a segment, the arrays that `statistics` made for it, and queries whose weights follow from the whole corpus. Out:
the best documents of the segment for each query in one walk, or the scores of all. Numbers are those of the segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragray.config import RetrievalConfig
from ragray.retrieval import bm25, tfidf, topk
from ragray.retrieval.chosen import score_each
from ragray.retrieval.chunks import count_of, unpack
from ragray.retrieval.scoring import Documents, model_of
from ragray.retrieval.segment import Flags, Ints, Segment, mapped

Floats = NDArray[np.float64]
Ranked = tuple[Ints, Floats]  # documents, best first, and their scores


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """The terms of a query that the corpus knows, the most frequent first, with their weights in both models.

    `places`: int64 [terms], among all terms of the corpus; `bm25`: float64, idf times occurrences in the query;
    `tfidf`: float64, the query's vector at length 1; `idf`: float64, that of TF-IDF; `floor`: what BM25+ adds to every
    document.
    """

    places: Ints
    bm25: Floats
    tfidf: Floats
    idf: Floats
    floor: float

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class Queries:
    """The terms of several queries end to end: those of query q from `starts[q]` to `starts[q + 1]`."""

    terms: QueryTerms  # without a floor
    starts: Ints
    floors: Floats

    def __len__(self) -> int:
        return len(self.floors)

    def __getitem__(self, number: int) -> QueryTerms:
        part, terms = slice(self.starts[number], self.starts[number + 1]), self.terms
        return QueryTerms(
            terms.places[part], terms.bm25[part], terms.tfidf[part], terms.idf[part], float(self.floors[number])
        )

    @classmethod
    def one(cls, query: QueryTerms) -> Queries:
        """A single query."""
        return cls(query, np.array([0, len(query)]), np.array([query.floor]))


class Postings:
    """An opened segment with its statistics; safe to share between threads.

    Args:
        segment: the segment.
        folder: of the arrays that `write_statistics` made for it.
        settings: of both models.
        corpus: the numbers of the corpus.
        numbers: those of the segment.
        alone: whether it is the only one of its index: then its terms are all terms.
    """

    def __init__(
        self, segment: Segment, folder: Path, settings: RetrievalConfig, corpus: dict[str, Any],
        numbers: dict[str, Any], alone: bool,
    ) -> None:  # fmt: skip
        self.segment = segment
        self._settings = settings
        self._model = model_of(settings, numbers, corpus["mean_length"])
        self._documents = Documents(
            segment.lengths, *(mapped(folder, name) for name in Documents._fields if name != "lengths")
        )
        self.gone: Ints = mapped(folder, "gone")
        self._places: Ints | None = None if alone else mapped(folder, "places")

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def live(self) -> Flags:
        """bool [documents]: which are live."""
        flags = np.ones(len(self), np.bool_)
        flags[self.gone] = False
        return flags

    def find(self, doc_id: str) -> int | None:
        """The number of a live document, or None."""
        number = self.segment.find(doc_id)
        return None if number is None or self.is_gone(number) else number

    def is_gone(self, number: int) -> bool:
        """Whether a document is no longer live."""
        at = int(np.searchsorted(self.gone, number))
        return at < len(self.gone) and int(self.gone[at]) == number

    def place(self, term: str) -> int | None:
        """The place of a term among all, or None where the segment does not hold it."""
        number = self.segment.vocabulary.find(term)
        return number if number is None or self._places is None else int(self._places[number])

    def term(self, place: int) -> str | None:
        """The term at a place, or None where the segment does not hold it."""
        number = int(self._numbers(np.array([place]))[0])
        return None if number < 0 else self.segment.vocabulary[number]

    def search_each(
        self, queries: Queries, depth: int, absent: Sequence[Ints], passed_over: NDArray[np.bool_], room: Any
    ) -> Any:
        """The `depth` best documents of each query by BM25 and by cosine, without what BM25+ adds to all: `topk.Best`.

        Args:
            queries: from the corpus.
            depth: how many of each ranking at most, above 0.
            absent: for each query, ascending: documents to pass over; or nothing at all.
            passed_over: bool [queries], queries to leave out.
            room: from `topk.room`.
        """
        shape = (len(queries), 2, depth)
        best = topk.Best(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape[:2], np.int64))
        terms, starts = self._terms(queries)
        skipped = np.concatenate([np.empty(0, np.int64), *absent])
        skipped_starts = np.zeros(len(queries) + 1, np.int64)
        if absent:
            np.cumsum([len(documents) for documents in absent], out=skipped_starts[1:])
        topk.top_of_each(
            self.segment.packed, self._documents, self._model, terms, starts, skipped, skipped_starts, passed_over,
            best, room,
        )  # fmt: skip
        return best

    def load(self) -> None:
        """Load the compiled code for the exact scores of chosen documents, which a search needs too."""
        none = np.empty(0, np.int64)
        nothing = QueryTerms(none, np.empty(0), np.empty(0), np.empty(0), 0.0)
        self.scores_of_each(Queries.one(nothing), none, np.zeros(2, np.int64))
        count_of(self.segment.packed, 0, 0, 0)

    def scores_of_each(self, queries: Queries, documents: Ints, starts: Ints) -> Floats:
        """BM25 scores and cosines of some documents, float64 [2, documents], without what BM25+ adds to all.

        Args:
            queries: from the corpus.
            documents: those of all queries end to end.
            starts: int64 [queries + 1], where those of each query begin.
        """
        scores = np.zeros((2, len(documents)))
        terms, of_terms = self._terms(queries)
        score_each(self.segment.packed, self._documents, self._model, terms, of_terms, documents, starts, scores)
        return scores

    def score(self, query: QueryTerms) -> tuple[Floats, Floats]:
        """BM25 scores and cosines of all documents, float64 [documents] each; 0 where a document is gone.

        A document shares a term with the query exactly where its cosine is above 0.
        """
        scores, cosines = np.zeros(len(self)), np.zeros(len(self))
        numbers = self._numbers(query.places)
        for number, by_bm25, by_tfidf, idf in zip(
            numbers.tolist(), query.bm25.tolist(), query.tfidf.tolist(), query.idf.tolist(), strict=True
        ):
            if number >= 0:
                documents, counts = self._postings(number)
                scores[documents] += by_bm25 * self._saturation(documents, counts)
                cosines[documents] += by_tfidf * idf * tfidf.tf_weights(counts, self._settings.sublinear_tf)
        scores += query.floor
        scores[self.gone] = 0.0
        return scores, cosines / self._documents.norms

    def held(self, places: Iterable[int], document: int) -> Iterator[int]:
        """Those of the terms that a document holds, in their order."""
        asked = list(places)
        for place, number in zip(asked, self._numbers(np.array(asked, np.int64)).tolist(), strict=True):
            if self._count(number, document):
                yield place

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """For each term of the query: its place, and what it adds to the BM25 score and cosine."""
        rows = []
        share = query.floor / query.bm25.sum() if query.floor else 0.0  # both are sums of idf times occurrences
        numbers = self._numbers(query.places)
        for place, number, by_bm25, by_tfidf, idf in zip(
            query.places.tolist(), numbers.tolist(), query.bm25.tolist(), query.tfidf.tolist(), query.idf.tolist(),
            strict=True,
        ):  # fmt: skip
            count = self._count(number, document)
            added, cosine = 0.0, 0.0
            if count:
                found, counts = np.array([document]), np.array([float(count)])
                added = float(by_bm25 * self._saturation(found, counts)[0])
                weight = by_tfidf * idf * tfidf.tf_weights(counts, self._settings.sublinear_tf)[0]
                cosine = float(weight / self._documents.norms[document])
            rows.append((place, float(share * by_bm25) + added, cosine))
        return rows

    def _numbers(self, places: Ints) -> Ints:
        """The numbers of terms in this segment, -1 where it does not hold one."""
        if self._places is None:
            return places
        found = np.searchsorted(self._places, places)
        held = self._places[np.minimum(found, len(self._places) - 1)] == places if len(self._places) else found < 0
        return np.where(held, found, -1)

    def _terms(self, queries: Queries) -> tuple[Any, Ints]:
        """(`topk.Query` of the terms that the segment holds, where those of each query begin)."""
        terms, starts, numbers = queries.terms, queries.starts, self._numbers(queries.terms.places)
        weights = terms.bm25, terms.tfidf, terms.idf
        if self._places is not None:
            held = numbers >= 0
            starts = np.concatenate(([0], np.cumsum(held)))[starts]
            numbers, weights = numbers[held], (weights[0][held], weights[1][held], weights[2][held])
        begins, ends = (self.segment.pointers[numbers + n].astype(np.int64) for n in range(2))
        return topk.Query(begins, ends, *weights), starts

    def _postings(self, number: int) -> tuple[Ints, Floats]:
        """The documents that hold a term, in no particular order, and how often."""
        documents, counts = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        begin, end = self._extent(number)
        count = unpack(self.segment.packed, begin, end, documents, counts)
        return documents[:count], counts[:count].astype(np.float64)

    def _count(self, number: int, document: int) -> int:
        """How often a document holds a term; never one of number -1."""
        return int(count_of(self.segment.packed, *self._extent(number), document)) if number >= 0 else 0

    def _extent(self, number: int) -> tuple[int, int]:
        return int(self.segment.pointers[number]), int(self.segment.pointers[number + 1])

    def _saturation(self, documents: Ints, counts: Floats) -> Floats:
        lengths = self.segment.lengths[documents].astype(np.float64)
        norms = bm25.length_norm(self._model.b, lengths, self._model.mean_length)
        return bm25.saturation(self._model.variant, self._model.k1, counts, norms)
