"""The exact scores of chosen documents, of several queries in one call.

In: postings, what `topk` knows of documents and scores, and the documents of each query. Out: both scores of each. The
sums are those of `topk`, term by term: the same document has the same score by both.
"""

from __future__ import annotations

import numpy as np

from ragray.compiled import array_kernel, inlined, kernel
from ragray.retrieval import bm25
from ragray.retrieval.chunks import BLOCK, BLOCK_LOG, chunk_size, counts_in
from ragray.retrieval.sums import saturation, tf_weight

_length_norm = inlined(bm25.length_norm)


@array_kernel
def score_each(packed, documents, model, terms, starts, chosen, chosen_starts, scores):  # type: ignore[no-untyped-def]
    """Add the BM25 scores and cosines of chosen documents to `scores`, float64 [2, chosen], zero.

    Args:
        packed, documents, model, terms, starts: see `topk.top_of_each`.
        chosen: int64, the documents of all queries end to end; it is fastest where those of a query ascend.
        chosen_starts: int64 [queries + 1], where those of each query begin.
    """
    most = np.diff(chosen_starts).max() if len(chosen_starts) > 1 else 0
    room, counts = np.empty(most, np.uint64), np.empty(most, np.int64)
    blocks, places = chosen >> BLOCK_LOG, (chosen & (BLOCK - 1)).astype(np.int32)
    for number in range(len(starts) - 1):
        begin, end = chosen_starts[number], chosen_starts[number + 1]
        for term in range(starts[number], starts[number + 1]):
            at, last, first = terms.begins[term], terms.ends[term], begin
            while first < end:
                block, size = blocks[first], 1
                if first > begin and blocks[first - 1] > block:
                    at = terms.begins[term]
                while first + size < end and blocks[first + size] == block:
                    size += 1
                while at < last and np.int64(packed[at]) < block:
                    at += chunk_size(packed, at)
                if at < last and np.int64(packed[at]) == block:
                    counts_in(packed, at, places[first : first + size], room, counts)
                    _add(documents, model, terms, term, chosen[first : first + size], counts, scores[:, first:])
                first += size
        for n in range(begin, end):
            scores[1, n] /= documents.norms[chosen[n]]


@kernel
def _add(documents, model, terms, term, chosen, counts, scores):  # type: ignore[no-untyped-def]
    """Add what a term gives to some documents that hold it so often, 0 times where they do not."""
    weight = terms.tfidf[term] * terms.idf[term]
    for n in range(len(chosen)):
        if counts[n]:
            tf = np.float64(counts[n])
            norm = _length_norm(model.b, documents.lengths[chosen[n]], model.mean_length)
            scores[0, n] += terms.bm25[term] * saturation(model.variant, model.k1, tf, norm)
            scores[1, n] += weight * tf_weight(tf, model.sublinear)
