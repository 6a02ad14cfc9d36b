"""Fusion of ranked lists, however many there are: by their ranks or by their scores.

In: `Found`, the documents that any of the lists holds, with the rank and the score of each in every list. Out: one
list, best first.

A rank counts as far as its list goes. Scores are exact in every list, also of documents beyond its end.

What several lists give to a document is added and rounded once, as by `math.fsum`: the order of the lists does not
matter. A list of weight 0 finds nothing; only ranks in it are told.

Sources: Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods"; Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragray.compiled import kernel
from ragray.config import RetrievalConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ranked = tuple[Ints, Floats]  # documents, best first, without repetition, and their scores
Normalization = Literal["theoretical", "min-max", "z-score"]

LISTS = ("bm25", "tfidf", "dense")  # in the order in which they are fused


class Found(NamedTuple):
    """What some lists hold, in document order."""

    documents: Ints  # [found], of any list
    ranks: Ints  # [lists, found], from 1; 0 where the list does not hold the document
    scores: Floats  # [lists, found], of every document
    least: Sequence[float]  # [lists], what the function that scores a list gives at least


class Fused(NamedTuple):
    """Fused lists, best first; equal scores in document order."""

    documents: Ints  # [found]
    scores: Floats  # [found]
    ranks: Ints  # [lists, found], from 1; 0 where the list does not hold the document
    of_lists: Floats  # [lists, found], the score of each document in every list

    def first(self, count: int) -> Fused:
        """The best `count` at most."""
        return self.at(slice(max(count, 0)))

    def at(self, places: slice | Ints) -> Fused:
        """The documents at some places."""
        return Fused(self.documents[places], self.scores[places], self.ranks[:, places], self.of_lists[:, places])

    def with_words(self, scores: Floats) -> Fused:
        """The same with other scores by BM25 and by cosine, float64 [2, found]."""
        return self._replace(of_lists=np.concatenate([scores, self.of_lists[len(scores) :]]))


def united(lists: Sequence[Ranked], least: Sequence[float] | None = None) -> Found:
    """The documents of all lists; scores are 0 in a list that does not hold the document.

    Args:
        lists: as deep as they are to count.
        least: see `Found`; 0 when not given.
    """
    entries, given = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    ends = np.array([*itertools.accumulate(len(held) for held, _ in lists)])
    documents, ranks = np.empty(len(entries), np.int64), np.zeros((len(lists), len(entries)), np.int64)
    scores = np.zeros(ranks.shape)
    count = _unite(np.argsort(entries), entries, given, ends, documents, ranks, scores)
    lows = [0.0] * len(lists) if least is None else least
    return Found(documents[:count], ranks[:, :count], scores[:, :count], lows)


@kernel
def _unite(order, entries, given, ends, documents, ranks, scores):  # type: ignore[no-untyped-def]
    """Write each document once, ascending, with its rank and score in the lists that hold it. How many there are.

    Args:
        order: places in `entries`, by document.
        entries, given: documents and scores of all lists end to end.
        ends: of each list in `entries`.
        documents, ranks, scores: int64 [entries], int64 and float64 [lists, entries], zero, to write to.
    """
    count = 0
    for place in order:
        which = 0
        while place >= ends[which]:
            which += 1
        if count == 0 or documents[count - 1] != entries[place]:
            documents[count] = entries[place]
            count += 1
        ranks[which, count - 1] = place - (ends[which - 1] if which else 0) + 1
        scores[which, count - 1] = given[place]
    return count


def fuse(settings: RetrievalConfig, found: Found) -> Fused:
    """Fuse the first of `LISTS` as the settings say."""
    weights = [weight_of(settings, name) for name in LISTS[: len(found.ranks)]]
    if settings.fusion == "rrf":
        return reciprocal_rank_fusion(found, settings.rrf_k, weights)
    return convex_combination(found, settings.fusion_normalization, weights)


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


def reciprocal_rank_fusion(found: Found, k: int, weights: Sequence[float] | None = None) -> Fused:
    """score(d) = sum over the lists that hold d of weight / (k + rank of d), with ranks from 1 (Cormack et al. 2009).

    Args:
        found: whose ranks count.
        k: the constant; Cormack et al. use 60.
        weights: of each list, at least 0; 1 when not given.

    Raises:
        ValueError: there are not as many weights as lists.
    """
    given = _checked(weights, found)
    found = _counted(found, given)
    return _summed(found, np.where(found.ranks > 0, given[:, None] / (k + found.ranks), 0.0))


def convex_combination(found: Found, normalization: Normalization, weights: Sequence[float] | None = None) -> Fused:
    """score(d) = sum over lists of weight * normalized score of d (Bruch et al. 2023, there for two lists).

    Weights are used as given; that their sum is not 1 changes no order. A list without documents adds nothing.

    Args:
        found: whose scores count.
        normalization: see `normalized`.
        weights: of each list, at least 0; 1 when not given.

    Raises:
        ValueError: there are not as many weights as lists.
    """
    given = _checked(weights, found)
    found = _counted(found, given)
    shares = normalized(found.scores, normalization, found.least)
    return _summed(found, (given * found.ranks.any(axis=1))[:, None] * shares)


def normalized(scores: Floats, normalization: Normalization, least: Sequence[float]) -> Floats:
    """The scores that lists give to what is fused, on a scale that they share, float64 [lists, found].

    - `min-max`: from 0 for a list's lowest to 1 for its highest.
    - `theoretical`: the same from `least`, or from the lowest where that is lower.
    - `z-score`: distance from the mean in standard deviations.

    Where no score differs from the lowest on the scale, all count 1, in `z-score` 0.

    Args:
        scores: float64 [lists, found].
        normalization: which of these.
        least: of the functions that made the scores, [lists].
    """
    if not scores.size:
        return scores
    highest, low = scores.max(axis=1, keepdims=True), scores.min(axis=1, keepdims=True)
    if normalization == "z-score":
        low, level = scores.mean(axis=1, keepdims=True), np.zeros(scores.shape)
        scale = np.where(highest > low, scores.std(axis=1, keepdims=True), 0.0)
    else:
        if normalization == "theoretical":
            low = np.minimum(low, np.array(least)[:, None])
        scale, level = highest - low, np.ones(scores.shape)
    values: Floats = np.divide(scores - low, scale, out=level, where=scale > 0.0)
    return values


def _checked(weights: Sequence[float] | None, found: Found) -> Floats:
    count = len(found.ranks)
    if weights is not None and len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} lists")
    return np.ones(count) if weights is None else np.array(weights, np.float64)


def _counted(found: Found, weights: Floats) -> Found:
    """The documents that a list of a weight above 0 holds."""
    if (weights > 0.0).all():
        return found
    held = (found.ranks[weights > 0.0] > 0).any(axis=0)
    return Found(found.documents[held], found.ranks[:, held], found.scores[:, held], found.least)


def _summed(found: Found, shares: Floats) -> Fused:
    """The documents by the sum of what each list gives to them, float64 [lists, found]."""
    # one or two numbers are added with one rounding
    scores = shares.sum(axis=0) if len(shares) < 3 else np.array([math.fsum(one) for one in shares.T.tolist()])
    best = np.argsort(-scores, kind="stable")
    return Fused(found.documents, scores, found.ranks, found.scores).at(best)
