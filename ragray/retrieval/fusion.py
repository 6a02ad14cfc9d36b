"""Fusion of ranked lists, however many there are: by their ranks or by their scores.

In: ranked lists of document numbers, best first, each as deep as the caller wants it to count, and their scores for
fusion by scores. Out: one list, its scores, and the rank that each of its documents has in each list.

What several lists give to a document is added and rounded once, as by `math.fsum`: the order of the lists does not
matter. A list of weight 0 finds nothing; only ranks in it are told.

Sources: Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods"; Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragray.compiled import kernel
from ragray.config import RetrievalConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ranked = tuple[Ints, Floats]  # documents, best first, without repetition, and their scores
Normalization = Literal["theoretical", "min-max", "z-score"]


class Fused(NamedTuple):
    """Fused lists, best first; equal scores in document order."""

    documents: Ints  # [found]
    scores: Floats  # [found]
    ranks: Ints  # [lists, found], from 1; 0 where the list does not hold the document

    def first(self, count: int) -> Fused:
        """The best `count` at most."""
        count = max(count, 0)
        return Fused(self.documents[:count], self.scores[:count], self.ranks[:, :count])


def fuse(settings: RetrievalConfig, lists: Mapping[str, Ranked], least: Mapping[str, float]) -> Fused:
    """Fuse lists as the settings say.

    Args:
        settings: the method, and a weight by the name of each list.
        lists: by name.
        least: see `convex_combination`; 0 for a list that is not named.
    """
    weights = [weight_of(settings, name) for name in lists]
    if settings.fusion == "rrf":
        return reciprocal_rank_fusion([documents for documents, _ in lists.values()], settings.rrf_k, weights)
    lows = [least.get(name, 0.0) for name in lists]
    return convex_combination(list(lists.values()), settings.fusion_normalization, weights, lows)


def weight_of(settings: RetrievalConfig, name: str) -> float:
    """The weight of a list.

    Unless it is set, embeddings count as much as both lists of words together. With `theoretical` it is 4 times as
    much: from -1 up, the cosines of the passages that matter span a small part of the scale.
    """
    weights = settings.fusion_weights
    given: float | None = getattr(weights, name)
    if given is not None:
        return given
    words = weights.bm25 + weights.tfidf or 1.0
    return 4.0 * words if settings.fusion == "convex" and settings.fusion_normalization == "theoretical" else words


def reciprocal_rank_fusion(lists: Sequence[Ints], k: int, weights: Sequence[float] | None = None) -> Fused:
    """score(d) = sum over the lists that hold d of weight / (k + rank of d), with ranks from 1 (Cormack et al. 2009).

    Args:
        lists: int64 each, best first, without repetition.
        k: the constant; Cormack et al. use 60.
        weights: of each list, at least 0; 1 when not given.

    Raises:
        ValueError: there are not as many weights as lists.
    """
    given = _checked(weights, len(lists))
    parts = [weight / np.arange(k + 1, k + 1 + len(one)) for one, weight in zip(lists, given, strict=True)]
    return _united(lists, parts, [0.0] * len(lists), given)


def convex_combination(
    lists: Sequence[Ranked],
    normalization: Normalization,
    weights: Sequence[float] | None = None,
    least: Sequence[float] | None = None,
) -> Fused:
    """score(d) = sum over lists of weight * normalized score of d (Bruch et al. 2023, there for two lists).

    Weights are used as given; that their sum is not 1 changes no order.

    Args:
        lists: with their scores.
        normalization: see `normalized`, also for a document that a list does not hold.
        weights: of each list, at least 0; 1 when not given.
        least: what the function that scored each list gives at least, for `theoretical`; 0 when not given.

    Raises:
        ValueError: there are not as many weights, or least values, as lists.
    """
    given = _checked(weights, len(lists))
    lows = [0.0] * len(lists) if least is None else least
    parts, absent = [], []
    for (_, scores), weight, low in zip(lists, given, lows, strict=True):
        values, missing = normalized(scores, normalization, low)
        parts.append(weight * values)
        absent.append(weight * missing)
    return _united([documents for documents, _ in lists], parts, absent, given)


def normalized(scores: Floats, normalization: Normalization, least: float = 0.0) -> tuple[Floats, float]:
    """(a list's scores on a scale that lists share, what a document counts that the list does not hold).

    - `min-max`: from 0 for the list's last score to 1 for its first; 0 for other documents.
    - `theoretical`: the same from `least`, or from the last score where that is lower; 0 for other documents.
    - `z-score`: distance from the mean in standard deviations; other documents count as the list's last.

    Where no score differs from the lowest, documents of the list count 1, in `z-score` 0.

    Args:
        scores: float64, falling.
        normalization: which of these.
        least: of the function that made the scores.
    """
    if len(scores) == 0:
        return scores, 0.0
    first, last = float(scores[0]), float(scores[-1])
    if normalization == "z-score":
        spread = float(scores.std()) if first > last else 0.0
        values = (scores - scores.mean()) / spread if spread > 0.0 else np.zeros(len(scores))
        return values, float(values[-1])
    low = min(least, last) if normalization == "theoretical" else last
    return (scores - low) / (first - low) if first > low else np.ones(len(scores)), 0.0


def _checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    given = [1.0] * count if weights is None else weights
    if len(given) != count:
        raise ValueError(f"{len(given)} weights for {count} lists")
    return given


def _united(lists: Sequence[Ints], parts: Sequence[Floats], absent: Sequence[float], weights: Sequence[float]) -> Fused:
    """The documents of all lists by the sum of what each list gives to them.

    Args:
        lists: documents.
        parts: what each list gives to each of its documents.
        absent: what each list gives to documents that it does not hold.
        weights: of each list; one of 0 finds nothing.
    """
    entries = np.concatenate(lists)
    order = np.argsort(entries)  # entries of one document may come in any order
    shape = (len(lists), len(entries))
    documents, given, ranks = np.empty(len(entries), np.int64), np.empty(shape), np.empty(shape, np.int64)
    ends = np.cumsum([len(one) for one in lists])
    count = _group(
        order, entries, ends, np.concatenate(parts), np.array(absent), np.array(weights), documents, given, ranks
    )
    given = given[:, :count]
    # one or two numbers are added with one rounding
    scores = given.sum(axis=0) if len(lists) < 3 else np.array([math.fsum(one) for one in given.T.tolist()])
    best = np.argsort(-scores, kind="stable")
    return Fused(documents[best], scores[best], ranks[:, best])


@kernel
def _group(order, entries, ends, parts, absent, weights, documents, given, ranks):  # type: ignore[no-untyped-def]
    """Write each document once, ascending, with what each list gives to it and its rank there. How many there are.

    Args:
        order: places in `entries`, by document.
        entries: int64, documents of all lists end to end.
        ends: of each list in `entries`.
        parts: float64, what each entry gives.
        absent: float64 [lists], what a list gives to documents that it does not hold.
        weights: float64 [lists].
        documents, given, ranks: int64 [entries], float64 and int64 [lists, entries], to write to.
    """
    count, at = 0, 0
    while at < len(order):
        document, counts = entries[order[at]], False
        documents[count] = document
        for which in range(len(ends)):
            given[which, count], ranks[which, count] = absent[which], 0
        while at < len(order) and entries[order[at]] == document:
            place, which = order[at], 0
            while place >= ends[which]:
                which += 1
            begin = ends[which - 1] if which else 0
            given[which, count], ranks[which, count] = parts[place], place - begin + 1
            counts = counts or weights[which] > 0
            at += 1
        if counts:
            count += 1
    return count
