"""Texts as sets of hashed shingles, and their Jaccard similarity.

In: Arrow columns or Python texts. Out: `ShingleSets`, one sorted array of 64-bit hashes for each text. Both
near-duplicate removal and the split rest on it. Everything is independent of what other texts there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragray.compiled import array_kernel, kernel
from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.tokens import QUESTION, RECORD, Columns, columns_of, shingles_of

Counts = npt.NDArray[np.uint32]
Owners = npt.NDArray[np.int32]

_FEW = 1 << 18  # texts whose questions' shingles are all held, once half of them are asked for
_COUNTERS = 1 << 22  # of shingles; two that share one only look more frequent than they are


@dataclass(frozen=True, slots=True)
class ShingleSets:
    """The shingles of text i are `hashes[starts[i]:starts[i + 1]]`, ascending and distinct."""

    hashes: Hashes
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, index: int) -> Hashes:
        """The shingles of one text."""
        return self.hashes[self.starts[index] : self.starts[index + 1]]

    def jaccard(self, left: int, right: int) -> float:
        """|A and B| / |A or B| of two texts; 1.0 where both are empty."""
        return float(jaccard_kernel(self.hashes, self.starts, left, right))

    def jaccards(self, left: Ints, right: Ints) -> npt.NDArray[np.float64]:
        """float64 [pairs]: Jaccard similarity of `left[i]` and `right[i]`."""
        found = np.empty(len(left))
        _jaccards(self.hashes, self.starts, left, right, found)
        return found

    def take(self, places: Ints) -> ShingleSets:
        """The sets at `places`."""
        return ShingleSets(*_take(self.hashes, self.starts, places))


def sets_of(columns: Columns, kind: int, rows: Ints | None = None) -> ShingleSets:
    """The shingles of all texts of the columns, or of those in `rows`."""
    chosen = np.arange(len(columns[0])) if rows is None else rows
    return ShingleSets(*shingles_of([(columns, chosen)], kind))


class Texts:
    """Question and answer columns in pieces, such as memory-mapped blocks; texts are numbered through.

    Only the shingles of the texts that are asked for are made, so that memory follows candidates, not texts. What
    was made last is held, as the same texts are asked for again.
    """

    def __init__(self, pieces: Sequence[Columns], chosen: Ints | None = None) -> None:
        self.pieces = list(pieces)
        self.starts: Ints = np.concatenate(([0], np.cumsum([len(first) for first, _ in self.pieces]))).astype(np.int64)
        self._chosen = chosen
        self._held: tuple[int, Ints, ShingleSets] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1]) if self._chosen is None else len(self._chosen)

    def only(self, rows: Ints) -> Texts:
        """Some of the texts, `rows` ascending, numbered from 0."""
        some = Texts(self.pieces, rows if self._chosen is None else self._chosen[rows])
        some._held = self._held
        return some

    def sets(self, kind: int, rows: Ints) -> ShingleSets:
        """The shingles of the texts in `rows`.

        Raises:
            ValueError: `rows` are not ascending.
        """
        rows = rows if self._chosen is None else self._chosen[rows]
        if (rows[1:] <= rows[:-1]).any():
            raise ValueError("rows of texts must ascend")
        if self._held is None or self._held[0] != kind or not np.isin(rows, self._held[1]).all():
            total = int(self.starts[-1])
            made = np.arange(total) if kind == QUESTION and total <= min(_FEW, 2 * len(rows)) else rows
            self._held = kind, made, self._made(kind, made)
        _, held, sets = self._held
        return sets if np.array_equal(rows, held) else sets.take(np.searchsorted(held, rows))

    def forget(self) -> None:
        """Give up the shingles that are held."""
        self._held = None

    def _made(self, kind: int, rows: Ints) -> ShingleSets:
        edges = np.searchsorted(rows, self.starts)
        wanted = [
            (piece, rows[edges[n] : edges[n + 1]] - self.starts[n])
            for n, piece in enumerate(self.pieces)
            if edges[n] < edges[n + 1]
        ]
        return ShingleSets(*shingles_of(wanted, kind))


def record_shingles(texts: Iterable[str]) -> ShingleSets:
    """Three consecutive tokens: character trigrams of Chinese, word trigrams of English."""
    return sets_of(columns_of(texts), RECORD)


def question_shingles(texts: Iterable[str]) -> ShingleSets:
    """Consecutive letters and digits: two of a Chinese question, four of another, spaces counting as one letter.

    Letters rather than words, so that the topic outweighs the pattern in "What are the symptoms of X?".
    """
    return sets_of(columns_of(texts), QUESTION)


def count_shingles(sets: ShingleSets) -> Counts:
    """uint32 [2**22]: how often shingles occur, by their low bits. Counts of parts are added."""
    counts = np.zeros(_COUNTERS, np.uint32)
    _count(sets.hashes, counts)
    return counts


def prefix_keys(sets: ShingleSets, counts: Counts, threshold: float) -> tuple[Hashes, Owners, Owners]:
    """Keys of which every two texts with Jaccard >= threshold > 0 share at least one: (keys, their texts, reaches).

    With shingles ordered from rare to frequent, two sets of similarity t must share one among the first
    |A| - ceil(t |A|) + 1 of each. Source: Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity
    Search", section 3; the Jaccard bound from Xiao et al. 2008, "Efficient Similarity Joins", lemma 1. If the first
    they share has i before it in A, they share at most |A| - i: so |B| <= (|A| - i) (1 + t) / t - |A|, the reach
    (the positional filter of the same, section 4.1).

    Args:
        sets: shingles of some texts.
        counts: of all texts, from `count_shingles`; the same for all parts.
        threshold: Jaccard similarity that must not be missed.
    """
    sizes = np.diff(sets.starts)
    lengths = np.where(sizes > 0, sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1, 0)
    keys, reaches = np.empty(int(lengths.sum()), np.uint64), np.empty(int(lengths.sum()), np.int32)
    _prefixes(sets.hashes, sets.starts, counts, lengths, threshold, keys, reaches)
    return keys, np.repeat(np.arange(len(sets), dtype=np.int32), lengths), reaches


@kernel
def jaccard_kernel(hashes: Hashes, starts: Ints, left: int, right: int) -> float:
    """Jaccard similarity of two texts of a `ShingleSets`."""
    i, i_end, j, j_end = starts[left], starts[left + 1], starts[right], starts[right + 1]
    total = i_end - i + j_end - j
    if total == 0:
        return 1.0
    common = 0
    while i < i_end and j < j_end:
        if hashes[i] == hashes[j]:
            common += 1
            i += 1
            j += 1
        elif hashes[i] < hashes[j]:
            i += 1
        else:
            j += 1
    return float(common / (total - common))


@kernel
def _count(hashes: Hashes, counts: Counts) -> None:
    for value in hashes:
        counts[value & np.uint64(len(counts) - 1)] += np.uint32(1)


@array_kernel
def _take(hashes: Hashes, starts: Ints, places: Ints) -> tuple[Hashes, Ints]:
    """Hashes and starts of some sets."""
    bounds = np.zeros(len(places) + 1, np.int64)
    for k in range(len(places)):
        bounds[k + 1] = bounds[k] + starts[places[k] + 1] - starts[places[k]]
    taken = np.empty(bounds[-1], np.uint64)
    for k in range(len(places)):
        taken[bounds[k] : bounds[k + 1]] = hashes[starts[places[k]] : starts[places[k] + 1]]
    return taken, bounds


@kernel
def _jaccards(hashes: Hashes, starts: Ints, left: Ints, right: Ints, found: npt.NDArray[np.float64]) -> None:
    for pair in range(len(left)):
        found[pair] = jaccard_kernel(hashes, starts, left[pair], right[pair])


@array_kernel
def _prefixes(
    hashes: Hashes, starts: Ints, counts: Counts, lengths: Ints, threshold: float, keys: Hashes, reaches: Owners
) -> None:
    first = np.empty(max(1, lengths.max()) if len(lengths) else 1, np.uint64)  # of a text: frequency and place
    at = 0
    for text in range(len(starts) - 1):
        found, wanted, held = hashes[starts[text] : starts[text + 1]], lengths[text], 0
        for k in range(len(found)):  # sorted by insertion; equally frequent ones by their hash
            key = np.uint64(counts[found[k] & np.uint64(len(counts) - 1)]) << np.uint64(32) | np.uint64(k)
            if held == wanted and (held == 0 or key > first[held - 1]):
                continue
            place = held if held < wanted else held - 1
            while place > 0 and first[place - 1] > key:
                first[place] = first[place - 1]
                place -= 1
            first[place] = key
            held = min(held + 1, wanted)
        for k in range(wanted):
            keys[at] = found[first[k] & np.uint64(0xFFFFFFFF)]
            reaches[at] = np.int32((len(found) - k) * (1 + threshold) / threshold - len(found) + 1e-9)
            at += 1
