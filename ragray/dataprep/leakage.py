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
from ragray.dataprep.shingles import ShingleSets, Texts
from ragray.dataprep.tokens import QUESTION, Hashes, Ints

WORST = 20
BINS = 10
Floats = npt.NDArray[np.float64]

_SLICE = 1 << 20  # training questions that are compared at once


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
    shared = np.zeros(len(sizes), np.int64)
    products = np.zeros(len(sizes))
    touched = np.empty(len(sizes), np.int64)
    for text in range(len(starts) - 1):
        count, square = 0, 0.0
        for k in range(starts[text], starts[text + 1]):
            square += squares[k]
            if places[k] < 0:
                continue
            weight = weights[places[k]] ** 2
            for p in range(bounds[places[k]], bounds[places[k] + 1]):
                other = owners[p]
                if shared[other] == 0:
                    touched[count] = other
                    count += 1
                shared[other] += 1
                products[other] += weight
        size, length = starts[text + 1] - starts[text], np.sqrt(square)
        for t in range(count):
            other = touched[t]
            near = shared[other] / (size + sizes[other] - shared[other])
            angle = products[other] / (length * lengths[other])
            number = numbers[other]
            if near > jaccard[text] or (near == jaccard[text] and number < jaccard_of[text]):
                jaccard[text], jaccard_of[text] = near, number
            if angle > cosine[text] or (angle == cosine[text] and number < cosine_of[text]):
                cosine[text], cosine_of[text] = angle, number
            shared[other] = 0
            products[other] = 0.0
