"""An audit of the split that does not trust it: what in training is nearest to each test question?

In: questions with their splits, however they came to them. Out: for every test question its nearest training
question by Jaccard similarity and by TF-IDF cosine, how many are leaks, a histogram, and the worst pairs. All
training questions are looked at for each test question; nothing is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from ragray.config_data import SplitConfig
from ragray.dataprep.hashing import Hashes
from ragray.dataprep.shingles import ShingleSets, Texts
from ragray.dataprep.tokens import QUESTION, Ints

WORST = 20
BINS = 10
Floats = npt.NDArray[np.float64]

_SLICE = 1 << 20  # training questions that are compared at once
_LONG = 64  # a shorter list is read without thinking
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Audit:
    """For each test question (`test`, numbers of texts): its nearest training texts and how near they are.

    `jaccard_of` and `cosine_of` are -1 where no training question shares a shingle. Equal questions have 1.0.
    """

    test: Ints
    jaccard: Floats
    jaccard_of: Ints
    cosine: Floats
    cosine_of: Ints
    leaked: npt.NDArray[np.bool_]

    @property
    def leaked_share(self) -> float:
        """Share of test questions with a training question above a threshold."""
        return float(self.leaked.mean()) if len(self.test) else 0.0

    def histogram(self) -> dict[str, list[int]]:
        """Test questions by similarity of the nearest training question, in ten equal bins from 0 to 1."""
        edges = np.linspace(0, 1, BINS + 1)
        return {
            name: np.histogram(np.minimum(values, 1.0), edges)[0].tolist()
            for name, values in (("jaccard", self.jaccard), ("cosine", self.cosine))
        }

    def worst(self, count: int = WORST) -> list[tuple[int, int, float, float]]:
        """(test text, training text, Jaccard, cosine) of the nearest pairs, nearest first; leaks before others."""
        nearest = np.where(self.jaccard >= self.cosine, self.jaccard_of, self.cosine_of)
        order = np.lexsort((self.test, -np.maximum(self.jaccard, self.cosine), ~self.leaked))
        return [
            (int(self.test[n]), int(nearest[n]), float(self.jaccard[n]), float(self.cosine[n]))
            for n in order[:count]
            if nearest[n] >= 0
        ]


def audit_split(texts: Texts, question: Hashes, test: Ints, train: Ints, settings: SplitConfig) -> Audit:
    """Find the nearest training question of each test question.

    A leak is a training question with the same tokens, with a Jaccard similarity of at least
    `question_threshold`, or with a TF-IDF cosine (shingles, binary tf, smooth idf) of at least `leak_cosine`.

    Args:
        texts: all questions.
        question: uint64 [texts], equal for equal questions.
        test: numbers of the test texts, ascending.
        train: numbers of the training texts, ascending.
        settings: thresholds.
    """
    asked = texts.sets(QUESTION, test)
    best = _Best(len(test))
    for part in np.array_split(train, max(1, -(-len(train) // _SLICE))):
        best.look(asked, texts.sets(QUESTION, part), part)
    equal = np.isin(question[test], question[train])
    jaccard = np.where(equal, 1.0, best.jaccard)
    leaked = equal | (jaccard >= settings.question_threshold) | (best.cosine >= settings.leak_cosine)
    return Audit(test, jaccard, best.jaccard_of, best.cosine, best.cosine_of, leaked)


class _Best:
    """The nearest of the training texts looked at so far."""

    def __init__(self, count: int) -> None:
        self.jaccard, self.cosine = np.zeros(count), np.zeros(count)
        self.jaccard_of, self.cosine_of = np.full(count, -1, np.int64), np.full(count, -1, np.int64)

    def look(self, asked: ShingleSets, known: ShingleSets, numbers: Ints) -> None:
        """Look at some training texts, whose numbers are given."""
        if not len(asked.hashes) or not len(known.hashes):
            return
        terms, owners = _postings(known)
        values, bounds = np.unique(terms, return_index=True)
        bounds = np.append(bounds, len(terms)).astype(np.int64)
        weights = np.log((1 + len(known)) / (1 + np.diff(bounds))) + 1
        places = np.searchsorted(values, asked.hashes)
        found = (places < len(values)) & (values[np.minimum(places, len(values) - 1)] == asked.hashes)
        unseen = np.log(1 + len(known)) + 1
        squares = np.where(found, weights[np.minimum(places, len(values) - 1)], unseen) ** 2
        lengths = np.sqrt(np.bincount(owners, np.repeat(weights, np.diff(bounds)) ** 2, minlength=len(known)))
        _nearest(
            asked.starts, np.where(found, places, -1), squares, owners, bounds, weights, lengths,
            np.diff(known.starts), numbers, self.jaccard, self.jaccard_of, self.cosine, self.cosine_of,
        )  # fmt: skip


def _postings(sets: ShingleSets) -> tuple[Hashes, Ints]:
    """Every (shingle, text), by shingle."""
    owners = np.repeat(np.arange(len(sets)), np.diff(sets.starts))
    order = np.argsort(sets.hashes, kind="stable")
    return sets.hashes[order], owners[order]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _nearest(  # type: ignore[no-untyped-def]
    starts, places, squares, owners, bounds, weights, lengths, sizes, numbers, jaccard, jaccard_of, cosine, cosine_of
):
    """Rare shingles come first. Once a text is known to be nearer than any can be that shares only the frequent ones
    left, no text is added, and only those that may still be nearest are looked up in the long lists of these.

    With r of n shingles left, a text that has none of the others has a Jaccard similarity of at most r / n, and by
    Cauchy and Schwarz a cosine of at most the length of what is left over the length of all.
    """
    shared = np.zeros(len(sizes), np.int64)
    products = np.zeros(len(sizes))
    touched = np.empty(len(sizes), np.int64)
    for text in range(len(starts) - 1):
        asked = places[starts[text] : starts[text + 1]]
        size, length = len(asked), np.sqrt(squares[starts[text] : starts[text + 1]].sum())
        terms = _rare_first(asked[asked >= 0], bounds)
        left = (weights[terms] ** 2).sum()
        best_near, best_angle, count, done = jaccard[text], cosine[text], 0, 0
        work, next_look = 0, 1  # list entries read, and from how many on it pays to look for an end
        while done < len(terms):
            begin, end = bounds[terms[done]], bounds[terms[done] + 1]
            if end - begin > _LONG and work >= next_look:
                next_look = work + work // 2
                for other in _likeliest(touched[:count], shared, products, size, sizes, lengths):
                    more, weight = _rest(terms[done:], owners, bounds, weights, other)
                    both = shared[other] + more
                    best_near = max(best_near, both / (size + sizes[other] - both))
                    best_angle = max(best_angle, (products[other] + weight) / (length * lengths[other]))
                if best_near > (len(terms) - done) / size and best_angle > np.sqrt(max(left, 0.0)) / length + _ROUNDING:
                    break
            weight = weights[terms[done]] ** 2
            for p in range(begin, end):
                other = owners[p]
                if shared[other] == 0:
                    touched[count] = other
                    count += 1
                shared[other] += 1
                products[other] += weight
            left -= weight
            work += end - begin
            done += 1
        for t in range(count):
            other, rest = touched[t], len(terms) - done
            most = min(shared[other] + rest, sizes[other])
            may_be_near = most / (size + sizes[other] - most) >= best_near
            if rest and (may_be_near or (products[other] + left) / (length * lengths[other]) >= best_angle - _ROUNDING):
                more, weight = _rest(terms[done:], owners, bounds, weights, other)
                shared[other] += more
                products[other] += weight
            near = shared[other] / (size + sizes[other] - shared[other])
            angle = products[other] / (length * lengths[other])
            number = numbers[other]
            if near > jaccard[text] or (near == jaccard[text] and number < jaccard_of[text]):
                jaccard[text], jaccard_of[text] = near, number
            if angle > cosine[text] or (angle == cosine[text] and number < cosine_of[text]):
                cosine[text], cosine_of[text] = angle, number
            shared[other] = 0
            products[other] = 0.0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _rare_first(terms: Ints, bounds: Ints) -> Ints:
    """Terms by the length of their lists; equal lengths as they stand."""
    return terms[np.argsort(bounds[terms + 1] - bounds[terms], kind="mergesort")]


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _likeliest(  # type: ignore[no-untyped-def]
    touched, shared, products, size, sizes, lengths
):
    """Of the texts touched so far, at most two: the nearest until now by Jaccard similarity and by cosine."""
    found = np.full(2, -1, np.int64)
    near, angle = 0.0, 0.0
    for other in touched:
        ratio = shared[other] / (size + sizes[other] - shared[other])
        if ratio > near:
            near, found[0] = ratio, other
        if products[other] > angle * lengths[other]:
            angle, found[1] = products[other] / lengths[other], other
    return found[found >= 0]


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _rest(  # type: ignore[no-untyped-def]
    terms, owners, bounds, weights, other
):
    """How many of the terms a text has, and their squared weights."""
    count, weight = 0, 0.0
    for term in terms:
        if _holds(owners, bounds[term], bounds[term + 1], other):
            count += 1
            weight += weights[term] ** 2
    return count, weight


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _holds(owners: Ints, begin: int, end: int, wanted: int) -> bool:
    """Whether the ascending `owners[begin:end]` hold `wanted`."""
    while begin < end:
        middle = (begin + end) // 2
        if owners[middle] < wanted:
            begin = middle + 1
        elif owners[middle] > wanted:
            end = middle
        else:
            return True
    return False
