"""Stop strings: one law for every cut into pieces, the engine stops, tokens are those that were needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragray.engine.protocol import Completion
from ragray.serve.stopping import StoppingHandle, place_of_stop

PARTS = st.sampled_from(["[1]", "[2] ", "[", "]", " ", "\n", "a", "b", "ab", "bc", "abcd", "好。", "。"])
STOPS = st.lists(st.sampled_from(["a", "bc", "abcd", "\n\n", "。", "[", "] "]), min_size=1, max_size=4)


@dataclass
class Pieces:
    """A handle that hands out given pieces, and goes on for one more after a cancel as engines do."""

    pieces: list[str]
    cancelled: bool = False
    at: int = field(default=0)

    def read(self, timeout_s: float | None = None) -> str | None:
        if self.at == len(self.pieces):
            return None
        self.at += 1
        return self.pieces[self.at - 1]

    def listen(self, listener: Callable[[str | None], None]) -> None:
        while (piece := self.read()) is not None:
            listener(piece)
        listener(None)

    def cancel(self) -> None:
        self.pieces = self.pieces[: self.at + 1]
        self.cancelled = True

    def completion(self) -> Completion:
        reason = "cancelled" if self.cancelled else "length"
        return Completion(tuple(range(self.at)), "".join(self.pieces[: self.at]), reason, 7)  # type: ignore[arg-type]


class Letters:
    """A tokenizer of which token n is the n-th piece."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = list(pieces)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return "".join(self._pieces[n] for n in ids)


def hear(pieces: list[str], stops: Sequence[str]) -> tuple[list[str], Completion, Pieces]:
    inner = Pieces(list(pieces))
    handle = StoppingHandle(inner, stops, Letters(pieces))  # type: ignore[arg-type]
    heard: list[str | None] = []
    handle.listen(heard.append)
    assert heard.pop() is None
    return [piece for piece in heard if piece is not None], handle.completion(), inner


def read(pieces: list[str], stops: Sequence[str]) -> tuple[list[str], Completion, Pieces]:
    inner = Pieces(list(pieces))
    handle = StoppingHandle(inner, stops, Letters(pieces))  # type: ignore[arg-type]
    given_out = []
    while (piece := handle.read()) is not None:
        given_out.append(piece)
    return given_out, handle.completion(), inner


@settings(deadline=None)  # machines may be busy
@given(st.lists(PARTS, max_size=10), STOPS)
@example(["[", "1", "] ", "a", "b", "c", "d"], ["abcd", "bc"])
@example(["[", "1"], ["["])
def test_the_cut_into_pieces_does_not_matter(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    place = place_of_stop(text, stops)
    expected = text if place is None else text[:place]
    for cut in (pieces, list(text), [text]):
        given_out, completion, inner = read(cut, stops)
        assert hear(cut, stops)[:2] == (given_out, completion)
        assert "".join(given_out) == expected == completion.text
        assert completion.finish_reason == ("length" if place is None else "stop")
        assert inner.cancelled == (place is not None)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("[1] Run make. Then wait.", ["."], "[1] Run make"),
        ("[1] Run make.", ["["], "[1] Run make."),  # the mark at the front is not the answer's text
        ("Run [1] make.", ["["], "Run "),
        ("[1] abcd", ["abcd", "bc"], "[1] a"),  # "bc" is complete first
        ("[1] abc", ["abc", "c"], "[1] "),  # both end together: the longer one
        ("  Run\n\nmore", ["\n"], "  Run"),
        ("[1] 好。再见。", ["。再"], "[1] 好"),
        ("[1]", ["1"], "[1]"),
    ],
)
def test_the_text_ends_before_the_stop_that_is_complete_first(text: str, stops: list[str], expected: str) -> None:
    given_out, completion, _ = read(list(text), stops)
    assert "".join(given_out) == completion.text == expected


def test_tokens_are_counted_up_to_the_one_that_completed_the_stop() -> None:
    _, completion, _ = read(["[1] ", "x", "a", "b", "y", "z"], ["ab"])
    assert completion.token_ids == (0, 1, 2, 3)
    assert completion.prompt_tokens == 7


def test_what_cannot_begin_a_stop_is_given_at_once() -> None:
    given_out, _, _ = read(["[1] ", "Run", " make", " a", "nd", "."], [" and"])
    assert given_out == ["[1] Run", " make"]


def test_a_real_engine_stops_early_and_the_usage_is_that_of_the_text(model_folder: Path) -> None:
    from ragray.engine.protocol import SamplingParams
    from ragray.engine.transformers_runtime import load_model_folder

    engine = load_model_folder(model_folder, batch_size=2, threads=1)
    params = SamplingParams(max_new_tokens=24)
    try:
        plain = engine.submit([5, 6, 7], params).completion()
        text = plain.text.strip()
        stop = text[len(text) // 2 :][:2]  # what it writes halfway
        handle = StoppingHandle(engine.submit([5, 6, 7], params), [stop], engine.tokenizer)
        pieces = []
        while (piece := handle.read()) is not None:
            pieces.append(piece)
        cut = handle.completion()
    finally:
        engine.close()
    assert "".join(pieces) == cut.text == plain.text[: plain.text.index(stop)]
    assert cut.finish_reason == "stop" and 0 < len(cut.token_ids) < len(plain.token_ids)
    assert cut.token_ids == plain.token_ids[: len(cut.token_ids)]
