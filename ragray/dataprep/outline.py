"""The outline of a text: headings, and the lines below each.

In: lines of Markdown, or headings and lines as another format's reader finds them. Out: `Section`s in order; the
text before any heading is the first, of level 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

ANSWERED = 7  # level of a term or a summary with its explanation: deeper than any heading

_HEADING = re.compile(r" {0,3}(#{1,6})(?=\s|$)")
_HEADING_ID = re.compile(r"\{#[\w-]+\}")
_FENCE = re.compile(r"^\s*(```+|~~~+)")


class Section(NamedTuple):
    """A heading and what stands below it, up to the next."""

    line: int  # of the heading, from 1
    level: int
    title: str
    body: list[str]  # lines with their "\n"


def sections(lines: Iterable[str]) -> Iterator[Section]:
    """The sections of a Markdown text."""
    section = Section(1, 0, "", [])
    fence = ""
    for number, line in enumerate(lines, 1):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            fence = ""
        heading = None if fence else _HEADING.match(line)
        if heading is None:
            section.body.append(line)
            continue
        yield section
        section = Section(number, len(heading[1]), _title(line[heading.end() :]), [])
    yield section


def _title(text: str) -> str:
    """A heading's text without its closing marks and its id."""
    text = text.strip()
    start = text.rfind("{#")
    if start >= 0 and _HEADING_ID.fullmatch(text, start):
        text = text[:start].rstrip()
    bare = text.rstrip("#")
    return bare.rstrip() if not bare or bare[-1].isspace() else text


class Outline:
    """Sections as they are found; `lines` are all lines in order with their places, titles included."""

    def __init__(self) -> None:
        self.sections = [Section(1, 0, "", [])]
        self.lines: list[tuple[int, str]] = []
        self._current = self.sections[0]

    def heading(self, place: int, level: int, title: str) -> None:
        """Begin a section; one without a title is none."""
        if title:
            self._current = Section(place, level, title, [])
            self.sections.append(self._current)
            self.lines.append((place, title + "\n"))

    def line(self, place: int, text: str) -> None:
        """Add a line, given without its "\\n", to the section at hand; never two blank lines in a row."""
        body = self._current.body
        if text or (body and body[-1] != "\n"):
            body.append(text + "\n")
            self.lines.append((place, text + "\n"))

    @property
    def current(self) -> Section:
        """The section at hand."""
        return self._current

    def go_back(self, section: Section) -> None:
        """Let following lines belong to an earlier section."""
        self._current = section


def fenced(code: str) -> list[str]:
    """The lines of code between fences that it does not hold itself."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *code.strip("\n").split("\n"), fence]


def table_row(cells: Iterable[str]) -> str:
    """A row of a table on one line."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
