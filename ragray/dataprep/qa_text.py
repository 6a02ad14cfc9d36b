"""Questions and answers in running text: marked blocks, and Markdown with questions as headings.

In: decoded lines. Out: `RawRow`s whose `line` is the question's first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ragray.dataprep.rows import RawRow

_QUESTION = re.compile(r"^\s*(?:Q|question|问题|问|提问)\s*\d*\s*[:：]\s*(.*)$", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"^\s*(?:A|answer|答案|答|回答)\s*\d*\s*[:：]\s*(.*)$", re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*(?:\{#[\w-]+\})?\s*$", re.DOTALL)
_FENCE = re.compile(r"^\s*(```+|~~~+)")


def qa_text_rows(lines: Iterable[str]) -> Iterator[RawRow]:
    """Rows of a text with `Q:` and `A:` marks, or `问：` and `答：`; both may run over several lines.

    Text outside of any pair is one unreadable row a block.
    """
    start, question, answer = 0, [""], [""]
    part: list[str] | None = None  # where the next line belongs
    stray = False  # whether the last lines belonged to no pair
    for number, line in enumerate(lines, 1):
        asked, answered = _QUESTION.match(line), _ANSWER.match(line)
        if asked:
            if part is not None:
                yield RawRow.readable(start, "".join(question), "".join(answer))
            start, question, answer = number, [asked[1]], []
            part, stray = question, False
        elif part is None and line.strip():
            if not stray:
                yield RawRow.unreadable(number, "broken_line", "stands before the first question", line)
            stray = True
        elif part is None:
            stray = False
        elif answered and part is question:
            answer.append(answered[1])
            part = answer
        else:
            part.append(line)
    if part is not None:
        yield RawRow.readable(start, "".join(question), "".join(answer))


def markdown_rows(lines: Iterable[str]) -> Iterator[RawRow]:
    """Rows of a Markdown file: each heading is a question, the text below it the answer.

    A heading with deeper headings and no text of its own is a section title and no row. The text below
    such a first heading, or before any, is a row that is no question.
    """
    found = list(sections(lines))
    for n, (line, level, title, body) in enumerate(found):
        has_children = n + 1 < len(found) and found[n + 1][1] > level
        text = "".join(body)
        if has_children and not text.strip():
            continue
        if level == 0 or (has_children and level == 1):
            if text.strip():
                yield RawRow.unreadable(line, "not_a_question", "introduces the file", title + "\n" + text)
            continue
        yield RawRow.readable(line, title, text)


def sections(lines: Iterable[str]) -> Iterator[tuple[int, int, str, list[str]]]:
    """(line, level, title, body lines) of each Markdown heading; first, as level 0, the text before any."""
    section: tuple[int, int, str, list[str]] = (1, 0, "", [])
    fence = ""
    for number, line in enumerate(lines, 1):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            fence = ""
        heading = None if fence else _HEADING.match(line)
        if heading is None:
            section[3].append(line)
            continue
        yield section
        section = (number, len(heading[1]), (heading[2] or "").strip(), [])
    yield section
