"""An audit of the split that does not trust it: what in training is nearest to each test question?

In: questions with their splits, however they came to them. Out: for each test question its nearest training
question by Jaccard similarity and by TF-IDF cosine, how many are leaks, a histogram, and the worst pairs.

Every test question is compared with all training questions. To name the nearest of a question that has nothing near
costs most: with many test questions that is done for a sample of them, from which the histogram is drawn. Leaks and
the worst pairs are those of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragray.config_data import SplitConfig
from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.nearest import Best, Training
from ragray.dataprep.ranked import Floats, Ranked, Vocabulary
from ragray.dataprep.shingles import ShingleSets, Texts
from ragray.dataprep.tokens import QUESTION

WORST = 20
BINS = 10

_SLICE = 1 << 19  # questions that are compared at once


@dataclass(frozen=True)
class Audit:
    """For each test question (`test`, numbers of texts): its nearest training texts and how near they are.

    `jaccard_of` and `cosine_of` are -1, with 0.0, where no training question shares a shingle, and for a question
    outside of the sample also where none is so near as to be a leak or one of the worst. Equal questions have 1.0.
    """

    test: Ints
    sampled: npt.NDArray[np.bool_]
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
        """Sampled test questions by similarity of the nearest training question, in ten equal bins from 0 to 1."""
        edges = np.linspace(0, 1, BINS + 1)
        return {
            name: np.histogram(np.minimum(values[self.sampled], 1.0), edges)[0].tolist()
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
    sampled, best = _sample(question[test], settings.audit_sample), Best(len(test))
    chosen, others = np.flatnonzero(sampled), np.flatnonzero(~sampled)
    limits = settings.question_threshold, settings.leak_cosine
    if len(test) and len(train):
        parts = _Parts(texts, train)
        few, many = parts.asked(test[chosen]), parts.asked(test[others])
        for part in parts:
            part.look(few, chosen, best)
            if len(others):
                part.join(many, others, limits, np.sort(best.highest)[-WORST:], best)
        least = np.sort(best.highest)[-WORST:].min()
        best.forget_below(others, min(least, limits[0]), min(least, limits[1]))
        shown = np.sort(others[np.argsort(-best.highest[others], kind="stable")[:WORST]])
        if len(shown):  # a pair may be near by one measure only: its other one too
            few = parts.asked(test[shown])
            for part in parts:
                part.look(few, shown, best)
    equal = np.isin(question[test], question[train])
    jaccard = np.where(equal, 1.0, best.jaccard)
    leaked = equal | (jaccard >= limits[0]) | (best.cosine >= limits[1])
    return Audit(test, sampled, jaccard, best.jaccard_of, best.cosine, best.cosine_of, leaked)


def _sample(question: Hashes, limit: int) -> npt.NDArray[np.bool_]:
    """bool [texts]: at most `limit` of the texts, by their hashes, so that the order of texts does not matter."""
    sampled = np.zeros(len(question), np.bool_)
    sampled[np.argsort(question, kind="stable")[:limit]] = True
    return sampled


class _Parts:
    """The training texts in parts; the only part is held, of several each is made when it is looked at."""

    def __init__(self, texts: Texts, train: Ints) -> None:
        self._texts, self._rows = texts, _slices(train)
        only = [self._sets(train)] if len(self._rows) == 1 else []
        self._vocabulary = Vocabulary.of(only or (self._sets(rows) for rows in self._rows))
        self._held = [self._made(rows, sets) for rows, sets in zip(self._rows, only, strict=False)]

    def __iter__(self) -> Iterator[Training]:
        return iter(self._held) if self._held else (self._made(rows, self._sets(rows)) for rows in self._rows)

    def asked(self, rows: Ints) -> Ranked:
        """Some texts that are to be looked for."""
        return Ranked.joined([self._vocabulary.ranked(self._sets(part)) for part in _slices(rows)])

    def _made(self, rows: Ints, sets: ShingleSets) -> Training:
        return Training(self._vocabulary.ranked(sets), rows, self._vocabulary.squares)

    def _sets(self, rows: Ints) -> ShingleSets:
        return self._texts.sets(QUESTION, rows)


def _slices(rows: Ints) -> list[Ints]:
    return np.array_split(rows, max(1, -(-len(rows) // _SLICE)))
