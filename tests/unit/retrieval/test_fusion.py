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
from ragray.retrieval.fusion import Fused, convex_combination, fuse, normalized, reciprocal_rank_fusion, weight_of

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
    return reciprocal_rank_fusion([ints(one) for one in lists], k, weights)


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


@given(scored_lists, st.sampled_from(["theoretical", "min-max", "z-score"]))
def test_a_convex_combination_is_the_rounded_sum(lists: list[tuple[Scored, float]], normalization: str) -> None:
    found = {document for scored, weight in lists if weight for document, _ in scored}
    shares: dict[int, list[float]] = {document: [] for document in found}
    for scored, weight in lists:
        values, missing = normalized(arrays(scored)[1], normalization)  # type: ignore[arg-type]
        held = {document: value for (document, _), value in zip(scored, values.tolist(), strict=True)}
        for document in found:
            shares[document].append(weight * held.get(document, missing))
    weights = [weight for _, weight in lists]
    fused = convex_combination([arrays(one) for one, _ in lists], normalization, weights)  # type: ignore[arg-type]
    assert pairs(fused) == ordered(shares)


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
    ("normalization", "values", "missing"),
    [
        # mean 5, variance (9 + 1 + 4) / 3
        ("z-score", [3 / math.sqrt(14 / 3), -1 / math.sqrt(14 / 3), -2 / math.sqrt(14 / 3)], -2 / math.sqrt(14 / 3)),
        ("min-max", [1.0, 0.2, 0.0], 0.0),  # (4 - 3) / (8 - 3)
        ("theoretical", [1.0, 0.5, 0.375], 0.0),  # 4 / 8, 3 / 8
    ],
)
def test_normalizations_by_hand(normalization: str, values: list[float], missing: float) -> None:
    found = normalized(np.array([8.0, 4.0, 3.0]), normalization)  # type: ignore[arg-type]
    assert found == (approx(np.array(values)), approx(missing))


def test_the_theoretical_least_is_that_of_the_function_or_of_a_lower_score() -> None:
    assert normalized(np.array([8.0, 4.0, 3.0]), "theoretical", 2.0)[0].tolist() == approx([1.0, 2 / 6, 1 / 6])
    assert normalized(np.array([3.0, 1.0, -1.0]), "theoretical")[0].tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("constant", [[0.1, 0.1, 0.1], [0.7]])
def test_equal_scores_have_a_place_on_the_scale(constant: list[float]) -> None:
    count = len(constant)
    for normalization in ("min-max", "theoretical"):
        values, missing = normalized(np.array(constant), normalization)  # type: ignore[arg-type]
        assert (values.tolist(), missing) == ([1.0] * count, 0.0)
    values, missing = normalized(np.array(constant), "z-score")
    assert (values.tolist(), missing) == ([0.0] * count, 0.0)
    assert normalized(np.zeros(2), "theoretical")[0].tolist() == [1.0, 1.0]


def test_a_convex_combination_by_hand() -> None:
    # Bruch et al. 2023: alpha * normalized semantic score + (1 - alpha) * normalized lexical score
    lists = [arrays([(3, 8.0), (5, 4.0)]), arrays([(5, 0.5), (9, 0.4), (3, 0.3)])]
    fused = convex_combination(lists, "theoretical", [0.25, 0.75])
    assert pairs(fused) == [
        (5, approx(0.25 * 4 / 8 + 0.75)),
        (3, approx(0.25 + 0.75 * 3 / 5)),
        (9, approx(0.75 * 4 / 5)),
    ]
    assert fused.ranks.tolist() == [[2, 1, 0], [1, 3, 2]]
    assert pairs(convex_combination(lists, "min-max", [0.25, 0.75])) == [
        (5, approx(0.75)),
        (9, approx(0.75 * 0.1 / 0.2)),
        (3, approx(0.25)),
    ]


def test_a_document_that_a_list_lacks_counts_as_its_last_in_z_scores() -> None:
    fused = dict(pairs(convex_combination([arrays([(1, 3.0), (2, 1.0)]), arrays([(7, 5.0), (1, 1.0)])], "z-score")))
    assert fused == {1: 0.0, 2: -2.0, 7: 0.0}


