"""Texts by the ranks of their shingles, from rare to frequent, and the weights that TF-IDF gives these.

In: shingles of training texts and of others. Out: `Ranked` texts. Weights are idf (binary tf, smooth idf) as shingles
occur in the training texts, all parts of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragray.compiled import array_kernel
from ragray.dataprep.hashing import Ints, Slots, number_hashes, numbers_of
from ragray.dataprep.shingles import Owners, ShingleSets
from ragray.dataprep.sketches import Bitmaps, Sketches

Floats = npt.NDArray[np.float64]

_WORDS = 2  # of a bitmap


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The shingles of all training texts, ranked from rare to frequent; one that occurs in none has rank -1."""

    slots: Slots
    squares: Floats  # squared idf by rank, at last that of a shingle that occurs in none

    @classmethod
    def of(cls, parts: Iterable[ShingleSets]) -> Vocabulary:
        """The vocabulary of the training texts in all parts."""
        texts, seen = 0, []
        for part in parts:
            texts += len(part)
            slots, numbers, count = number_hashes(part.hashes)
            seen.append((slots, np.bincount(numbers, minlength=count)))
        slots, counts = seen[0] if len(seen) == 1 else _merged(seen)
        used = np.flatnonzero(slots[:, 1])
        often = counts[slots[used, 1].astype(np.int64) - 1]
        order = np.lexsort((slots[used, 0], often))
        slots[used[order], 1] = np.arange(1, len(used) + 1)
        weights = np.log((1 + texts) / (1 + np.append(often[order], 0))) + 1
        return cls(slots, weights**2)

    def ranked(self, sets: ShingleSets) -> Ranked:
        """The shingles of texts by rank."""
        ranks = numbers_of(sets.hashes, self.slots).astype(np.int32)
        sketches, lengths = Sketches.of(sets, _WORDS), np.empty(len(sets))
        _sort_each(ranks, sets.starts, self.squares, lengths)
        return Ranked(ranks, sets.starts, sketches.sizes, sketches.maps, lengths)


@dataclass(frozen=True)
class Ranked:
    """Texts: the shingles of text i have the ranks `ranks[starts[i]:starts[i + 1]]`, ascending."""

    ranks: Owners
    starts: Ints
    sizes: Owners
    maps: Bitmaps
    lengths: Floats  # Euclidean, of the idf weights

    @classmethod
    def joined(cls, parts: Sequence[Ranked]) -> Ranked:
        """The texts of all parts, end to end."""
        if len(parts) == 1:
            return parts[0]
        sizes = np.concatenate([part.sizes for part in parts])
        return cls(
            np.concatenate([part.ranks for part in parts]), np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))),
            sizes, np.concatenate([part.maps for part in parts]), np.concatenate([part.lengths for part in parts]),
        )  # fmt: skip


@array_kernel
def _sort_each(ranks: Owners, starts: Ints, squares: Floats, lengths: Floats) -> None:
    """Sort the ranks of each text, and write its Euclidean length."""
    for text in range(len(starts) - 1):
        held = ranks[starts[text] : starts[text + 1]]
        held.sort()
        total = 0.0
        for rank in held:
            total += squares[rank]
        lengths[text] = np.sqrt(total)


def _merged(seen: Sequence[tuple[Slots, Ints]]) -> tuple[Slots, Ints]:
    """The numbered hashes of several parts and their counts as those of one."""
    hashes, counts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for slots, often in seen:
        used = np.flatnonzero(slots[:, 1])
        hashes.append(slots[used, 0])
        counts.append(often[slots[used, 1].astype(np.int64) - 1])
    slots, numbers, count = number_hashes(np.concatenate(hashes))
    return slots, np.bincount(numbers, np.concatenate(counts), count).astype(np.int64)
