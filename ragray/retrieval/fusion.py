"""Reciprocal rank fusion of ranked lists, however many there are.

In: ranked lists of document numbers, best first. Out: one list with its scores.
Source: Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods": score(d) = sum over lists of 1 / (k + rank of d), with ranks from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def reciprocal_rank_fusion(
    lists: Sequence[Sequence[int]], k: int, weights: Sequence[float] | None = None
) -> list[tuple[int, float]]:
    """Documents with their fused scores, best first; equal scores in document order.

    Args:
        lists: each ranked, best first, without repetition, and as deep as the caller wants it to count.
        k: the constant; Cormack et al. use 60.
        weights: of each list; 1 when not given.
    """
    shares: dict[int, list[float]] = {}
    for ranked, weight in zip(lists, weights or [1.0] * len(lists), strict=True):
        for rank, document in enumerate(ranked, 1):
            shares.setdefault(document, []).append(weight / (k + rank))
    # fsum rounds once: equal sets of ranks give equal scores in whichever list each rank was reached
    scored = [(document, math.fsum(parts)) for document, parts in shares.items()]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))
