"""For every term its documents, with what it adds to the BM25 score and to the cosine side by side.

In: the terms of each document. Out: `.npy` arrays that open memory-mapped, and `Postings.score`, one pass
over a query's postings for both models. Term numbers follow the sorted vocabulary, so the same documents
give the same bytes. Scoring is plain numpy: importing numba alone takes 0.4 s of CPU, this scores a query over
58,414 statutes in 1.7 ms.

    vocabulary.*         sorted terms
    pointers.npy         int64   [terms + 1]   where each term's postings begin
    documents.npy        uint32  [postings]    ascending within a term
    counts.npy           uint32  [postings]    occurrences: weights can be made again for other statistics
    bm25.npy             float32 [postings]    eager BM25 contribution
    tfidf.npy            float32 [postings]    weight of the document's vector at length 1
    lengths.npy          uint32  [documents]   terms of each document
    idf_bm25.npy         float64 [terms]
    idf_tfidf.npy        float64 [terms]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragray.config import RetrievalConfig
from ragray.retrieval import bm25, tfidf
from ragray.retrieval.strings import Strings, byte_order, write_strings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_REMEMBERED_TERMS = 1 << 16  # looked up before: binary search costs as much as scoring does


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """The terms of a query that the index knows, with their weights in both models.

    `numbers`: int64 [terms], ascending; `bm25`: float64, occurrences in the query; `tfidf`: float64, at
    length 1; `floor`: what BM25+ adds to every document.
    """

    numbers: Ints
    bm25: Floats
    tfidf: Floats
    floor: float


def write_postings(documents: Sequence[Sequence[str]], settings: RetrievalConfig, folder: Path) -> dict[str, int]:
    """Write the arrays for documents given as their terms; returns the counts of terms and postings."""
    vocabulary, term_of, document_of, tf = _count(documents)
    write_strings(vocabulary, folder, "vocabulary")
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    frequencies = np.bincount(term_of, minlength=len(vocabulary)).astype(np.int64)
    pointers = np.zeros(len(vocabulary) + 1, np.int64)
    np.cumsum(frequencies, out=pointers[1:])
    idf_bm25 = bm25.idf(settings.bm25, len(documents), frequencies)
    idf_tfidf = tfidf.idf(len(documents), frequencies)
    mean = max(float(lengths.mean()), 1e-9)
    contributions = bm25.weights(settings.bm25, idf_bm25[term_of], tf, lengths[document_of].astype(np.float64), mean)
    raw = tfidf.raw_weights(tf, idf_tfidf[term_of], settings.sublinear_tf)
    arrays: dict[str, NDArray[np.generic]] = {
        "pointers": pointers,
        "documents": document_of.astype(np.uint32),
        "counts": tf.astype(np.uint32),
        "bm25": contributions.astype(np.float32),
        "tfidf": (raw / tfidf.norms(raw, document_of, len(documents))[document_of]).astype(np.float32),
        "lengths": lengths.astype(np.uint32),
        "idf_bm25": idf_bm25,
        "idf_tfidf": idf_tfidf,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {"terms": len(vocabulary), "postings": len(term_of)}


def _count(documents: Sequence[Sequence[str]]) -> tuple[list[str], Ints, Ints, Floats]:
    """Sorted vocabulary, and term, document and tf of each posting, ordered by term, then document."""
    seen: dict[str, int] = {}
    terms: list[int] = []
    tf: list[int] = []
    sizes = np.zeros(len(documents), np.int64)
    for number, document in enumerate(documents):
        counted = Counter(document)
        terms.extend(seen.setdefault(term, len(seen)) for term in counted)
        tf.extend(counted.values())
        sizes[number] = len(counted)
    found = list(seen)
    order = byte_order(found)
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    term_of = rank[np.array(terms, np.int64)]
    by_term = np.argsort(term_of, kind="stable")  # documents were added in order, and stay so within a term
    document_of = np.repeat(np.arange(len(documents)), sizes)
    counts = np.array(tf, np.float64)
    return [found[i] for i in order], term_of[by_term], document_of[by_term], counts[by_term]


class Postings:
    """The arrays of a folder, memory-mapped and read-only; safe to share between threads."""

    def __init__(self, folder: Path, settings: RetrievalConfig) -> None:
        self._settings = settings
        self.vocabulary = Strings(folder, "vocabulary")
        self.term: Callable[[str], int | None] = lru_cache(maxsize=_REMEMBERED_TERMS)(self.vocabulary.find)
        self.pointers: Ints = _mapped(folder, "pointers")
        self.documents: NDArray[np.uint32] = _mapped(folder, "documents")
        self.bm25: NDArray[np.float32] = _mapped(folder, "bm25")
        self.tfidf: NDArray[np.float32] = _mapped(folder, "tfidf")
        self.lengths: NDArray[np.uint32] = _mapped(folder, "lengths")
        self.idf_bm25: Floats = _mapped(folder, "idf_bm25")
        self.idf_tfidf: Floats = _mapped(folder, "idf_tfidf")

    def __len__(self) -> int:
        return len(self.lengths)

    def query(self, terms: Sequence[str]) -> QueryTerms:
        """Weights of a query's terms: unknown ones are left out, repeated ones count each time."""
        numbers = ((self.term(term), count) for term, count in Counter(terms).items())
        known = sorted((number, count) for number, count in numbers if number is not None)
        chosen = np.array([number for number, _ in known], np.int64)
        counts = np.array([count for _, count in known], np.float64)
        weights = tfidf.query_weights(counts, self.idf_tfidf[chosen], self._settings.sublinear_tf)
        floor = float((bm25.floor(self._settings.bm25, self.idf_bm25[chosen]) * counts).sum())
        return QueryTerms(chosen, counts, weights, floor)

    def score(self, query: QueryTerms) -> tuple[Floats, Floats]:
        """BM25 scores and cosines of all documents, float64 [documents] each.

        A document shares a term with the query exactly where its cosine is above 0.
        """
        spans = [slice(self.pointers[number], self.pointers[number + 1]) for number in query.numbers]
        if not spans:
            return np.zeros(len(self)), np.zeros(len(self))
        documents = np.concatenate([self.documents[span] for span in spans])
        added = (
            np.concatenate([weights[span] * factor for span, factor in zip(spans, factors, strict=True)])
            for weights, factors in ((self.bm25, query.bm25), (self.tfidf, query.tfidf))
        )
        scores = [np.bincount(documents, weights=part, minlength=len(self)).astype(np.float64) for part in added]
        return scores[0] + query.floor, scores[1]

    def frequency(self, number: int) -> int:
        """How many documents hold a term."""
        return int(self.pointers[number + 1] - self.pointers[number])

    def held(self, numbers: Iterable[int], document: int) -> list[int]:
        """Those of the terms that a document holds, in their order."""
        return [number for number in numbers if self._place(number, document) is not None]

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """For each term of the query: its number, and what it adds to the BM25 score and cosine."""
        rows = []
        for number, w_bm25, w_tfidf in zip(query.numbers, query.bm25, query.tfidf, strict=True):
            at = self._place(number, document)
            floor = float(bm25.floor(self._settings.bm25, self.idf_bm25[number : number + 1])[0] * w_bm25)
            added = (float(self.bm25[at] * w_bm25), float(self.tfidf[at] * w_tfidf)) if at is not None else (0.0, 0.0)
            rows.append((int(number), floor + added[0], added[1]))
        return rows

    def _place(self, number: int, document: int) -> int | None:
        """Where the posting of a term and a document stands, or None."""
        begin, end = int(self.pointers[number]), int(self.pointers[number + 1])
        at = begin + int(np.searchsorted(self.documents[begin:end], np.uint32(document)))
        return at if at < end and self.documents[at] == document else None


def _mapped(folder: Path, name: str) -> Any:
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def ranked(scores: Floats, candidates: Ints, depth: int) -> Ints:
    """The `depth` best of `candidates` (document numbers), best first; equal scores in document order."""
    values = scores[candidates]
    if len(candidates) > depth:
        worst = np.partition(values, len(values) - depth)[len(values) - depth]
        candidates = candidates[values >= worst]
        values = scores[candidates]
    order = np.lexsort((candidates, -values))
    return np.asarray(candidates[order[:depth]], np.int64)
