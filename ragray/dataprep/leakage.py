"""An audit of the split that does not trust it: what in training is nearest to each test question?

In: questions with their splits, however they came to them. Out: for each test question its nearest training
question by Jaccard similarity and by TF-IDF cosine, how many are leaks, a histogram, and the worst pairs.

Every test question is compared with all training questions. To name the nearest of a question that has nothing near
costs most: with many test questions that is done for a sample of them, from which the histogram is drawn. Leaks and
the worst pairs are those of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from ragray.config_data import SplitConfig
from ragray.dataprep.hashing import Hashes, Ints, Slots, number_hashes, numbers_of
from ragray.dataprep.shingles import ShingleSets, Texts
from ragray.dataprep.tokens import QUESTION

WORST = 20
BINS = 10
Floats = npt.NDArray[np.float64]
Owners = npt.NDArray[np.int32]

_SLICE = 1 << 20  # training questions that are compared at once
_LONG = 64  # a shorter list is read without thinking
_ROUNDING = 1e-9
_COUNT_AT, _UNIT = 40, float(1 << 16)  # where the count stands in a packed number; parts of a squared weight in it


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
    asked = texts.sets(QUESTION, test)
    sampled = _sample(question[test], settings.audit_sample)
    best = _Best(len(test))
    parts = _Parts(texts, train)
    best.look(asked, np.flatnonzero(sampled), parts, 0.0, 0.0)
    worst = np.sort(np.maximum(best.jaccard, best.cosine)[sampled])[-WORST:]
    floor = float(worst[0]) if len(worst) == WORST else 0.0
    near, angle = min(floor, settings.question_threshold), min(floor, settings.leak_cosine)
    others = np.flatnonzero(~sampled)
    best.look(asked, others, parts, near, angle)
    shown = np.argsort(-np.maximum(best.jaccard, best.cosine)[others], kind="stable")[:WORST]
    best.look(asked, others[shown], parts, 0.0, 0.0)  # a pair may be near by one measure only: its other one too
    equal = np.isin(question[test], question[train])
    jaccard = np.where(equal, 1.0, best.jaccard)
    leaked = equal | (jaccard >= settings.question_threshold) | (best.cosine >= settings.leak_cosine)
    return Audit(test, sampled, jaccard, best.jaccard_of, best.cosine, best.cosine_of, leaked)


def _sample(question: Hashes, limit: int) -> npt.NDArray[np.bool_]:
    """bool [texts]: at most `limit` of the texts, by their hashes, so that the order of texts does not matter."""
    sampled = np.zeros(len(question), np.bool_)
    sampled[np.argsort(question, kind="stable")[:limit]] = True
    return sampled


@dataclass(frozen=True)
class _Postings:
    """Training texts by shingle: shingle t is in the texts `owners[bounds[t]:bounds[t + 1]]`, and the reverse."""

    slots: Slots
    bounds: Ints
    owners: Owners
    weights: Floats  # idf by shingle
    starts: Ints
    terms: Ints  # of text i: terms[starts[i]:starts[i + 1]]
    lengths: Floats  # by text
    numbers: Ints  # by text

    @classmethod
    def of(cls, known: ShingleSets, numbers: Ints) -> _Postings:
        """Texts by shingle."""
        slots, terms, count = number_hashes(known.hashes)
        bounds, owners = _lists(terms, known.starts, count)
        weights = np.log((1 + len(known)) / (1 + np.diff(bounds))) + 1
        lengths = np.sqrt(np.bincount(np.repeat(np.arange(len(known)), np.diff(known.starts)), weights[terms] ** 2))
        return cls(slots, bounds, owners, weights, known.starts, terms, lengths, numbers)


class _Parts:
    """The training texts in parts; the only part is held, of several each is made when it is looked at."""

    def __init__(self, texts: Texts, train: Ints) -> None:
        self._texts = texts
        self._rows = np.array_split(train, max(1, -(-len(train) // _SLICE)))
        self._held = [self._made(part) for part in self._rows] if len(self._rows) == 1 else []

    def __iter__(self) -> Iterator[_Postings]:
        return iter(self._held) if self._held else map(self._made, self._rows)

    def _made(self, part: Ints) -> _Postings:
        return _Postings.of(self._texts.sets(QUESTION, part), part)


class _Best:
    """The nearest of the training texts looked at so far."""

    def __init__(self, count: int) -> None:
        self.jaccard, self.cosine = np.zeros(count), np.zeros(count)
        self.jaccard_of, self.cosine_of = np.full(count, -1, np.int64), np.full(count, -1, np.int64)

    def look(self, asked: ShingleSets, rows: Ints, parts: Iterable[_Postings], near: float, angle: float) -> None:
        """Look for the nearest of the asked texts in `rows`, with at least these similarities, in all parts."""
        if not len(rows):
            return
        chosen = asked.take(rows)
        for part in parts:
            terms = numbers_of(chosen.hashes, part.slots)
            unseen = np.log(1 + len(part.numbers)) + 1
            squares = np.append(part.weights, unseen)[terms] ** 2
            _nearest(
                chosen.starts, terms, squares, part.owners, part.bounds, part.weights**2, part.starts, part.terms,
                part.lengths, part.numbers, rows, near, angle, self.jaccard, self.jaccard_of, self.cosine,
                self.cosine_of,
            )  # fmt: skip


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _lists(terms: Ints, starts: Ints, count: int) -> tuple[Ints, Owners]:
    """(bounds, texts) of the lists of `count` terms, each with its texts in ascending order."""
    bounds = np.zeros(count + 1, np.int64)
    for term in terms:
        bounds[term + 1] += 1
    bounds = np.cumsum(bounds)
    following, texts = bounds.copy(), np.empty(len(terms), np.int32)
    for text in range(len(starts) - 1):
        for term in terms[starts[text] : starts[text + 1]]:
            texts[following[term]] = text
            following[term] += 1
    return bounds, texts


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _nearest(  # type: ignore[no-untyped-def]
    asked_starts, asked_terms, asked_squares, owners, bounds, squares, starts, terms, lengths, numbers, rows,
    least_near, least_angle, jaccard, jaccard_of, cosine, cosine_of,
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
        text, of_asked = rows[asking], slice(asked_starts[asking], asked_starts[asking + 1])
        asked = asked_terms[of_asked]
        size, length = len(asked), np.sqrt(asked_squares[of_asked].sum())
        asked = _rare_first(asked[asked >= 0], bounds)
        asked_for[asked] = True
        left = squares[asked].sum()
        best_near, best_angle = max(jaccard[text], least_near), max(cosine[text], least_angle)
        count, done = 0, 0
        work, next_look = 0, 1  # list entries read, and from how many on it pays to look for an end
        while done < len(asked):
            if best_near > (len(asked) - done) / size and best_angle > np.sqrt(max(left, 0.0)) / length + _ROUNDING:
                break
            begin, end = bounds[asked[done]], bounds[asked[done] + 1]
            if end - begin > _LONG and work >= next_look:
                next_look = work + work // 2 + 1
                for other in _likeliest(touched[:count], gathered, size, sizes, lengths):
                    both, weight = _common(terms[starts[other] : starts[other + 1]], asked_for, squares)
                    best_near = max(best_near, both / (size + sizes[other] - both))
                    best_angle = max(best_angle, weight / (length * lengths[other]))
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
                both, weight = _common(terms[starts[other] : starts[other + 1]], asked_for, squares)
                near, angle = both / (size + sizes[other] - both), weight / (length * lengths[other])
                number = numbers[other]
                best_near, best_angle = max(best_near, near), max(best_angle, angle)
                if near >= least_near and _is_nearer(near, number, jaccard[text], jaccard_of[text]):
                    jaccard[text], jaccard_of[text] = near, number
                if angle >= least_angle and _is_nearer(angle, number, cosine[text], cosine_of[text]):
                    cosine[text], cosine_of[text] = angle, number
        asked_for[asked] = False


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _packed(square: float) -> np.int64:
    """One shared shingle and its squared weight, rounded up, as a number that can be added: 23 and 40 bits."""
    return np.int64(1 << _COUNT_AT) + np.int64(np.ceil(max(square, 0.0) * _UNIT))


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _unpacked(sum_of: int) -> tuple[int, float]:
    """How many shingles, and at least the sum of their squared weights."""
    return sum_of >> _COUNT_AT, (sum_of & ((1 << _COUNT_AT) - 1)) / _UNIT


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _common(terms, asked_for, squares):  # type: ignore[no-untyped-def]
    """How many of a text's terms are asked for, and their squared weights."""
    count, weight = 0, 0.0
    for term in terms:
        if asked_for[term]:
            count += 1
            weight += squares[term]
    return count, weight


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is_nearer(value: float, number: int, best: float, best_number: int) -> bool:
    """Whether a text comes before the best one so far: nearer, or as near with a lower number."""
    return value > best or (value == best and number < best_number)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _rare_first(terms: Ints, bounds: Ints) -> Ints:
    """Terms by the length of their lists; equal lengths by their numbers."""
    keys = np.sort((bounds[terms + 1] - bounds[terms] << np.int64(32)) | terms)
    return keys & np.int64(0xFFFFFFFF)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
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
