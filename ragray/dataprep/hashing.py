"""What compiled code does with 64-bit hashes: spread a number, join several in their order, sort, number them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ragray.compiled import array_kernel, inlined, kernel

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Slots = Hashes  # [slots, 2], a power of two of them: a hash, and one more than its number, or 0 where the slot is free


@inlined
def spread(value: np.uint64) -> np.uint64:
    """Spread a number over 64 bits. Source: Stafford 2011, variant 13, as in Java's SplittableRandom."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@inlined
def sequence(values: Hashes, begin: int, end: int) -> np.uint64:
    """One hash of several in their order."""
    value = np.uint64(end - begin)
    for k in range(begin, end):
        value = (value ^ values[k]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    mixed: np.uint64 = spread(value)
    return mixed


@kernel
def sort_distinct(values: Hashes, n: int, out: Hashes, bounds: Ints) -> int:
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


@array_kernel
def number_hashes(hashes: Hashes) -> tuple[Slots, Ints, int]:
    """Number hashes from 0 as they first occur: (table for `numbers_of`, number of each, how many)."""
    size = 1 << 16
    while 4 * size < len(hashes):  # hashes repeat: most often this is enough
        size *= 2
    slots = np.zeros((size, 2), np.uint64)
    numbers = np.empty(len(hashes), np.int64)
    done, count = _number(hashes, slots, numbers, 0, 0)
    while done < len(hashes):
        larger = np.zeros((2 * len(slots), 2), np.uint64)
        _move(slots, larger)
        slots = larger
        done, count = _number(hashes, slots, numbers, done, count)
    return slots, numbers, count


@kernel
def _number(hashes: Hashes, slots: Slots, numbers: Ints, done: int, count: int) -> tuple[int, int]:
    """Number hashes until half of the slots are taken: (hashes done, numbers given)."""
    while done < len(hashes) and 2 * count <= len(slots):
        slot = _slot(hashes[done], slots)
        if slots[slot, 1] == 0:
            count += 1
            slots[slot, 0], slots[slot, 1] = hashes[done], count
        numbers[done] = np.int64(slots[slot, 1]) - 1
        done += 1
    return done, count


@kernel
def _move(slots: Slots, larger: Slots) -> None:
    for old in range(len(slots)):
        if slots[old, 1]:
            slot = _slot(slots[old, 0], larger)
            larger[slot, 0], larger[slot, 1] = slots[old, 0], slots[old, 1]


@array_kernel
def numbers_of(hashes: Hashes, slots: Slots) -> Ints:
    """The number of each hash; -1 for one that has none."""
    numbers = np.empty(len(hashes), np.int64)
    for k in range(len(hashes)):
        numbers[k] = np.int64(slots[_slot(hashes[k], slots), 1]) - 1
    return numbers


@kernel
def _slot(wanted: np.uint64, slots: Slots) -> np.uint64:
    """Where a hash is, or has to go."""
    mask = np.uint64(len(slots) - 1)
    slot = wanted & mask
    while slots[slot, 1] and slots[slot, 0] != wanted:
        slot = (slot + np.uint64(1)) & mask
    return slot
