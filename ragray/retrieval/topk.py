"""The best documents by BM25 and by cosine, from one walk over a query's postings, and provably the best.

In: packed postings, lengths and norms of documents, the weights of a query's terms. Out: both ranked lists.

Both scores of a document are a sum over the terms it holds, times a factor of the document: for BM25 what a term that
occurs once adds, which falls with the document's length, for the cosine one over its norm. So a walk adds, for each
posting, one 32-bit number that holds what the term adds to both sums, each rounded up to 16 bits. The sums times the
factors, also 16 bits and rounded up, are compared with thresholds: a document that reaches neither is not among the
best. The others are scored exactly, in float64.

The most frequent terms are not walked once the best known documents score so high that these terms alone, added to
whatever lies below, cannot matter (MaxScore: Turtle and Flood 1995, "Query evaluation: strategies and optimizations").
The cosine's share of such terms is at most the length of the query's part by Cauchy and Schwarz.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragray.compiled import array_kernel, inlined, kernel
from ragray.retrieval import bm25
from ragray.retrieval.bounds import LESS, bounds, limit
from ragray.retrieval.chunks import BITMAP, BLOCK, BLOCK_LOG, HEADER, chunk_size, counts_in
from ragray.retrieval.scoring import CLASSES, COUNTS
from ragray.retrieval.sums import (
    HALF,
    Sums,
    add_terms,
    amount,
    product_bm25,
    product_high,
    product_tfidf,
    saturation,
    scale_of,
    tf_weight,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FEW = 64  # postings of a block that are all scored while there are no best documents yet
_NEIGHBOURS = 32  # documents that are looked at together
_SHARE = 0.58  # of the threshold that terms which are not walked may add; more of it makes more candidates

_length_norm = inlined(bm25.length_norm)


class Query(NamedTuple):
    """The terms of a query from the most frequent on, [terms]."""

    begins: Ints  # of their chunks
    ends: Ints
    bm25: Floats  # idf times occurrences in the query; above 0
    tfidf: Floats  # weights of the query's vector at length 1
    idf: Floats  # of TF-IDF

    @classmethod
    def of(cls, terms: Any) -> Query:
        """The fields of the same names."""
        return cls(*(getattr(terms, name) for name in cls._fields))


class Best(NamedTuple):
    """The best documents so far, best first, by BM25 and by cosine."""

    documents: Ints  # [2, depth], or of several queries [queries, 2, depth]
    scores: Floats
    found: Ints  # [2], or [queries, 2]


class Room(NamedTuple):
    """Working memory of one thread."""

    sums: Sums  # [BLOCK], zero
    least: NDArray[np.uint16]  # [2 * _NEIGHBOURS]
    candidates: NDArray[np.int32]
    totals: Sums  # of the candidates
    found: Ints  # candidates in the order they are found: its number, then its total
    maxima: NDArray[np.uint16]  # [2 * BLOCK], of groups of documents: by BM25 and by cosine in turn
    table: Sums  # [COUNTS * CLASSES]
    norms: Floats  # [BLOCK], of the candidates' lengths
    scores: Floats  # [2, BLOCK], of the candidates
    places: NDArray[np.uint64]  # [BLOCK], of the candidates in a list
    counts: Ints  # [BLOCK], of a term in the candidates


def room() -> Room:
    """Working memory for `top_of_each`."""
    return Room(
        np.zeros(BLOCK, np.uint32), np.zeros(2 * _NEIGHBOURS, np.uint16), np.zeros(BLOCK, np.int32),
        np.zeros(BLOCK, np.uint32), np.zeros(BLOCK, np.int64), np.zeros(2 * BLOCK, np.uint16),
        np.zeros(COUNTS * CLASSES, np.uint32), np.zeros(BLOCK), np.zeros((2, BLOCK)),
        np.zeros(BLOCK, np.uint64), np.zeros(BLOCK, np.int64),
    )  # fmt: skip


@array_kernel
def top_of_each(  # type: ignore[no-untyped-def]
    packed, documents, model, terms, starts, absent, absent_starts, passed_over, best, room
):
    """Put the best documents of each query into `best`; equal scores in document order.

    Args:
        packed: postings of all terms.
        documents: as `Documents`.
        model: as `Model`.
        terms: as `Query`, of all queries end to end.
        starts: int64 [queries + 1], where those of each query begin.
        absent: int64, ascending for each query: documents to pass over.
        absent_starts: int64 [queries + 1], where those of each query begin.
        passed_over: bool [queries], queries to leave out.
        best: as `Best`, of all queries; empty.
        room: as `Room`.
    """
    places = np.empty((2, np.diff(starts).max() if len(starts) > 1 else 0), np.int64)
    for number in range(len(starts) - 1):
        begin, end = starts[number], starts[number + 1]
        if begin == end or passed_over[number]:
            continue
        query = Query(
            terms.begins[begin:end], terms.ends[begin:end], terms.bm25[begin:end], terms.tfidf[begin:end],
            terms.idf[begin:end],
        )  # fmt: skip
        of_query = Best(best.documents[number], best.scores[number], best.found[number])
        skipped = absent[absent_starts[number] : absent_starts[number + 1]]
        following, chunks = places[0, : end - begin], places[1, : end - begin]
        _top(packed, documents, model, query, skipped, of_query, room, following, chunks)


@kernel
def _top(packed, documents, model, query, absent, best, room, next_chunk, chunks):  # type: ignore[no-untyped-def]
    count, depth = len(documents.lengths), best.scores.shape[1]
    for term in range(len(chunks)):
        next_chunk[term] = query.begins[term]
    passed = 0
    for block in range((count + BLOCK - 1) >> BLOCK_LOG):
        first = block << BLOCK_LOG
        size = min(BLOCK, count - first)
        terms = _chunks_of_block(packed, query.ends, block, next_chunk, chunks)
        least_bm25 = best.scores[0, depth - 1] if best.found[0] == depth else 0.0
        least_cosine = best.scores[1, depth - 1] if best.found[1] == depth else 0.0
        walked, rest_bm25, rest_cosine = _first_walked(query, model, least_bm25, least_cosine)
        work = np.int64(0)
        for term in range(walked, len(chunks)):
            if chunks[term] >= 0:
                work += np.int64(packed[chunks[term] + 1]) + np.int64(packed[chunks[term] + 2])
        if work == 0:
            continue
        scale = scale_of(packed, chunks, terms, model, query)
        add_terms(packed, chunks, walked, first, documents, model, query, scale, room)
        while passed < len(absent) and absent[passed] < first + size:
            if absent[passed] >= first:
                room.sums[absent[passed] - first] = 0
            passed += 1
        factors = documents.factors[first : first + size]
        limits = (limit(1.0), limit(1.0))  # with all terms walked, any document is a candidate
        lower = limits
        if best.found[0] == depth and best.found[1] == depth:
            unit_bm25, unit_tfidf = scale[0] / model.bm25_unit * LESS, scale[1] / model.tfidf_unit * LESS
            limits = (limit(least_bm25 * unit_bm25), limit(least_cosine * unit_tfidf))
            lower = (limit((least_bm25 - rest_bm25) * unit_bm25), limit((least_cosine - rest_cosine) * unit_tfidf))
        elif work > _FEW:
            limits = lower = bounds(room, factors, depth, terms, model.loose)
        if work < BITMAP:
            found = _among_postings(packed, chunks[walked:], room, factors, lower)
        else:
            found = _among_all(room, factors, lower)
        if walked and found:
            found = _reaching(packed, chunks[:walked], first, found, documents, model, query, scale, limits, room)
        if found:
            _score(packed, chunks, first, found, documents, model, query, room, best)


@kernel
def _chunks_of_block(packed, ends, block, next_chunk, chunks):  # type: ignore[no-untyped-def]
    """Write where the chunk of each term is in this block, or -1, and step over it. How many terms have one."""
    terms = 0
    for term in range(len(chunks)):
        at = next_chunk[term]
        chunks[term] = -1
        if at < ends[term] and np.int64(packed[at]) == block:
            chunks[term] = at
            next_chunk[term] += chunk_size(packed, at)
            terms += 1
    return terms


@kernel
def _first_walked(query, model, least_bm25, least_cosine):  # type: ignore[no-untyped-def]
    """(first term that is walked, what those before it add at most to BM25, and to the cosine)."""
    rest, squares, walked = 0.0, 0.0, 0
    while walked < len(query.bm25):
        more, more_squares = rest + query.bm25[walked] * model.ceiling, squares + query.tfidf[walked] ** 2
        if more >= _SHARE * least_bm25 or np.sqrt(more_squares) >= _SHARE * least_cosine:
            break
        rest, squares = more, more_squares
        walked += 1
    return walked, rest, np.sqrt(squares)


@kernel
def _among_postings(packed, chunks, room, factors, limits):  # type: ignore[no-untyped-def]
    """Write the candidates to `room`, ascending, by looking at the lists again; clears the sums. How many there are."""
    found = 0
    for at in chunks:
        if at < 0:
            continue
        begin, listed = at + HEADER, np.int64(packed[at + 1]) + np.int64(packed[at + 2])
        for local in packed[begin : begin + listed]:
            total = room.sums[local]
            room.sums[local] = 0
            if product_bm25(total, factors[local]) >= limits[0] or product_tfidf(total, factors[local]) >= limits[1]:
                room.found[found] = np.int64(local) << np.int64(32) | np.int64(total)
                found += 1
    _sort(room.found[:found])
    for k in range(found):
        room.candidates[k], room.totals[k] = room.found[k] >> np.int64(32), np.uint32(room.found[k])
    return found


@array_kernel
def _sort(values):  # type: ignore[no-untyped-def]
    values.sort()


@kernel
def _among_all(room, factors, limits):  # type: ignore[no-untyped-def]
    """Write the candidates to `room`, ascending, by looking at all documents; clears the sums. How many there are.

    Candidates are rare: first the higher halves of the products of some neighbours are looked at, always as many, so
    that they are compared at once.
    """
    sums, least, found = room.sums[: len(factors)], room.least, 0
    least[0::2], least[1::2] = limits[0] >> np.uint32(16), limits[1] >> np.uint32(16)
    groups = len(factors) // _NEIGHBOURS
    if min(limits[0], limits[1]) <= HALF:  # their higher halves are 0, as those of any document may be
        groups = 0
    whole = groups * _NEIGHBOURS
    halves = sums[:whole].view(np.uint16).reshape(groups, 2 * _NEIGHBOURS)
    of_halves = factors[:whole].view(np.uint16).reshape(groups, 2 * _NEIGHBOURS)
    for group in range(groups):
        highest = np.uint16(0)
        for k in range(2 * _NEIGHBOURS):
            high = product_high(halves[group, k], of_halves[group, k])
            highest = max(highest, high if high >= least[k] else np.uint16(0))
        if highest:
            begin = group * _NEIGHBOURS
            found = _among_some(room, factors, limits, begin, begin + _NEIGHBOURS, found)
        for k in range(2 * _NEIGHBOURS):
            halves[group, k] = 0
    found = _among_some(room, factors, limits, whole, len(factors), found)
    sums[whole:] = 0
    return found


@inlined
def _among_some(room, factors, limits, begin, end, found):  # type: ignore[no-untyped-def]
    """Write the candidates from `begin` to `end` behind those found before. How many there are now."""
    for k in range(begin, end):
        total, factor = room.sums[k], factors[k]
        if product_bm25(total, factor) >= limits[0] or product_tfidf(total, factor) >= limits[1]:
            room.candidates[found], room.totals[found] = k, total
            found += 1
    return found


@kernel
def _reaching(packed, chunks, first, found, documents, model, query, scale, limits, room):  # type: ignore[no-untyped-def]
    """Add the terms that are not walked, and keep the candidates that still reach a limit. How many there are."""
    kept = 0
    for term in range(len(chunks)):
        if chunks[term] < 0:
            continue
        counts_in(packed, chunks[term], room.candidates[:found], room.places, room.counts)
        for k in range(found):
            if room.counts[k]:
                length = documents.classes[first + room.candidates[k]]
                room.totals[k] += amount(model, query, term, scale, room.counts[k], length)
    for k in range(found):
        local, total = room.candidates[k], room.totals[k]
        factor = documents.factors[first + local]
        if product_bm25(total, factor) >= limits[0] or product_tfidf(total, factor) >= limits[1]:
            room.candidates[kept] = local
            kept += 1
    return kept


@kernel
def _score(packed, chunks, first, found, documents, model, query, room, best):  # type: ignore[no-untyped-def]
    """Score the candidates exactly, and put each in its place in both lists.

    Term by term: the searches for candidates in one list do not wait for each other.
    """
    candidates, norms, by_bm25, by_tfidf = room.candidates[:found], room.norms, room.scores[0], room.scores[1]
    for k in range(found):
        norms[k] = _length_norm(model.b, documents.lengths[first + candidates[k]], model.mean_length)
        by_bm25[k], by_tfidf[k] = 0.0, 0.0
    for term in range(len(chunks)):
        if chunks[term] < 0:
            continue
        weight = query.tfidf[term] * query.idf[term]
        counts_in(packed, chunks[term], candidates, room.places, room.counts)
        for k in range(found):
            if room.counts[k]:
                tf = np.float64(room.counts[k])
                by_bm25[k] += query.bm25[term] * saturation(model.variant, model.k1, tf, norms[k])
                by_tfidf[k] += weight * tf_weight(tf, model.sublinear)
    for k in range(found):
        document = first + candidates[k]
        _put(best, 0, document, by_bm25[k])
        _put(best, 1, document, by_tfidf[k] / documents.norms[document])


@inlined
def _put(best, which, document, score):  # type: ignore[no-untyped-def]
    """Put a document behind those that score as high, unless there are enough of them."""
    depth, found = best.scores.shape[1], best.found[which]
    if found == depth and score <= best.scores[which, depth - 1]:
        return
    at = min(found, depth - 1)
    while at > 0 and best.scores[which, at - 1] < score:
        best.scores[which, at], best.documents[which, at] = best.scores[which, at - 1], best.documents[which, at - 1]
        at -= 1
    best.scores[which, at], best.documents[which, at] = score, document
    best.found[which] = min(found + 1, depth)
