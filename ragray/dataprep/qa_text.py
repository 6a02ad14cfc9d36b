"""Questions and answers in running text: marked blocks, and headings that are questions.

In: decoded lines or an outline. Out: `RawRow`s whose `line` is the question's first line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from ragray.dataprep.outline import Outline, Section
from ragray.dataprep.rows import TOO_LARGE, RawRow
from ragray.dataprep.sources import MAX_ROW_CHARS, CutLine

_QUESTION = re.compile(r"^\s*(?:Q|question|问题|问|提问)\s*\d*\s*[:：]\s*(.*)$", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"^\s*(?:A|answer|答案|答|回答)\s*\d*\s*[:：]\s*(.*)$", re.IGNORECASE | re.DOTALL)


class _Pair:
    """A question and its answer as their lines come in; of one that is too large, no more than needed."""

    def __init__(self, line: int, question: str, is_cut: bool) -> None:
        self._line, self._question, self._answer = line, [question], [""]
        self._part = self._question
        self._size = len(question) + is_cut * MAX_ROW_CHARS

    @property
    def is_asking(self) -> bool:
        """Whether its answer has not begun."""
        return self._part is self._question

    def begin_answer(self) -> None:
        self._part = self._answer

    def add(self, text: str, is_cut: bool) -> None:
        self._size += len(text) + is_cut * MAX_ROW_CHARS
        if self._size <= MAX_ROW_CHARS:
            self._part.append(text)

    def row(self) -> RawRow:
        question, answer = "".join(self._question), "".join(self._answer)
        if self._size > MAX_ROW_CHARS:
            return RawRow.unreadable(self._line, "too_large", TOO_LARGE, question or answer)
        return RawRow.readable(self._line, question, answer)


def qa_text_rows(lines: Iterable[tuple[int, str]]) -> Iterator[RawRow]:
    """Rows of numbered lines with `Q:` and `A:` marks, or `问：` and `答：`; both may run over several lines.

    Text outside of any pair is one unreadable row a block.
    """
    pair: _Pair | None = None
    stray = False  # whether the last lines belonged to no pair
    for number, line in lines:
        asked, answered = _QUESTION.match(line), _ANSWER.match(line)
        is_cut = isinstance(line, CutLine)
        if asked:
            if pair is not None:
                yield pair.row()
            pair, stray = _Pair(number, asked[1], is_cut), False
        elif pair is None and line.strip():
            if not stray:
                yield RawRow.unreadable(number, "broken_line", "stands before the first question", line)
            stray = True
        elif pair is None:
            stray = False
        elif answered and pair.is_asking:
            pair.begin_answer()
            pair.add(answered[1], is_cut)
        else:
            pair.add(line, is_cut)
    if pair is not None:
        yield pair.row()


def outline_rows(outline: Outline) -> Iterator[RawRow]:
    """Rows of a page or an office document: its headings are the questions, but marked pairs where it has more."""
    marks = sum(_QUESTION.match(line) is not None for _, line in outline.lines)
    headings = len(outline.sections) - 1
    return qa_text_rows(outline.lines) if marks > headings or not headings else heading_rows(outline.sections)


def heading_rows(found: Iterable[Section]) -> Iterator[RawRow]:
    """Rows of sections: each heading is a question, the text below it the answer.

    A heading with deeper headings and no text of its own is a section title and no row. The text below
    such a first heading, or before any, is a row that is no question.
    """
    for section, following in itertools.pairwise([*found, None]):
        assert section is not None  # only the last is
        has_children = following is not None and following.level > section.level
        text = "".join(section.body)
        if has_children and not text.strip():
            continue
        if section.level == 0 or (has_children and section.level == 1):
            if text.strip():
                shown = section.title + "\n" + text
                yield RawRow.unreadable(section.line, "not_a_question", "introduces the file", shown)
            continue
        yield RawRow.readable(section.line, section.title, text)
