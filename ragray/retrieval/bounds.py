"""What a document of a block must reach to be among the best, before any of them is scored.

In: the sums of a block's documents, see `sums`, and their factors. Out: the least products that can matter.
"""

from __future__ import annotations

import numpy as np

from ragray.compiled import inlined, kernel
from ragray.retrieval.sums import HALF, product_high

_GROUPS, _GROUPS_OF_DEPTH = 128, 4  # of documents, to look for the best: at least, and for each that is wanted
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
    sums, of_sums = room.sums[: len(factors)].view(np.uint16), factors.view(np.uint16)
    high = room.maxima[: 2 * groups]
    high[:] = 0
    for begin in range(0, len(sums) - len(high) + 1, len(high)):  # documents that are `groups` apart share a maximum
        some, of_some = sums[begin : begin + len(high)], of_sums[begin : begin + len(high)]
        for k in range(len(high)):
            high[k] = max(high[k], product_high(some[k], of_some[k]))
    margin = np.float64(HALF * (terms + 1))
    both = high.view(np.uint32)
    best_bm25, best_tfidf = _highest(both, np.uint32(0), depth), _highest(both, np.uint32(16), depth)
    return limit((best_bm25 - margin) / loose * LESS), limit((best_tfidf - margin) * LESS)


@kernel
def _highest(maxima, shift, depth):  # type: ignore[no-untyped-def]
    """The product in place `depth` from the top, by the 16 bits of each from `shift` on: its higher ones, the rest 0.

    Bit by bit, as so many must reach it: faster than to sort, as many are compared at once.
    """
    found = np.uint32(0)
    for place in range(16):
        asked, reached = found | np.uint32(1 << (15 - place)), np.uint32(0)
        for k in range(len(maxima)):
            reached = np.uint32(reached + np.uint32((maxima[k] >> shift & np.uint32(HALF)) >= asked))
        if reached >= depth:
            found = asked
    return found << np.uint32(16)
