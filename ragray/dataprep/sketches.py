"""Sketches of sets: their sizes and bitmaps, which tell most pairs apart that are not similar.

Source: Sandes, Teodoro, Melo 2020, "Bitmap filter: Speeding up exact set similarity joins with bitwise operations",
Information Systems 88, section 3: two sets differ in at least as many members as their bitmaps in bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragray.compiled import inlined, kernel
from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.shingles import ShingleSets

Bitmaps = npt.NDArray[np.uint64]  # [sets, words]

WORDS = 8  # of a bitmap


@dataclass(frozen=True)
class Sketches:
    """Of each set its size and its bitmap."""

    sizes: npt.NDArray[np.int32]
    maps: Bitmaps

    @classmethod
    def empty(cls, count: int, words: int = WORDS) -> Sketches:
        """Room for `count` sketches with bitmaps of `words` times 64 bits: a power of two, at least two."""
        return cls(np.zeros(count, np.int32), np.zeros((count, words), np.uint64))

    @classmethod
    def of(cls, sets: ShingleSets, words: int = WORDS) -> Sketches:
        """The sketches of sets."""
        made = cls.empty(len(sets), words)
        made.put(sets, slice(None))
        return made

    def put(self, sets: ShingleSets, places: slice) -> None:
        """Write the sketches of sets at some places that are empty yet."""
        self.sizes[places] = np.diff(sets.starts)
        words = self.maps.shape[1]
        _bitmaps(sets.hashes, sets.starts, np.uint64(58 - (words.bit_length() - 1)), self.maps[places])

    def folds(self) -> Bitmaps:
        """uint64 [sets, 2]: bitmaps of 128 bits, enough to tell most short texts apart."""
        return np.asarray(np.bitwise_xor.reduce(self.maps.reshape(len(self.maps), -1, 2), axis=1), np.uint64)


@kernel
def _bitmaps(hashes: Hashes, starts: Ints, shift: np.uint64, maps: Bitmaps) -> None:
    """For each set the exclusive or of one bit for each of its members."""
    for text in range(len(maps)):
        for k in range(starts[text], starts[text + 1]):
            bit = hashes[k] >> shift
            maps[text, bit >> np.uint64(6)] ^= np.uint64(1) << (bit & np.uint64(63))


@inlined
def ones(word: np.uint64) -> np.uint64:
    """How many bits are set. Source: Warren 2012, "Hacker's Delight", section 5-1."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@inlined
def may_reach(maps: Bitmaps, left: int, right: int, most_different: float) -> bool:
    """Whether two sets may differ in so few members."""
    different = np.uint64(0)
    for word in range(maps.shape[1]):
        different += ones(maps[left, word] ^ maps[right, word])
    return bool(different <= most_different)