@given(
    st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 1.0)), min_size=1, max_size=30),
    st.sampled_from(["rrf", "convex"]),
)
def test_full_lists_equal_fusing_the_scores_of_all(rows: list[tuple[float, float]], method: str) -> None:
    table = np.array(rows)
    weights = {"bm25": 0.4, "tfidf": 0.6}
    settings = RetrievalConfig(fusion=method, fusion_weights=FusionWeights(**weights))  # type: ignore[arg-type]
    orders = [np.lexsort((np.arange(len(table)), -column)) for column in table.T]
    lists = {name: (order, column[order]) for name, order, column in zip(weights, orders, table.T, strict=True)}
    if method == "rrf":
        sums = sum(w / (60 + 1 + np.argsort(order)) for w, order in zip(weights.values(), orders, strict=True))
    else:
        highest = table.max(axis=0)
        sums = np.where(highest > 0, table / np.where(highest > 0, highest, 1.0), 1.0) @ list(weights.values())
    fused = fuse(settings, lists, {})
    np.testing.assert_allclose(fused.scores, np.asarray(sums)[fused.documents], rtol=1e-12, atol=1e-300)
    assert sorted(fused.documents.tolist()) == list(range(len(table)))
    assert np.all(np.diff(fused.scores) <= 0)


def test_settings_reach_the_fusion() -> None:
    lists = {"bm25": arrays([(1, 9.0), (2, 6.0)]), "tfidf": arrays([(2, 0.9), (1, 0.1)])}
    even, heavy = FusionWeights(bm25=1.0, tfidf=1.0), FusionWeights(bm25=3.0, tfidf=1.0)
    assert pairs(fuse(RetrievalConfig(fusion="rrf", fusion_weights=even), lists, {})) == pairs(rrf([[1, 2], [2, 1]]))
    assert pairs(fuse(RetrievalConfig(fusion="rrf", rrf_k=7, fusion_weights=heavy), lists, {})) == pairs(
        rrf([[1, 2], [2, 1]], 7, [3.0, 1.0])
    )
    by_default = convex_combination(list(lists.values()), "theoretical", [0.7, 0.3])
    assert pairs(fuse(RetrievalConfig(), lists, {})) == pairs(by_default)
    for normalization, best in (("theoretical", 2), ("min-max", 1), ("z-score", 1)):
        settings = RetrievalConfig(
            fusion="convex", fusion_normalization=normalization, fusion_weights=FusionWeights(bm25=1.2, tfidf=1.0)
        )
        expected = convex_combination(list(lists.values()), normalization, [1.2, 1.0])  # type: ignore[arg-type]
        assert pairs(fuse(settings, lists, {})) == pairs(expected)
        assert expected.documents[0] == best
    least = fuse(RetrievalConfig(fusion="convex", fusion_weights=even), lists, {"bm25": 6.0})
    assert dict(pairs(least)) == {1: approx(1 + 1 / 9), 2: approx(1.0)}


def test_a_third_list_joins_by_its_name() -> None:
    class ThreeWeights(FusionWeights):
        bm25: float = 1.0
        tfidf: float = 1.0
        dense: float = 2.0

    lists = {"bm25": arrays([(1, 9.0)]), "tfidf": arrays([(2, 0.9)]), "dense": arrays([(3, 0.4), (2, -0.2)])}
    settings = RetrievalConfig(fusion="rrf", fusion_weights=ThreeWeights())
    assert pairs(fuse(settings, lists, {})) == pairs(rrf([[1], [2], [3, 2]], weights=[1.0, 1.0, 2.0]))
    settings = RetrievalConfig(fusion="convex", fusion_weights=ThreeWeights())
    fused = dict(pairs(fuse(settings, lists, {"dense": -1.0})))
    assert fused == {1: 1.0, 2: approx(1.0 + 2 * 0.8 / 1.4), 3: 2.0}


def test_embeddings_weigh_as_much_as_words_unless_that_is_set() -> None:
    def weight(**settings: Any) -> float:
        return weight_of(RetrievalConfig.model_validate(settings), "dense")

    assert weight(fusion="convex", fusion_normalization="theoretical") == 4.0
    assert weight(fusion="convex", fusion_normalization="min-max") == weight(fusion="rrf") == 1.0
    assert weight(fusion="rrf", fusion_weights={"bm25": 1.0, "tfidf": 1.0}) == 2.0
    assert weight(fusion_weights={"dense": 0.5}) == 0.5
    alone = {"bm25": 0, "tfidf": 0}
    assert weight(fusion="rrf", fusion_weights=alone, dense={"model": "folder"}) == 1.0
