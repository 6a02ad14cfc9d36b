import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.dataprep.shingles import closest, link_similar, prefix_buckets, question_shingles, record_shingles, words


def test_words() -> None:
    assert words("用 C++ 写 RAG-1?") == ["用", "c++", "写", "rag", "1"]


def test_jaccard_by_hand() -> None:
    # trigrams of words: {abc, bcd, cde} and {abc, bcd, cdf}: 2 shared of 4
    assert record_shingles(["a b c d e", "A, b c d f!"]).jaccard(0, 1) == 2 / 4
    # bigrams of characters: {怎样 样安 安装} and {如何 何安 安装}: 1 shared of 5
    assert question_shingles(["怎样安装", "如何安装？"]).jaccard(0, 1) == 1 / 5
    # 4-grams of letters: {abcd bcde} and {abcd bcdf}: 1 of 3
    assert question_shingles(["abcde", "abcdf"]).jaccard(0, 1) == 1 / 3
    assert record_shingles(["...", "?!"]).jaccard(0, 1) == 1.0


questions = st.lists(st.text("ab 安装", min_size=1, max_size=12), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(questions, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_prefix_buckets_miss_no_pair(texts: list[str], threshold: float) -> None:
    sets = question_shingles(texts)
    roots = link_similar(sets, [prefix_buckets(sets, threshold)], threshold)
    for i in range(len(texts)):
        for j in range(i):
            if len(sets.of(i)) and sets.jaccard(i, j) >= threshold:
                assert roots[i] == roots[j]


@settings(max_examples=60, deadline=None)
@given(questions)
def test_closest_is_the_maximum(texts: list[str]) -> None:
    sets = question_shingles(texts)
    left, right = np.arange(0, len(texts), 2), np.arange(1, len(texts), 2)
    pairs = [(i, j) for i in left for j in right if len(sets.of(i)) and len(sets.of(j))]
    expected = max((sets.jaccard(i, j) for i, j in pairs), default=0.0)
    assert closest(sets, left, right)[0] == pytest.approx(expected)
