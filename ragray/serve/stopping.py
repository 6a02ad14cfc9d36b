"""Stop strings: an answer ends before the first of them, and the engine stops there.

In: the handle of a running request. Out: a handle of the same kind whose text is cut, also where a stop string spans
several pieces. The mark of the passage that an answer opens with, such as `[1]`, is not searched.

Of several stop strings the one that is complete first counts, the longest of those that end together: so the cut does
not depend on how the text came in pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ragray.engine.protocol import Completion, Handle
from ragray.engine.tokens import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPENING = re.compile(r"\s*(?:\[\d{1,2}\]\s*)?")
_MAY_OPEN = re.compile(r"\s*(?:\[\d{0,2}|\[\d{1,2}\]\s*)?")  # whole texts that more text may make an opening


def place_of_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the text ends, characters; None without a stop string in it, or while it is only an opening mark."""
    if _MAY_OPEN.fullmatch(text):
        return None
    begin = _opening(text)
    found = [(place + len(stop), place) for stop in stops if (place := text.find(stop, begin)) >= 0]
    return min(found)[1] if found else None


class StoppingHandle:
    """A request that ends before the first of its stop strings; see `protocol.Handle`.

    Args:
        handle: the running request.
        stops: strings, none empty.
        tokenizer: the model's, to count the tokens that were needed.
    """

    def __init__(self, handle: Handle, stops: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self._handle = handle
        self._stops = tuple(stops)
        self._tokenizer = tokenizer
        self._text = ""
        self._given = 0
        self._stopped = False

    def read(self, timeout_s: float | None = None) -> str | None:
        """The next piece of text in which no stop string can have begun; None at the end."""
        while (piece := self._handle.read(timeout_s)) is not None:
            if more := self._take(piece):
                return more
        return self._rest()

    def listen(self, listener: Callable[[str | None], None]) -> None:
        """Give the listener each piece in which no stop string can have begun, and None at the end."""

        def take(piece: str | None) -> None:
            if more := self._rest() if piece is None else self._take(piece):
                listener(more)
            if piece is None:
                listener(None)

        self._handle.listen(take)

    def cancel(self) -> None:
        """Stop generating."""
        self._handle.cancel()

    def completion(self) -> Completion:
        """The whole, cut; its tokens are those up to the one that completed the stop string."""
        whole = self._handle.completion()
        place = place_of_stop(whole.text, self._stops)
        if place is None:
            return whole
        return replace(whole, text=whole.text[:place], token_ids=self._needed(whole.token_ids), finish_reason="stop")

    def _take(self, piece: str) -> str | None:
        """What a further piece makes certain; nothing of one that was written before the engine heard of the stop."""
        if self._stopped:
            return None
        self._text += piece
        place = place_of_stop(self._text, self._stops)
        if place is not None:
            self._stopped = True
            self._handle.cancel()
        return self._give(self._certain() if place is None else place)

    def _rest(self) -> str | None:
        return None if self._stopped else self._give(len(self._text))

    def _give(self, end: int) -> str | None:
        more = self._text[self._given : end]
        self._given = max(self._given, end)
        return more or None

    def _certain(self) -> int:
        """How much of the text no stop string can cut, whatever follows."""
        if _MAY_OPEN.fullmatch(self._text):
            return 0
        begin = _opening(self._text)
        longest = max(map(len, self._stops))
        for place in range(max(begin, len(self._text) - longest + 1), len(self._text)):
            if any(stop.startswith(self._text[place:]) for stop in self._stops):
                return place
        return len(self._text)

    def _needed(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The fewest of the first tokens whose text has a stop string."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if place_of_stop(decode(self._tokenizer, tokens[:middle]), self._stops) is None:
                low = middle + 1
            else:
                high = middle
        return tokens[:low]


def _opening(text: str) -> int:
    """Where the answer's own text begins, behind white space and the mark of a passage."""
    found = _OPENING.match(text)
    return found.end() if found else 0
