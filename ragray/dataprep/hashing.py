"""What compiled code does with 64-bit hashes: spread a number, join several in their order, sort distinct ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Hashes = npt.NDArray[np.uint64]


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def spread(value: np.uint64) -> np.uint64:
    """Spread a number over 64 bits. Source: Stafford 2011, variant 13, as in Java's SplittableRandom."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def sequence(values: Hashes, begin: int, end: int) -> np.uint64:
    """One hash of several in their order."""
    value = np.uint64(end - begin)
    for k in range(begin, end):
        value = (value ^ values[k]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    mixed: np.uint64 = spread(value)
    return mixed


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def sort_distinct(values: Hashes, n: int, out: Hashes, bounds: npt.NDArray[np.int64]) -> int:
    """Write the distinct ones of n hashes to `out`, ascending: dealt by their high bits, then sorted by insertion.

    Hashes are spread evenly, so few meet in a place; n log n comparisons would cost several times as much.
    """
    bits = 1
    while (1 << bits) < n:
        bits += 1
    shift = np.uint64(64 - bits)
    bounds[: (1 << bits) + 1] = 0
    for k in range(n):
        bounds[(values[k] >> shift) + np.uint64(1)] += 1
    for k in range(1 << bits):
        bounds[k + 1] += bounds[k]
    for k in range(n):
        place = values[k] >> shift
        out[bounds[place]] = values[k]
        bounds[place] += 1
    kept = 0
    for k in range(n):
        value = out[k]
        at = kept
        while at > 0 and out[at - 1] > value:
            at -= 1
        if at > 0 and out[at - 1] == value:
            continue
        for j in range(kept, at, -1):
            out[j] = out[j - 1]
        out[at] = value
        kept += 1
    return kept
