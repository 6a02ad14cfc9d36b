"""What a document of a block must reach to be among the best, before any of them is scored.

In: the sums of a block's documents, see `sums`, and their factors. Out: the least products that can matter.
"""

from __future__ import annotations

import numpy as np

from ragray.compiled import inlined, kernel
from ragray.retrieval.sums import HALF, product_bm25, product_tfidf

_GROUPS, _GROUPS_OF_DEPTH = 128, 4  # of documents, to look for the best: at least, and for each that is wanted
_BITS = 14  # of a bound
LESS = 1 - 1e-6  # thresholds are lowered so much, for rounding


@inlined
def limit(bound):  # type: ignore[no-untyped-def]
    """The product from which on a document is a candidate; one of 0 never is."""
    return np.uint32(min(max(bound, 1.0), 4294967295.0))


@kernel
def bounds(room, factors, depth, terms, loose):  # type: ignore[no-untyped-def]
    """Products below which no document of the block is among the `depth` best, by the highest of groups.

    A sum is too high by 1 for each term at most, and by the share `loose`; a factor by 1.
    """
    groups = max(_GROUPS, _GROUPS_OF_DEPTH * depth)
    if len(factors) < groups:
        return limit(1.0), limit(1.0)
    high_bm25, high_tfidf = room.maxima[0, :groups], room.maxima[1, :groups]
    high_bm25[:], high_tfidf[:] = 0, 0
    for begin in range(0, len(factors) - groups + 1, groups):  # documents that are `groups` apart share a maximum
        end = begin + groups
        totals, of_group = room.sums[begin:end], factors[begin:end]
        for group in range(groups):
            high_bm25[group] = max(high_bm25[group], product_bm25(totals[group], of_group[group]))
            high_tfidf[group] = max(high_tfidf[group], product_tfidf(totals[group], of_group[group]))
    margin = np.float64(HALF * (terms + 1))
    best_bm25, best_tfidf = _highest(high_bm25, depth), _highest(high_tfidf, depth)
    return limit((best_bm25 - margin) / loose * LESS), limit((best_tfidf - margin) * LESS)


@kernel
def _highest(values, depth):  # type: ignore[no-untyped-def]
    """The value in place `depth` from the top, without its lower bits.

    Bit by bit, as so many values must reach it: faster than to sort, as values are compared many at once.
    """
    found, bits = np.uint32(0), 0
    for place in range(32):
        asked, reached = found | np.uint32(1) << np.uint32(31 - place), 0
        for value in values:
            reached += value >= asked
        if reached >= depth:
            found = asked
        bits += 1 if found else 0
        if bits == _BITS:
            break
    return found
