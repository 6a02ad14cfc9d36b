"""Banding of MinHash signatures: which pairs of texts become candidates.

In: a threshold and a signature length. Out: bands and rows, and the probability that a pair of a given similarity
is looked at.
Source: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_MISSED = 0.02  # of pairs just at the threshold; 0.1 above it less than one in ten thousand


@dataclass(frozen=True, slots=True)
class Banding:
    """`bands` bands of `rows` MinHash values: texts that agree in all rows of a band are candidates."""

    bands: int
    rows: int

    def probability(self, similarity: float) -> float:
        """The S-curve 1 - (1 - s^r)^b: how likely two texts of Jaccard similarity s become candidates."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


def banding_for(threshold: float, num_permutations: int) -> Banding:
    """The banding with the most rows that misses at most 2 % of the pairs just at the threshold.

    More rows mean fewer candidates to compare in vain; one row per band is the last resort.
    """
    best = Banding(num_permutations, 1)
    for rows in range(2, num_permutations + 1):
        banding = Banding(num_permutations // rows, rows)
        if 1 - banding.probability(threshold) <= MOST_MISSED:
            best = banding
    return best
