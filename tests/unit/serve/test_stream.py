"""Streamed and whole answers are the same text, whatever the model writes and however it is cut into pieces."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragray.engine.assistant import Citation, Retrieved, compose
from ragray.engine.protocol import Completion
from ragray.errors import EngineError
from ragray.prompt import DECLINE
from ragray.serve.stream import AnswerText

CITATIONS = tuple(Citation(n, f"d{n}", "title", "text", "source", n, 0.1, 0.0, n, 1.0, n, 1.0) for n in (1, 2, 3))
RETRIEVED = Retrieved("How?", "en", CITATIONS, 0.9, True, 1.0)
PARTS = st.sampled_from(
    ["[1]", "[2] ", "[7]", " [12]", "[", "]", "1", " ", "\n", "word", "rows[1]", "好。", "The documents do not ",
     "answer this question", DECLINE["en"], DECLINE["zh"], "文档没有", "�"]
)  # fmt: skip


def streamed(pieces: list[str]) -> tuple[list[str], str]:
    text = AnswerText(RETRIEVED)
    shown = [text.feed(piece) for piece in pieces]
    answer = compose(RETRIEVED, Completion((), "".join(pieces), "stop", 1))
    return [*shown, text.finish(answer)], answer.text


@settings(deadline=None)  # machines may be busy
@given(st.lists(PARTS, max_size=12))
@example(["[1", "] ", "The documents do", " not want."])
@example(["[9] ", "x ", "[7]", " y"])
@example(["a [1]", "[2]", " "])
def test_all_pieces_joined_are_the_whole_answer(pieces: list[str]) -> None:
    shown, whole = streamed(pieces)
    assert "".join(shown) == whole


@settings(deadline=None)  # machines may be busy
@given(st.lists(PARTS, max_size=8))
def test_the_cut_into_characters_does_not_matter(pieces: list[str]) -> None:
    shown, whole = streamed(list("".join(pieces)))
    assert "".join(shown) == whole


def test_the_leading_mark_becomes_a_citation_at_the_end() -> None:
    shown, _ = streamed(["[", "2", "]", " Run", " make", " demo", "."])
    assert shown == ["", "", "", "Run", " make", " demo", ".", " [2]"]


def test_text_is_shown_at_once_not_at_the_end() -> None:
    shown, _ = streamed(["[1] First", " second", " third"])
    assert shown == ["First", " second", " third", " [1]"]


def test_a_decline_is_shown_whole_in_the_language_of_the_question() -> None:
    shown, whole = streamed(["文档没有", "回答这个问题", "。 And more."])
    assert shown == ["", "", "", DECLINE["en"]]
    assert whole == DECLINE["en"]


def test_a_beginning_like_a_decline_is_shown_once_it_differs() -> None:
    shown, _ = streamed(["The documents do not", " lie."])
    assert shown == ["", "The documents do not lie.", ""]


def test_pieces_of_another_text_are_a_fault_of_the_engine() -> None:
    text = AnswerText(RETRIEVED)
    text.feed("something")
    with pytest.raises(EngineError, match="differ"):
        text.finish(compose(RETRIEVED, Completion((), "else", "stop", 1)))
