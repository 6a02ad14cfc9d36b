"""The training questions nearest to test questions, by Jaccard similarity and by TF-IDF cosine, without missing any.

In: training questions, in parts, and the questions that are asked for, by ranked shingles. Out: for each asked one its
nearest, either whatever its similarity (`look`, for a few), or where one is near (`join`, for all).

Two texts whose first shared shingle stands far behind in one of them cannot be similar: so for a join a text is listed
only under the first of its shingles. Sources: Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity Search",
section 3, for both measures; Xiao et al. 2008, "Efficient Similarity Joins", section 4.1, for what else the place of
the first shared shingle tells; `sketches` for the bitmaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ragray.compiled import array_kernel, inlined, kernel
from ragray.dataprep.hashing import Ints
from ragray.dataprep.ranked import Floats, Ranked
from ragray.dataprep.shingles import Owners
from ragray.dataprep.sketches import Bitmaps, ones

Measures = npt.NDArray[np.float32]

_LONG = 64  # a shorter list is read without thinking
_ROUNDING, _SLACK = 1e-9, 1e-5  # of float64; of float32, as a share
_COUNT_AT, _UNIT = 40, float(1 << 16)  # where the count stands in a packed number; parts of a squared weight in it


class Training:
    """Some of the training texts, to look the nearest up in; `numbers` are theirs."""

    def __init__(self, texts: Ranked, numbers: Ints, squares: Floats) -> None:
        self.texts, self.numbers, self.squares = texts, numbers, squares

    @cached_property
    def _everywhere(self) -> tuple[Ints, Owners]:
        """(bounds, texts): of each rank the texts that have it."""
        texts, order = self.texts, np.arange(len(self.texts.sizes))
        bounds, owners, _ = _lists(texts.ranks, texts.starts, texts.lengths, self.squares, order, 0, 0.0)
        return bounds, owners

    def look(self, asked: Ranked, rows: Ints, best: Best) -> None:
        """Look for the nearest of each asked text; `rows` are their places in `best`."""
        bounds, owners = self._everywhere
        _nearest(
            asked.starts, asked.ranks, asked.lengths, owners, bounds, self.squares, self.texts.starts,
            self.texts.ranks, self.texts.lengths, self.numbers, rows, *best.arrays,
        )  # fmt: skip

    def join(self, asked: Ranked, rows: Ints, limits: tuple[float, float], worst: Floats, best: Best) -> None:
        """Look for training texts that are near to an asked one.

        Args:
            asked: texts.
            rows: their places in `best`.
            limits: Jaccard similarity and cosine from which on every text is near.
            worst: the highest similarities, by either measure, of as many asked texts in all parts; changes. Where
                its least is below a limit, texts that are so near are looked for too.
            best: changes.
        """
        least = worst.min()
        prefixes = [
            _Prefixes.of(self.texts, self.squares, kind, min(least, limit)) for kind, limit in enumerate(limits)
        ]
        bounds, owners, measures, reaches, sizes, maps = zip(*(p.arrays for p in prefixes), strict=True)
        _join(
            asked.starts, asked.ranks, asked.lengths, asked.maps, bounds, owners, measures, reaches, sizes, maps,
            self.squares, self.texts.starts, self.texts.ranks, self.texts.lengths, self.numbers, rows, limits, worst,
            *best.arrays,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Prefixes:
    """Of each rank the texts that have it among the first, where a similar text must share one of these.

    By Jaccard similarity (kind 0) a text's measure is its size, by cosine (kind 1) its length. The reach is the
    greatest measure that a similar text can have if this is the first shingle they share: then only this one and those
    behind it can be shared, which bounds |A and B|, and likewise the product, the sum of the shared squared weights.
    """

    bounds: Ints
    owners: Owners
    measures: Measures  # ascending in each list
    reaches: Measures
    sizes: Owners
    maps: Bitmaps

    @classmethod
    def of(cls, texts: Ranked, squares: Floats, kind: int, least: float) -> _Prefixes:
        """Lists for similarities of at least `least`."""
        measures = (texts.sizes, texts.lengths)[kind].astype(np.float32)
        order = np.argsort(measures, kind="stable")
        bounds, owners, reaches = _lists(texts.ranks, texts.starts, texts.lengths, squares, order, kind, least)
        return cls(bounds, owners, measures[owners], reaches, texts.sizes[owners], texts.maps[owners])

    @property
    def arrays(self) -> tuple[Ints, Owners, Measures, Measures, Owners, Bitmaps]:
        """As the kernel takes them."""
        return self.bounds, self.owners, self.measures, self.reaches, self.sizes, self.maps


class Best:
    """Of each asked text the nearest training text so far, -1 with 0.0 where there is none."""

    def __init__(self, count: int) -> None:
        self.jaccard, self.cosine = np.zeros(count), np.zeros(count)
        self.jaccard_of, self.cosine_of = np.full(count, -1, np.int64), np.full(count, -1, np.int64)

    @property
    def arrays(self) -> tuple[Floats, Ints, Floats, Ints]:
        """As the kernels take them."""
        return self.jaccard, self.jaccard_of, self.cosine, self.cosine_of

    @property
    def highest(self) -> Floats:
        """float64 [asked]: the similarity of the nearest by either measure."""
        return np.maximum(self.jaccard, self.cosine)

    def forget_below(self, rows: Ints, near: float, angle: float) -> None:
        """Give up what is less near: whether it was found depends on the order of the search."""
        for values, of, least in ((self.jaccard, self.jaccard_of, near), (self.cosine, self.cosine_of, angle)):
            less = rows[values[rows] < least]
            values[less], of[less] = 0.0, -1


@kernel
def _reaches(ranks: Owners, length: float, squares: Floats, kind: int, least: float, found: Measures) -> int:
    """Write the reach of each shingle of a text; how many there are, from the first, that a similar text can reach."""
    size = len(ranks)
    smallest = (1 - _SLACK) * least * (size if kind == 0 else length)
    left = length**2
    for place in range(size):
        if least <= 0:
            found[place] = np.inf
        elif kind == 0:
            found[place] = (1 + _SLACK) * ((size - place) * (1 + least) / least - size)
        else:
            found[place] = (1 + _SLACK) * left / (least * length)
        if found[place] < smallest:
            return place
        left -= squares[ranks[place]]
    return size


@array_kernel
def _lists(  # type: ignore[no-untyped-def]
    ranks, starts, lengths, squares, order, kind, least
):  # fmt: skip
    """(bounds, texts, reaches): of each rank the texts that a similar one can reach there, in their order."""
    bounds = np.zeros(len(squares), np.int64)
    reaches = np.empty(np.diff(starts).max(), np.float32)
    _count_listed(ranks, starts, lengths, squares, kind, least, reaches, bounds)
    bounds = np.cumsum(bounds)
    texts, far = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.float32)
    _list(ranks, starts, lengths, squares, order, kind, least, reaches, bounds.copy(), texts, far)
    return bounds, texts, far


@kernel
def _count_listed(ranks, starts, lengths, squares, kind, least, reaches, bounds):  # type: ignore[no-untyped-def]
    for text in range(len(lengths)):
        held = ranks[starts[text] : starts[text + 1]]
        for place in range(_reaches(held, lengths[text], squares, kind, least, reaches)):
            bounds[held[place] + 1] += 1


@kernel
def _list(  # type: ignore[no-untyped-def]
    ranks, starts, lengths, squares, order, kind, least, reaches, following, texts, far
):  # fmt: skip
    for text in order:
        held = ranks[starts[text] : starts[text + 1]]
        for place in range(_reaches(held, lengths[text], squares, kind, least, reaches)):
            at = following[held[place]]
            texts[at], far[at] = text, reaches[place]
            following[held[place]] += 1


@array_kernel
def _nearest(  # type: ignore[no-untyped-def]
    asked_starts, asked_ranks, asked_lengths, owners, bounds, squares, starts, ranks, lengths, numbers, rows, jaccard,
    jaccard_of, cosine, cosine_of,
):  # fmt: skip
    """Rare shingles come first. Once a text is known to be nearer than any can be that shares only the frequent ones
    left, no text is added, and only those that may still be nearest are compared in full.

    With r of n shingles left, a text that has none of the others has a Jaccard similarity of at most r / n, and by
    Cauchy and Schwarz a cosine of at most the length of what is left over the length of all.
    """
    gathered = np.zeros(len(numbers), np.int64)  # see `_packed`
    touched = np.empty(len(numbers), np.int32)
    asked_for = np.zeros(len(squares), np.bool_)
    sizes = np.diff(starts)
    for asking in range(len(rows)):
        text, length = rows[asking], asked_lengths[asking]
        asked = asked_ranks[asked_starts[asking] : asked_starts[asking + 1]]
        size = len(asked)
        asked = asked[asked >= 0]
        asked_for[asked] = True
        left = squares[asked].sum()
        best_near, best_angle = jaccard[text], cosine[text]
        count, done = 0, 0
        work, next_look = 0, 1  # list entries read, and from how many on it pays to look for an end
        while done < len(asked):
            if best_near > (len(asked) - done) / size and best_angle > np.sqrt(max(left, 0.0)) / length + _ROUNDING:
                break
            begin, end = bounds[asked[done]], bounds[asked[done] + 1]
            if end - begin > _LONG and work >= next_look:
                next_look = work + work // 2 + 1
                for other in _likeliest(touched[:count], gathered, size, sizes, lengths):
                    near, angle = _similarities(other, size, length, asked_for, squares, starts, ranks, lengths)
                    best_near, best_angle = max(best_near, near), max(best_angle, angle)
                continue
            added = _packed(squares[asked[done]])
            for other in owners[begin:end]:
                if gathered[other] == 0:
                    touched[count] = other
                    count += 1
                gathered[other] += added
            left -= squares[asked[done]]
            work += end - begin
            done += 1
        unread = _packed(left / (len(asked) - done)) * (len(asked) - done) if done < len(asked) else 0
        for other in touched[:count]:
            shared, product = _unpacked(gathered[other] + unread)
            gathered[other] = 0
            # no text has a smaller union than the asked one alone, nor is shorter than what it shares
            if shared < best_near * size - _ROUNDING and product < (best_angle * length) ** 2 - _ROUNDING:
                continue
            most = min(shared, sizes[other])
            if (
                most >= best_near * (size + sizes[other] - most) - _ROUNDING
                or product >= (best_angle - _ROUNDING) * length * lengths[other]
            ):
                near, angle = _similarities(other, size, length, asked_for, squares, starts, ranks, lengths)
                best_near, best_angle = max(best_near, near), max(best_angle, angle)
                _take_if_nearer(near, numbers[other], text, jaccard, jaccard_of)
                _take_if_nearer(angle, numbers[other], text, cosine, cosine_of)
        asked_for[asked] = False


@inlined
def _packed(square: float) -> np.int64:
    """One shared shingle and its squared weight, rounded up, as a number that can be added: 23 and 40 bits."""
    return np.int64(1 << _COUNT_AT) + np.int64(np.ceil(max(square, 0.0) * _UNIT))


@inlined
def _unpacked(sum_of: int) -> tuple[int, float]:
    """How many shingles, and at least the sum of their squared weights."""
    return sum_of >> _COUNT_AT, (sum_of & ((1 << _COUNT_AT) - 1)) / _UNIT


@kernel
def _similarities(other, size, length, asked_for, squares, starts, ranks, lengths):  # type: ignore[no-untyped-def]
    """Jaccard similarity and cosine of a text with the asked one."""
    count, weight = 0, 0.0
    for rank in ranks[starts[other] : starts[other + 1]]:
        if asked_for[rank]:
            count += 1
            weight += squares[rank]
    return count / (size + starts[other + 1] - starts[other] - count), weight / (length * lengths[other])


@kernel
def _take_if_nearer(value: float, number: int, text: int, best: Floats, best_of: Ints) -> None:
    """Put a training text before the best one so far if it is nearer, or as near with a lower number."""
    if value > best[text] or (value == best[text] and value > 0 and number < best_of[text]):
        best[text], best_of[text] = value, number


@array_kernel
def _likeliest(touched: Owners, gathered: Ints, size: int, sizes: Ints, lengths: Floats) -> Ints:
    """Of the texts touched so far, at most two: the nearest until now by Jaccard similarity and by cosine."""
    found = np.full(2, -1, np.int64)
    near, angle = 0.0, 0.0
    for other in touched:
        shared, product = _unpacked(gathered[other])
        if shared > near * size and shared > near * (size + sizes[other] - shared):
            near, found[0] = shared / (size + sizes[other] - shared), other
        if product > angle * angle and product > angle * lengths[other]:
            angle, found[1] = product / lengths[other], other
    return found[found >= 0]


@array_kernel
def _join(  # type: ignore[no-untyped-def]
    asked_starts, asked_ranks, asked_lengths, asked_maps, all_bounds, all_owners, all_measures, all_reaches, all_sizes,
    all_maps, squares, starts, ranks, lengths, numbers, rows, limits, worst, jaccard, jaccard_of, cosine, cosine_of,
):  # fmt: skip
    """Compare each asked text with those that may be near by Jaccard similarity, then with those that may by cosine.

    What is near follows the worst pairs so far, so that ever less has to be looked at.
    """
    asked_for = np.zeros(len(squares), np.bool_)
    compared = np.full(len(numbers), -1, np.int32)
    most = np.diff(asked_starts).max()
    far, heaviest = np.empty(most, np.float32), np.zeros(most + 1)  # sums of the squared weights of the first shingles
    for asking in range(len(rows)):
        text, length = rows[asking], asked_lengths[asking]
        asked = asked_ranks[asked_starts[asking] : asked_starts[asking + 1]]
        size, before, least = len(asked), max(jaccard[text], cosine[text]), worst.min()
        for place in range(size):
            heaviest[place + 1] = heaviest[place] + squares[asked[place]]
        known = asked[asked >= 0]
        asked_for[known] = True
        fold_a, fold_b = asked_maps[asking]
        for kind in range(2):
            bounds, owners, measures = all_bounds[kind], all_owners[kind], all_measures[kind]
            reaches, sizes, maps = all_reaches[kind], all_sizes[kind], all_maps[kind]
            near, measure = min(least, limits[kind]), (np.float64(size), length)[kind]
            smallest = np.float32((1 - _SLACK) * near * measure)
            for place in range(_reaches(asked, length, squares, kind, near, far)):
                rank = asked[place]
                if rank < 0:
                    continue
                end = bounds[rank + 1]
                at = bounds[rank] + np.searchsorted(measures[bounds[rank] : end], smallest)
                while at < end and measures[at] <= far[place]:
                    other, reach, other_size, other_measure = owners[at], reaches[at], sizes[at], measures[at]
                    different = np.int64(ones(fold_a ^ maps[at, 0]) + ones(fold_b ^ maps[at, 1]))
                    shared = max(0, min((size + other_size - different) // 2, size))  # at most
                    if kind == 0:
                        may_be = shared * (1 + near) >= near * (size + other_size) - _ROUNDING
                    else:
                        may_be = heaviest[shared] >= (1 - _SLACK) * near * length * other_measure
                    if may_be and reach >= measure * (1 - _SLACK) and compared[other] != asking:
                        compared[other] = asking
                        found = _similarities(other, size, length, asked_for, squares, starts, ranks, lengths)
                        _take_if_nearer(found[0], numbers[other], text, jaccard, jaccard_of)
                        _take_if_nearer(found[1], numbers[other], text, cosine, cosine_of)
                    at += 1
        asked_for[known] = False
        after = max(jaccard[text], cosine[text])
        if after > before and after > least:
            worst[np.argmin(np.abs(worst - before)) if before >= least else np.argmin(worst)] = after
