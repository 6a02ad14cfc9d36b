"""Reciprocal rank fusion, computed by hand."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from ragray.retrieval.fusion import reciprocal_rank_fusion

rankings = st.lists(st.permutations(range(6)).flatmap(lambda p: st.just(p[:4])), min_size=1, max_size=4)


def test_scores_by_hand() -> None:
    # Cormack et al. 2009: RRFscore(d) = sum of 1 / (k + r(d)), k = 60
    fused = reciprocal_rank_fusion([[7, 3], [3, 9, 7]], k=60)
    assert fused == [
        (3, approx(1 / 62 + 1 / 61)),
        (7, approx(1 / 61 + 1 / 63)),
        (9, approx(1 / 62)),
    ]


def test_ties_are_broken_by_document_order() -> None:
    fused = reciprocal_rank_fusion([[5, 2, 8], [8, 5, 2], [2, 8, 5]], k=60)
    assert [document for document, _ in fused] == [2, 5, 8]
    assert len({score for _, score in fused}) == 1


def test_a_weight_counts_like_repeating_the_list() -> None:
    first, second = [1, 2, 3], [3, 4]
    weighted = dict(reciprocal_rank_fusion([first, second], k=10, weights=[2.0, 1.0]))
    assert weighted == approx(dict(reciprocal_rank_fusion([first, first, second], k=10)))


@given(rankings)
def test_the_order_of_the_lists_does_not_matter(lists: list[list[int]]) -> None:
    assert reciprocal_rank_fusion(lists, k=60) == reciprocal_rank_fusion(lists[::-1], k=60)


def test_one_list_stays_as_it_is_and_none_gives_none() -> None:
    assert [document for document, _ in reciprocal_rank_fusion([[4, 1, 9]], k=60)] == [4, 1, 9]
    assert reciprocal_rank_fusion([[], []], k=60) == []
