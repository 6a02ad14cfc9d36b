"""Sums of what a query's terms add to documents: BM25 in the lower 16 bits, the cosine's part in the upper ones.

In: chunks of postings, a query. Out: for the documents of a block one 32-bit sum each, rounded up. See `topk`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragray.compiled import inlined, kernel
from ragray.retrieval import bm25
from ragray.retrieval.chunks import BITMAP, HEADER, Packed
from ragray.retrieval.scoring import CLASSES, COUNTS

Sums = NDArray[np.uint32]

HALF = (1 << 16) - 1

saturation = inlined(bm25.saturation)


@inlined
def tf_weight(count, sublinear):  # type: ignore[no-untyped-def]
    """What `tfidf.tf_weights` gives one count."""
    return 1.0 + np.log(count) if sublinear else count


@kernel
def scale_of(packed, chunks, terms, model, query):  # type: ignore[no-untyped-def]
    """(what a BM25 score of 1 is in sums, what a product with a norm of 1 is): so that no sum leaves its 16 bits."""
    most_bm25, most_tfidf = 0.0, 0.0
    for term in range(len(chunks)):
        if chunks[term] >= 0:
            most = np.float64(packed[chunks[term] + 3])
            most_bm25 += query.bm25[term] * min(model.ratio_of_count * most, model.largest_ratio)
            most_tfidf += query.tfidf[term] * query.idf[term] * tf_weight(most, model.sublinear)
    return (HALF - 2 * terms) / most_bm25, (HALF - 2 * terms) / most_tfidf


@kernel
def add_terms(packed, chunks, walked, first, documents, model, query, scale, room):  # type: ignore[no-untyped-def]
    """Add the terms from `walked` on to the sums of the documents of a block."""
    size = min(len(documents.lengths) - first, len(room.sums))
    words, waiting, added_by_waiting = 4 * ((size + 63) // 64), np.int64(-1), np.uint32(0)
    for term in range(walked, len(chunks)):
        at = chunks[term]
        if at < 0:
            continue
        begin, single, added = at + HEADER, np.int64(packed[at + 1]), amount(model, query, term, scale, 1, 0)
        if single < BITMAP:
            for local in packed[begin : begin + single]:
                room.sums[local] += added
        elif waiting < 0:
            waiting, added_by_waiting = begin, added
        else:
            one, other = packed[waiting : waiting + words], packed[begin : begin + words]
            _add_bitmaps(one, other, room.sums, added_by_waiting, added)
            waiting = np.int64(-1)
        if packed[at + 2]:
            _add_several(packed, at, first, documents, model, query, term, scale, room)
    if waiting >= 0:
        bits = packed[waiting : waiting + words]
        _add_bitmaps(bits, bits, room.sums, added_by_waiting, np.uint32(0))


@kernel
def _add_several(packed, at, first, documents, model, query, term, scale, room):  # type: ignore[no-untyped-def]
    """Add one term to the sums of the documents of a block that hold it more than once."""
    sums, table = room.sums, room.table
    single, several, most = np.int64(packed[at + 1]), np.int64(packed[at + 2]), np.int64(packed[at + 3])
    by_bm25, by_tfidf = np.float32(query.bm25[term] * scale[0]), query.tfidf[term] * query.idf[term] * scale[1]
    looked_up = np.minimum(most + 1, COUNTS)
    for count in range(2, looked_up):
        row = table[count * CLASSES : (count + 1) * CLASSES]
        high = np.uint32(by_tfidf * tf_weight(np.float64(count), model.sublinear) + 1) << np.uint32(16)
        for length in range(CLASSES):
            row[length] = np.uint32(by_bm25 * model.ratios[count, length] + np.float32(1)) | high
    begin = at + HEADER + min(single, BITMAP)
    places, counts = packed[begin : begin + several], packed[begin + several : begin + 2 * several]
    classes = documents.classes[first:]
    for k in range(several):
        if counts[k] < COUNTS:
            sums[places[k]] += table[np.uint32(counts[k]) * np.uint32(CLASSES) + classes[places[k]]]
    if most >= COUNTS:
        for k in range(several):
            if counts[k] >= COUNTS:
                sums[places[k]] += amount(model, query, term, scale, np.int64(counts[k]), classes[places[k]])


@inlined
def amount(model, query, term, scale, count, length):  # type: ignore[no-untyped-def]
    """What `count` occurrences of a term in documents of a class of lengths add to the sums, rounded up."""
    ratio = 1.0
    if count >= COUNTS:
        ratio = _ratio(model, np.float64(count), length)
    elif count > 1:
        ratio = np.float64(model.ratios[count, length])
    by_bm25 = query.bm25[term] * scale[0] * ratio
    by_tfidf = query.tfidf[term] * query.idf[term] * scale[1] * tf_weight(np.float64(count), model.sublinear)
    return np.uint32(by_bm25 + 1) | np.uint32(by_tfidf + 1) << np.uint32(16)


@inlined
def _ratio(model, count, length):  # type: ignore[no-untyped-def]
    """How many times what one occurrence adds `count` add at most, in documents of a class of lengths.

    What they add falls with the length, and at most in proportion to it: so the bound is too high at most by what the
    lengths of a class differ.
    """
    low, high = model.edges[length], model.edges[length + 1]
    several = saturation(model.variant, model.k1, count, low)
    return min(several / saturation(model.variant, model.k1, 1.0, high), model.ratio_of_count * count)


@kernel
def _add_bitmaps(some: Packed, others: Packed, sums: Sums, added: np.uint32, added_by_others: np.uint32) -> None:
    """Add two terms at once: most of the time goes to reading and writing the sums."""
    for k in range(len(some) // 4):
        word, other = np.uint64(0), np.uint64(0)
        for part in range(4):
            word |= np.uint64(some[4 * k + part]) << np.uint64(16 * part)
            other |= np.uint64(others[4 * k + part]) << np.uint64(16 * part)
        for bit in range(64):
            sums[64 * k + bit] += np.uint32(word >> np.uint64(bit) & np.uint64(1)) * added
            sums[64 * k + bit] += np.uint32(other >> np.uint64(bit) & np.uint64(1)) * added_by_others


@inlined
def product_bm25(total, factor):  # type: ignore[no-untyped-def]
    """The lower half of a sum times that of a document's factors."""
    return np.uint32((total & np.uint32(HALF)) * (factor & np.uint32(HALF)))


@inlined
def product_tfidf(total, factor):  # type: ignore[no-untyped-def]
    """The upper half of a sum times that of a document's factors."""
    return np.uint32((total >> np.uint32(16)) * (factor >> np.uint32(16)))


@inlined
def product_high(half, factor):  # type: ignore[no-untyped-def]
    """The higher 16 bits of the product of two numbers of 16 bits."""
    return np.uint16(np.uint32(half) * np.uint32(factor) >> np.uint32(16))
