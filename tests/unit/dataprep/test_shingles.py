import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.dataprep.shingles import Texts, question_shingles, record_shingles
from ragray.dataprep.tokens import QUESTION, RECORD, byte_hashes, columns_of, text_hashes, words


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


any_text = st.text(st.sampled_from("aAbß１1装置+#-_ 。,\n𠀀é"), max_size=20)


@settings(max_examples=300, deadline=None)
@given(any_text, any_text)
def test_hashes_are_equal_exactly_where_the_words_are(left: str, right: str) -> None:
    left, right = left.replace("ß", "ss"), right.replace("ß", "ss")  # one letter that folds to two stays its own
    hashes = text_hashes(columns_of([left, right])[0])
    assert (hashes[0] == hashes[1]) == (words(left) == words(right))


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_shingles_are_the_runs_of_three_words(text: str) -> None:
    found = words(text)
    width = min(3, len(found))
    runs = {tuple(found[n : n + width]) for n in range(len(found) - width + 1)} if found else set()
    assert len(record_shingles([text]).of(0)) == len(runs)


def test_a_record_is_its_question_and_answer_on_two_lines() -> None:
    whole = record_shingles(["what is it\na thing of beauty"])
    parts = Texts([columns_of(["what is it"], ["a thing of beauty"])]).sets(RECORD, np.array([0]))
    assert whole.hashes.tolist() == parts.hashes.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(any_text, min_size=1, max_size=9), st.integers(1, 4))
def test_pieces_do_not_show(texts: list[str], piece: int) -> None:
    pieces = Texts([columns_of(texts[n : n + piece]) for n in range(0, len(texts), piece)])
    rows = np.arange(0, len(texts), 2)
    found, whole = pieces.sets(QUESTION, rows), question_shingles(texts)
    assert [found.of(n).tolist() for n in range(len(rows))] == [whole.of(row).tolist() for row in rows]


def test_long_texts_and_slices_of_columns() -> None:
    column = columns_of(["x", "词" * 60_000 + " end", "y"])[0]
    assert text_hashes(column[1:2])[0] == text_hashes(column)[1]
    assert byte_hashes(column[2:])[0] == byte_hashes(column)[2] != byte_hashes(column, 1)[2]
    assert len(record_shingles([column[1].as_py()]).of(0)) == 2  # 词词词 and 词词end


def test_jaccard_counts_shared_shingles() -> None:
    sets = record_shingles(["a b c d", "a b c x y"])
    assert sets.jaccard(0, 1) == pytest.approx(1 / 4)


@pytest.mark.parametrize("kind", [QUESTION, RECORD])
def test_some_of_the_texts_have_the_shingles_they_have_among_all(kind: int) -> None:
    pieces = [columns_of(["how do I reset it", "怎样安装软件"]), columns_of(["", "no", "a b c d"])]
    fresh = Texts(pieces).only(np.array([1, 2, 4]))  # makes its own
    texts = Texts(pieces)
    whole = texts.sets(kind, np.arange(5))
    shared = texts.only(np.array([1, 2, 4]))  # takes from what is held
    for few in (fresh, shared):
        assert len(few) == 3
        for rows in ([0, 2], [0, 1, 2], [1]):
            found = few.sets(kind, np.array(rows))
            expected = [whole.of([1, 2, 4][row]).tolist() for row in rows]
            assert [found.of(n).tolist() for n in range(len(rows))] == expected


def test_sets_taken_in_any_order_and_twice() -> None:
    sets = question_shingles(["abcde", "", "怎样安装"])
    taken = sets.take(np.array([2, 0, 1, 2]))
    assert [taken.of(n).tolist() for n in range(4)] == [sets.of(n).tolist() for n in (2, 0, 1, 2)]
    assert len(sets.take(np.array([], np.int64)).starts) == 1
