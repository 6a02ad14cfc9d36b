"""The text of an answer while it is still being made.

In: pieces of the model's text. Out: what a reader may see of them, so that all of it joined equals
`compose(...).text`: the leading mark of the passage becomes a citation at the end, marks of passages that
were not shown are dropped, and what may still turn out to be a decline or a mark is held back.
"""

from __future__ import annotations

import re

from ragray.engine.assistant import Answer, Retrieved, compose
from ragray.engine.protocol import Completion
from ragray.errors import EngineError
from ragray.prompt import DECLINE, parse_answer

_LAST_MARKS = re.compile(r"(\s*\[\d{0,2}\]?)*\s*$")  # whole or begun; compose puts the citation after them
_SENTENCES = tuple(sentence.rstrip(".。") for sentence in DECLINE.values())


class AnswerText:
    """One answer's text, given piece by piece."""

    def __init__(self, retrieved: Retrieved) -> None:
        self._retrieved = retrieved
        self._raw = ""
        self._shown = ""

    def feed(self, piece: str) -> str:
        """The text that a further piece of the model's text makes certain."""
        self._raw += piece
        body = parse_answer(self._raw).text
        if any(sentence.startswith(body) or body.startswith(sentence) for sentence in _SENTENCES):
            return ""
        so_far = compose(self._retrieved, Completion((), self._raw, "stop", 0))
        return self._show(_LAST_MARKS.sub("", so_far.text))

    def finish(self, answer: Answer) -> str:
        """The rest of the whole answer's text.

        Raises:
            EngineError: the pieces were not those of this answer.
        """
        if not answer.text.startswith(self._shown):
            raise EngineError("the engine's pieces differ from its answer", "report this as a defect of ragray")
        return self._show(answer.text)

    def _show(self, text: str) -> str:
        more = text[len(self._shown) :]
        self._shown = text
        return more
