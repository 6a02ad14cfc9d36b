"""Fusion by ranks and by scores: computed by hand, and against the sums as one would write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pytest import approx

from ragray.config import FusionWeights, RetrievalConfig
from ragray.retrieval.fusion import (
    LISTS,
    Found,
    Fused,
    convex_combination,
    fuse,
    normalized,
    reciprocal_rank_fusion,
    united,
    weight_of,
)

Scored = list[tuple[int, float]]

DOCUMENTS = range(9)
WEIGHTS = st.sampled_from([0.0, 0.3, 1.0, 2.0, 1 / 3])


def weighted(a_list: st.SearchStrategy[list[object]]) -> st.SearchStrategy[list[tuple[object, float]]]:
    return st.lists(st.tuples(a_list, WEIGHTS), min_size=1, max_size=4)


rankings = weighted(st.lists(st.sampled_from(DOCUMENTS), unique=True))
scores = st.one_of(st.sampled_from([0.5, 1.0, 2.0]), st.floats(0.0, 50.0))  # some are equal
scored_lists = weighted(
    st.dictionaries(st.sampled_from(DOCUMENTS), scores).map(
        lambda held: sorted(held.items(), key=lambda pair: (-pair[1], pair[0]))
    )
)


def ints(documents: Sequence[int]) -> np.ndarray:
    return np.array(documents, np.int64)


def arrays(scored: Scored) -> tuple[np.ndarray, np.ndarray]:
    return ints([document for document, _ in scored]), np.array([score for _, score in scored], np.float64)


def rrf(lists: Sequence[Sequence[int]], k: int = 60, weights: Sequence[float] | None = None) -> Fused:
    return reciprocal_rank_fusion(united([(ints(one), np.zeros(len(one))) for one in lists]), k, weights)


def found_in(lists: Sequence[Scored], *beyond: dict[int, float], least: Sequence[float] | None = None) -> Found:
    """What the lists hold; `beyond` of each: its scores of documents beyond its end."""
    found = united([arrays(one) for one in lists], least)
    for row, scores in enumerate(beyond):
        for document, score in scores.items():
            found.scores[row, found.documents.tolist().index(document)] = score
    return found


def pairs(fused: Fused) -> Scored:
    return list(zip(fused.documents.tolist(), fused.scores.tolist(), strict=True))


def ordered(shares: dict[int, list[float]]) -> Scored:
    """Documents by their sums, best first, equal ones in document order."""
    return sorted(((d, math.fsum(parts)) for d, parts in shares.items()), key=lambda pair: (-pair[1], pair[0]))


def test_scores_by_hand() -> None:
    # Cormack et al. 2009: RRFscore(d) = sum of 1 / (k + r(d)), k = 60
    fused = rrf([[7, 3], [3, 9, 7]])
    assert pairs(fused) == [
        (3, approx(1 / 62 + 1 / 61)),
        (7, approx(1 / 61 + 1 / 63)),
        (9, approx(1 / 62)),
    ]
    assert fused.ranks.tolist() == [[2, 1, 0], [1, 3, 2]]


def test_ties_are_broken_by_document_order() -> None:
    fused = rrf([[5, 2, 8], [8, 5, 2], [2, 8, 5]])
    assert fused.documents.tolist() == [2, 5, 8]
    assert len(set(fused.scores.tolist())) == 1


def test_a_weight_counts_like_repeating_the_list() -> None:
    first, second = [1, 2, 3], [3, 4]
    weighted = dict(pairs(rrf([first, second], k=10, weights=[2.0, 1.0])))
    assert weighted == approx(dict(pairs(rrf([first, first, second], k=10))))


@given(rankings, st.integers(1, 100))
@example([([0, 1, 2], 1.0), ([], 1.0)], 60)
@example([([0, 1, 2], 1.0), ([2, 1, 0], 1.0), ([1, 0, 2], 1.0)], 60)
@example([([0, 1], 0.0), ([2], 1.0)], 60)
@example([(list(range(9)), 0.3), (list(range(9))[::-1], 0.3), ([4, 1], 1 / 3)], 1)
def test_reciprocal_rank_fusion_is_the_rounded_sum(lists: list[tuple[list[int], float]], k: int) -> None:
    found = {document for ranked, weight in lists if weight for document in ranked}
    shares = {d: [w / (k + 1 + ranked.index(d)) for ranked, w in lists if d in ranked] for d in found}
    fused = rrf([one for one, _ in lists], k, [weight for _, weight in lists])
    assert pairs(fused) == ordered(shares)  # the same floats, not nearly
    for row, (ranked, _) in zip(fused.ranks.tolist(), lists, strict=True):
        assert row == [ranked.index(d) + 1 if d in ranked else 0 for d in fused.documents.tolist()]


def test_documents_of_lists_are_united() -> None:
    found = united([arrays([(7, 3.0), (3, 2.0)]), arrays([]), arrays([(3, 0.9), (9, 0.2)])], [1.0, 0.0, -1.0])
    assert found.documents.tolist() == [3, 7, 9]
    assert found.ranks.tolist() == [[2, 1, 0], [0, 0, 0], [1, 0, 2]]
    assert found.scores.tolist() == [[2.0, 3.0, 0.0], [0.0] * 3, [0.9, 0.0, 0.2]]
    assert found.least == [1.0, 0.0, -1.0] and united([arrays([])]).least == [0.0]


@given(scored_lists, st.sampled_from(["theoretical", "min-max", "z-score"]))
def test_a_convex_combination_is_the_rounded_sum(lists: list[tuple[Scored, float]], normalization: str) -> None:
    held = sorted({document for scored, weight in lists if weight for document, _ in scored})
    scores = np.array([[dict(scored).get(document, 0.0) for document in held] for scored, _ in lists])
    values = normalized(scores, normalization, [0.0] * len(lists)).tolist()  # type: ignore[arg-type]
    finds = [any(document in dict(scored) for document in held) for scored, _ in lists]
    shares = {
        document: [weight * row[at] * any_held for (_, weight), row, any_held in zip(lists, values, finds, strict=True)]
        for at, document in enumerate(held)
    }
    weights = [weight for _, weight in lists]
    fused = convex_combination(found_in([one for one, _ in lists]), normalization, weights)  # type: ignore[arg-type]
    if normalization != "z-score":
        assert pairs(fused) == ordered(shares)
        return
    found = pairs(fused)  # the last digit of a deviation depends on how the numbers lie in memory
    assert dict(found) == pytest.approx(dict(ordered(shares)), rel=1e-12, abs=1e-15)
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))


@given(rankings, st.randoms())
def test_the_order_of_the_lists_does_not_matter(lists: list[tuple[list[int], float]], chance: object) -> None:
    shuffled = list(lists)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (rrf([ranked for ranked, _ in some], weights=[w for _, w in some]) for some in (lists, shuffled))
    assert pairs(one) == pairs(other)


@given(rankings, st.data())
def test_a_better_rank_never_lowers_a_score(lists: list[tuple[list[int], float]], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(lists) - 1))
    ranked, weights = [one for one, _ in lists], [weight for _, weight in lists]
    document = data.draw(st.sampled_from(DOCUMENTS))
    at = ranked[which].index(document) if document in ranked[which] else len(ranked[which])
    rest = [other for other in ranked[which] if other != document]
    rest.insert(data.draw(st.integers(0, at)), document)
    better = [*ranked[:which], rest, *ranked[which + 1 :]]
    before, after = (dict(pairs(rrf(some, weights=weights))) for some in (ranked, better))
    assert after.get(document, 0.0) >= before.get(document, 0.0)


def test_a_list_of_weight_0_finds_nothing_but_tells_its_ranks() -> None:
    fused = rrf([[4, 1], [9, 1]], weights=[1.0, 0.0])
    assert pairs(fused) == pairs(rrf([[4, 1]]))
    assert fused.ranks.tolist() == [[1, 2], [0, 2]]


def test_one_list_stays_as_it_is_and_none_gives_none() -> None:
    assert rrf([[4, 1, 9]]).documents.tolist() == [4, 1, 9]
    assert pairs(rrf([[], []])) == []


def test_there_is_a_weight_for_each_list() -> None:
    with pytest.raises(ValueError, match="1 weights for 2 lists"):
        rrf([[1], [2]], weights=[1.0])


def test_the_first_of_fused_lists() -> None:
    fused = rrf([[7, 3], [3, 9, 7]])
    assert fused.first(2).documents.tolist() == [3, 7]
    assert fused.first(2).ranks.tolist() == [[2, 1], [1, 3]]
    assert pairs(fused.first(9)) == pairs(fused)
    assert pairs(fused.first(0)) == pairs(fused.first(-1)) == []


@pytest.mark.parametrize(
    ("normalization", "values"),
    [
        # mean 5, variance (9 + 1 + 4) / 3
        ("z-score", [3 / math.sqrt(14 / 3), -2 / math.sqrt(14 / 3), -1 / math.sqrt(14 / 3)]),
        ("min-max", [1.0, 0.0, 0.2]),  # (4 - 3) / (8 - 3)
        ("theoretical", [1.0, 0.375, 0.5]),  # 3 / 8, 4 / 8
    ],
)
def test_normalizations_by_hand(normalization: str, values: list[float]) -> None:
    twice = np.array([[8.0, 3.0, 4.0], [80.0, 30.0, 40.0]])
    assert normalized(twice, normalization, [0.0, 0.0]) == approx(np.array([values] * 2))  # type: ignore[arg-type]


def test_the_theoretical_least_is_that_of_the_function_or_of_a_lower_score() -> None:
    found = normalized(np.array([[4.0, 8.0, 3.0], [3.0, 1.0, -1.0]]), "theoretical", [2.0, 0.0])
    assert found == approx(np.array([[2 / 6, 1.0, 1 / 6], [1.0, 0.5, 0.0]]))


@pytest.mark.parametrize("constant", [[0.1, 0.1, 0.1], [0.7]])
def test_equal_scores_have_a_place_on_the_scale(constant: list[float]) -> None:
    scores = np.array([constant, np.zeros(len(constant))])
    for normalization, equal in (("min-max", 1.0), ("theoretical", 1.0), ("z-score", 0.0)):
        assert np.all(normalized(scores, normalization, [0.0, 0.0]) == equal)  # type: ignore[arg-type]


def test_a_convex_combination_by_hand() -> None:
    # Bruch et al. 2023: alpha * normalized semantic score + (1 - alpha) * normalized lexical score
    lists = [[(3, 8.0), (5, 4.0)], [(5, 0.5), (9, 0.4), (3, 0.3)]]
    fused = convex_combination(found_in(lists, {9: 2.0}), "theoretical", [0.25, 0.75])
    assert pairs(fused) == [
        (5, approx(0.25 * 4 / 8 + 0.75)),
        (3, approx(0.25 + 0.75 * 3 / 5)),
        (9, approx(0.25 * 2 / 8 + 0.75 * 4 / 5)),
    ]
    assert fused.ranks.tolist() == [[2, 1, 0], [1, 3, 2]]
    assert fused.of_lists.tolist() == [[4.0, 8.0, 2.0], [0.5, 0.3, 0.4]]
    assert pairs(convex_combination(found_in(lists, {9: 2.0}), "min-max", [0.25, 0.75])) == [
        (5, approx(0.25 * 2 / 6 + 0.75)),
        (9, approx(0.75 * 0.1 / 0.2)),
        (3, approx(0.25)),
    ]


def test_a_list_without_documents_adds_nothing() -> None:
    found = found_in([[], [(1, 0.5), (2, 0.1)]])
    for normalization, values in (("theoretical", [1.0, 0.2]), ("min-max", [1.0, 0.0]), ("z-score", [1.0, -1.0])):
        assert convex_combination(found, normalization).scores.tolist() == approx(values)  # type: ignore[arg-type]
    assert pairs(convex_combination(found_in([[], []]), "z-score")) == []


def test_documents_of_a_list_of_weight_0_do_not_move_the_scale() -> None:
    found = found_in([[(1, 4.0), (2, 2.0)], [(9, 0.5), (1, 0.2)]], {9: 0.5}, {2: 0.1})
    fused = convex_combination(found, "min-max", [1.0, 0.0])
    assert pairs(fused) == [(1, 1.0), (2, 0.0)]
    assert fused.ranks.tolist() == [[1, 2], [2, 0]]


@given(
    st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 1.0)), min_size=1, max_size=30),
    st.sampled_from(["rrf", "convex"]),
)
def test_full_lists_equal_fusing_the_scores_of_all(rows: list[tuple[float, float]], method: str) -> None:
    table = np.array(rows)
    weights = {"bm25": 0.4, "tfidf": 0.6}
    settings = RetrievalConfig(fusion=method, fusion_weights=FusionWeights(**weights))  # type: ignore[arg-type]
    orders = [np.lexsort((np.arange(len(table)), -column)) for column in table.T]
    found = united([(order, column[order]) for order, column in zip(orders, table.T, strict=True)])
    if method == "rrf":
        sums = sum(w / (60 + 1 + np.argsort(order)) for w, order in zip(weights.values(), orders, strict=True))
    else:
        highest = table.max(axis=0)
        sums = np.where(highest > 0, table / np.where(highest > 0, highest, 1.0), 1.0) @ list(weights.values())
    fused = fuse(settings, found)
    np.testing.assert_allclose(fused.scores, np.asarray(sums)[fused.documents], rtol=1e-12, atol=1e-300)
    assert sorted(fused.documents.tolist()) == list(range(len(table)))
    assert np.all(np.diff(fused.scores) <= 0)


def test_settings_reach_the_fusion() -> None:
    lists = [[(1, 9.0), (2, 6.0)], [(2, 0.9), (1, 0.1)]]
    found = found_in(lists)
    even, heavy = FusionWeights(bm25=1.0, tfidf=1.0), FusionWeights(bm25=3.0, tfidf=1.0)
    assert pairs(fuse(RetrievalConfig(fusion="rrf", fusion_weights=even), found)) == pairs(rrf([[1, 2], [2, 1]]))
    assert pairs(fuse(RetrievalConfig(fusion="rrf", rrf_k=7, fusion_weights=heavy), found)) == pairs(
        rrf([[1, 2], [2, 1]], 7, [3.0, 1.0])
    )
    by_default = convex_combination(found, "theoretical", [0.7, 0.3])
    assert pairs(fuse(RetrievalConfig(), found)) == pairs(by_default)
    for normalization, best in (("theoretical", 2), ("min-max", 1), ("z-score", 1)):
        settings = RetrievalConfig(
            fusion="convex", fusion_normalization=normalization, fusion_weights=FusionWeights(bm25=1.2, tfidf=1.0)
        )
        expected = convex_combination(found, normalization, [1.2, 1.0])  # type: ignore[arg-type]
        assert pairs(fuse(settings, found)) == pairs(expected)
        assert expected.documents[0] == best
    least = fuse(RetrievalConfig(fusion="convex", fusion_weights=even), found_in(lists, least=[6.0, 0.0]))
    assert dict(pairs(least)) == {1: approx(1 + 1 / 9), 2: approx(1.0)}


def test_a_third_list_joins_by_its_name() -> None:
    assert LISTS == ("bm25", "tfidf", "dense")
    lists = [[(1, 9.0)], [(2, 0.9)], [(3, 0.4), (2, -0.2)]]
    weights = FusionWeights(bm25=1.0, tfidf=1.0, dense=2.0)
    found = found_in(lists, {}, {}, {1: -0.3}, least=[0.0, 0.0, -1.0])
    settings = RetrievalConfig(fusion="rrf", fusion_weights=weights)
    assert pairs(fuse(settings, found)) == pairs(rrf([[1], [2], [3, 2]], weights=[1.0, 1.0, 2.0]))
    fused = dict(pairs(fuse(RetrievalConfig(fusion="convex", fusion_weights=weights), found)))
    assert fused == {1: 1.0 + 2 * 0.7 / 1.4, 2: approx(1.0 + 2 * 0.8 / 1.4), 3: 2.0}


def test_embeddings_weigh_as_much_as_words_unless_that_is_set() -> None:
    def weight(**settings: Any) -> float:
        return weight_of(RetrievalConfig.model_validate(settings), "dense")

    assert weight(fusion="convex", fusion_normalization="theoretical") == 4.0
    assert weight(fusion="convex", fusion_normalization="min-max") == weight(fusion="rrf") == 1.0
    assert weight(fusion="rrf", fusion_weights={"bm25": 1.0, "tfidf": 1.0}) == 2.0
    assert weight(fusion_weights={"dense": 0.5}) == 0.5
    alone = {"bm25": 0, "tfidf": 0}
    assert weight(fusion="rrf", fusion_weights=alone, dense={"model": "folder"}) == 1.0
