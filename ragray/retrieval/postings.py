"""For every term its documents and how often they hold it; the scores of both models are made from these.

In: the terms of each document. Out: `.npy` arrays that open memory-mapped, and `Postings`, which finds the best
documents of a query for both models in one walk, or scores all. Term numbers follow the sorted vocabulary, so the same
documents give the same bytes.

    vocabulary.*         sorted terms
    packed.npy           uint16  postings, see `chunks`
    pointers.npy         uint32 or int64 [terms + 1]   where each term begins in `packed`
    frequencies.npy      uint32  [terms]      documents that hold the term
    lengths.npy          uint32  [documents]  terms of each document
    norms.npy            float32 [documents]  Euclidean length of the TF-IDF vector
    bm25_factors.npy, tfidf_factors.npy, classes.npy   see `topk.Documents`
    statistics.json      documents, mean length, mean idf
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragray.config import RetrievalConfig
from ragray.retrieval import bm25, tfidf
from ragray.retrieval.scoring import Documents, document_factors, model_of
from ragray.retrieval.strings import Strings, byte_order, write_strings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ranked = tuple[Ints, Floats]  # documents, best first, and their scores

_REMEMBERED_TERMS = 1 << 16  # looked up before: binary search costs as much as scoring does
_STATISTICS = "statistics.json"
_TERM_BITS = 40  # of a number that holds a query and a term


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """The terms of a query that the index knows, the most frequent first, with their weights in both models.

    `numbers`: int64 [terms]; `begins`, `ends`: int64, of their postings; `bm25`: float64, idf times occurrences in the
    query; `tfidf`: float64, the query's vector at length 1; `idf`: float64, that of TF-IDF; `floor`: what BM25+ adds to
    every document.
    """

    numbers: Ints
    begins: Ints
    ends: Ints
    bm25: Floats
    tfidf: Floats
    idf: Floats
    floor: float

    @property
    def rows(self) -> tuple[list[int], list[float], list[float], list[float]]:
        """Number, bm25, tfidf and idf of the terms."""
        return self.numbers.tolist(), self.bm25.tolist(), self.tfidf.tolist(), self.idf.tolist()


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
            terms.numbers[part], terms.begins[part], terms.ends[part], terms.bm25[part], terms.tfidf[part],
            terms.idf[part], float(self.floors[number]),
        )  # fmt: skip


def write_postings(documents: Sequence[Sequence[str]], settings: RetrievalConfig, folder: Path) -> dict[str, int]:
    """Write the arrays for documents given as their terms; returns the counts of terms and postings."""
    from ragray.retrieval.chunks import pack

    vocabulary, term_of, document_of, tf = _count(documents)
    write_strings(vocabulary, folder, "vocabulary")
    frequencies = np.bincount(term_of, minlength=len(vocabulary)).astype(np.int64)
    packed, pointers = pack(np.concatenate(([0], np.cumsum(frequencies))), document_of, tf)
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    weights = tfidf.raw_weights(
        tf.astype(np.float64), tfidf.idf(len(documents), frequencies)[term_of], settings.sublinear_tf
    )
    norms = tfidf.norms(weights, document_of, len(documents)).astype(np.float32)
    factors, numbers = document_factors(settings, lengths, norms, max(float(lengths.mean()), 1e-9))
    plain = bm25.plain_idf(len(documents), frequencies)
    numbers["mean_idf"] = float(plain.mean()) if len(plain) else 0.0
    arrays: dict[str, NDArray[np.generic]] = {
        "packed": packed,
        "pointers": pointers.astype(np.uint32) if len(packed) < 1 << 32 else pointers,
        "frequencies": frequencies.astype(np.uint32),
        "lengths": lengths.astype(np.uint32),
        "norms": norms,
        **factors,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / _STATISTICS).write_text(json.dumps(numbers, sort_keys=True) + "\n")
    return {"terms": len(vocabulary), "postings": len(term_of)}


def _count(documents: Sequence[Sequence[str]]) -> tuple[list[str], Ints, Ints, Ints]:
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
    counts = np.array(tf, np.int64)
    return [found[i] for i in order], term_of[by_term], document_of[by_term], counts[by_term]


class Postings:
    """The arrays of a folder, memory-mapped and read-only; safe to share between threads."""

    def __init__(self, folder: Path, settings: RetrievalConfig) -> None:
        self._settings = settings
        self._numbers: dict[str, Any] = json.loads((folder / _STATISTICS).read_text())
        self._model = model_of(settings, self._numbers)
        self.vocabulary = Strings(folder, "vocabulary")
        self.term: Callable[[str], int | None] = lru_cache(maxsize=_REMEMBERED_TERMS)(self.vocabulary.find)
        self._packed: NDArray[np.uint16] = _mapped(folder, "packed")
        self._pointers: Ints = _mapped(folder, "pointers")
        self._frequencies: NDArray[np.uint32] = _mapped(folder, "frequencies")
        self._documents = Documents(*(_mapped(folder, name) for name in Documents._fields))
        self._thread = threading.local()

    def __len__(self) -> int:
        return len(self._documents.lengths)

    def query(self, terms: Sequence[str]) -> QueryTerms:
        """Weights of a query's terms: unknown ones are left out, repeated ones count each time."""
        return self.queries([terms])[0]

    def queries(self, queries: Sequence[Sequence[str]]) -> Queries:
        """Weights of the terms of each query."""
        held = [[number for term in terms if (number := self.term(term)) is not None] for terms in queries]
        owners = np.repeat(np.arange(len(held)), [len(numbers) for numbers in held])
        flat = np.fromiter(itertools.chain.from_iterable(held), np.int64, len(owners))
        pairs, counted = np.unique(owners << _TERM_BITS | flat, return_counts=True)
        owners, numbers = pairs >> _TERM_BITS, pairs & ((1 << _TERM_BITS) - 1)
        order = np.lexsort((numbers, -self._frequencies[numbers].astype(np.int64), owners))
        owners, numbers, counts = owners[order], numbers[order], counted[order].astype(np.float64)
        by_bm25, by_tfidf = self._idf(numbers)
        raw = tfidf.raw_weights(counts, by_tfidf, self._settings.sublinear_tf)
        floor = bm25.floor(self._settings.bm25, by_bm25) * counts
        floors = np.bincount(owners, floor, len(held)).astype(np.float64)
        begins, ends = (self._pointers[numbers + n].astype(np.int64) for n in range(2))
        weights = raw / tfidf.norms(raw, owners, len(held))[owners]
        terms = QueryTerms(numbers, begins, ends, counts * by_bm25, weights, by_tfidf, 0.0)
        return Queries(terms, np.searchsorted(owners, np.arange(len(held) + 1)), floors)

    def search(self, query: QueryTerms, depth: int, absent: Ints | None = None) -> tuple[Ranked, Ranked]:
        """The `depth` best documents by BM25 and by cosine, of those that hold a term of the query.

        Args:
            query: from `query`.
            depth: how many of each at most.
            absent: int64, ascending: documents to pass over.
        """
        one = Queries(query, np.array([0, len(query.numbers)]), np.array([query.floor]))
        return next(self.search_each(one, depth, None if absent is None else [absent]))

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
        from ragray.retrieval import topk

        if absent is not None and len(absent) != len(queries):
            raise ValueError(f"{len(absent)} lists of documents to pass over for {len(queries)} queries")
        whole = depth is None
        depth = len(self) if depth is None else max(0, min(depth, len(self)))
        skipped = [np.empty(0, np.int64)] * len(queries) if absent is None else absent
        # okapi gives negative weights in small corpora: no bound holds for them
        by_all = np.full(len(queries), whole)
        np.logical_or.at(by_all, np.repeat(np.arange(len(queries)), np.diff(queries.starts)), queries.terms.bm25 <= 0)
        shape = (len(queries), 2, 0 if whole else depth)
        best = topk.Best(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape[:2], np.int64))
        if shape[2]:
            topk.top_of_each(
                self._packed, self._documents, self._model, topk.Query.of(queries.terms), queries.starts,
                np.concatenate(skipped) if len(skipped) else np.empty(0, np.int64),
                np.concatenate(([0], np.cumsum([len(documents) for documents in skipped]))).astype(np.int64),
                by_all, best, self._room(topk),
            )  # fmt: skip
        for number, floor in enumerate(queries.floors.tolist()):
            if by_all[number] and depth:
                yield self._search_all(queries[number], depth, skipped[number])
                continue
            first, second = best.found[number]
            documents, scores = best.documents[number], best.scores[number]
            yield (documents[0, :first], scores[0, :first] + floor), (documents[1, :second], scores[1, :second])

    def scores_of(self, query: QueryTerms, documents: Sequence[int]) -> list[tuple[float, float]]:
        """(BM25 score, cosine) of each of some documents."""
        from ragray.retrieval import topk

        chosen, scores = np.array(documents, np.int64), np.zeros((2, len(documents)))
        topk.score_each(self._packed, self._documents, self._model, topk.Query.of(query), chosen, scores)
        return list(zip((scores[0] + query.floor).tolist(), scores[1].tolist(), strict=True))

    def score(self, query: QueryTerms) -> tuple[Floats, Floats]:
        """BM25 scores and cosines of all documents, float64 [documents] each.

        A document shares a term with the query exactly where its cosine is above 0.
        """
        scores, cosines = np.zeros(len(self)), np.zeros(len(self))
        for number, by_bm25, by_tfidf, idf in zip(*query.rows, strict=True):
            documents, counts = self._postings(number)
            scores[documents] += by_bm25 * self._saturation(documents, counts)
            cosines[documents] += by_tfidf * idf * tfidf.tf_weights(counts, self._settings.sublinear_tf)
        return scores + query.floor, cosines / self._documents.norms

    def frequency(self, number: int) -> int:
        """How many documents hold a term."""
        return int(self._frequencies[number])

    def held(self, numbers: Iterable[int], document: int) -> list[int]:
        """Those of the terms that a document holds, in their order."""
        return [number for number in numbers if self._count(number, document)]

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """For each term of the query: its number, and what it adds to the BM25 score and cosine."""
        rows = []
        share = query.floor / query.bm25.sum() if query.floor else 0.0  # both are sums of idf times occurrences
        for number, by_bm25, by_tfidf, idf in zip(*query.rows, strict=True):
            count = self._count(number, document)
            added, cosine = 0.0, 0.0
            if count:
                found, counts = np.array([document]), np.array([float(count)])
                added = float(by_bm25 * self._saturation(found, counts)[0])
                weight = by_tfidf * idf * tfidf.tf_weights(counts, self._settings.sublinear_tf)[0]
                cosine = float(weight / self._documents.norms[document])
            rows.append((int(number), float(share * by_bm25) + added, cosine))
        return rows

    def _idf(self, numbers: Ints) -> tuple[Floats, Floats]:
        """Of terms in both models."""
        frequencies = self._frequencies[numbers].astype(np.int64)
        by_bm25 = bm25.idf(self._settings.bm25, len(self), frequencies, self._numbers["mean_idf"])
        return by_bm25, tfidf.idf(len(self), frequencies)

    def _postings(self, number: int) -> tuple[Ints, Floats]:
        """The documents that hold a term, in no particular order, and how often."""
        from ragray.retrieval.chunks import unpack

        documents, counts = (np.empty(self.frequency(number), np.int64) for _ in range(2))
        unpack(self._packed, int(self._pointers[number]), int(self._pointers[number + 1]), documents, counts)
        return documents, counts.astype(np.float64)

    def _count(self, number: int, document: int) -> int:
        """How often a document holds a term."""
        from ragray.retrieval.chunks import count_of

        return int(count_of(self._packed, int(self._pointers[number]), int(self._pointers[number + 1]), document))

    def _saturation(self, documents: Ints, counts: Floats) -> Floats:
        lengths = self._documents.lengths[documents].astype(np.float64)
        norms = bm25.length_norm(self._model.b, lengths, self._model.mean_length)
        return bm25.saturation(self._model.variant, self._model.k1, counts, norms)

    def _search_all(self, query: QueryTerms, depth: int, absent: Ints) -> tuple[Ranked, Ranked]:
        scores, cosines = self.score(query)
        candidates = np.setdiff1d(np.flatnonzero(cosines > 0), absent, assume_unique=True)
        found = [ranked(values, candidates, depth) for values in (scores, cosines)]
        return (found[0], scores[found[0]]), (found[1], cosines[found[1]])

    def _room(self, topk: Any) -> Any:
        """Working memory of this thread."""
        if not hasattr(self._thread, "room"):
            self._thread.room = topk.room()
        return self._thread.room


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
