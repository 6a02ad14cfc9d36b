"""When an answer only repeats itself: small models fall into loops under greedy decoding.

In: an answer's tokens, one by one. Out: whether its end is one block of tokens again and again. Source of the fault:
Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_BLOCK = 64  # tokens
LEAST_COPIES = 3
LEAST_TOKENS = 24  # a short block may be meant: zeros of a table, a row of dashes


class RepeatWatch:
    """Counts, for each length of a block, how many tokens at the end equal those one block before."""

    def __init__(self) -> None:
        self._equal = [0] * (LONGEST_BLOCK + 1)

    def loops(self, tokens: Sequence[int]) -> bool:
        """True when `tokens` end with `LEAST_COPIES` copies of a block, `LEAST_TOKENS` tokens or more.

        To be called for each token, with all so far.
        """
        last, equal, size = tokens[-1], self._equal, len(tokens)
        found = False
        for block in range(1, min(LONGEST_BLOCK, size - 1) + 1):
            if tokens[size - 1 - block] != last:
                equal[block] = 0
                continue
            equal[block] += 1
            found = found or equal[block] + block >= max(LEAST_COPIES * block, LEAST_TOKENS)
        return found
