"""HTML pages as outlines.

In: the text of a page. Out: an `Outline` whose sections are its headings, its terms (dt) and its summaries; code is
fenced, lists keep their marks, a table's row is one line. Scripts, navigation and forms are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ragray.dataprep.outline import ANSWERED, Outline, Section, fenced, table_row

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_LEFT_OUT = frozenset(
    {"head", "script", "style", "noscript", "template", "svg", "math", "nav", "footer", "button", "select",
     "textarea", "iframe", "object"}
)  # fmt: skip
_LEVELS = {f"h{n}": n for n in range(1, 7)} | {"dt": ANSWERED, "summary": ANSWERED}
_SPACED = frozenset(
    {"p", "ul", "ol", "dl", "dd", "table", "blockquote", "pre", "details", "article", "section", "figure"}
)
_BLOCKS = _SPACED | frozenset(
    {"div", "li", "tr", "caption", "address", "aside", "header", "main", "hr", "figcaption", "body", "form", "fieldset"}
)
_MARKED = re.compile(r"\n|<(?:h[1-6]|dt|summary|p|li|div|tr|pre)(?=[\s/>])", re.IGNORECASE)
_PLACE = "data-ragray-line"


def page_outline(text: str) -> Outline:
    """The outline of an HTML page; places are lines of its source."""
    from selectolax.lexbor import LexborHTMLParser

    writer = _Writer()
    root = LexborHTMLParser(_with_places(text)).root
    for node, entered in _walk(root) if root is not None else ():
        if entered:
            writer.enter(node)
        else:
            writer.leave(node.tag or "")
    writer.flush()
    return writer.outline


def _with_places(text: str) -> str:
    """The source with its line numbers as attributes of what may begin a section or a line: the parser keeps none."""
    number = 1
    parts: list[str] = []
    last = 0
    for match in _MARKED.finditer(text):
        if match[0] == "\n":
            number += 1
            continue
        parts += [text[last : match.end()], f" {_PLACE}={number}"]
        last = match.end()
    return "".join([*parts, text[last:]])


def _walk(root: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Each node when it is entered and when it is left. Not by recursion: pages may be nested without limit."""
    stack = [(root, True)]
    while stack:
        node, entered = stack.pop()
        if entered and node.tag in _LEFT_OUT:
            continue
        yield node, entered
        if not entered:
            continue
        stack.append((node, False))
        children = []
        child = node.child
        while child is not None:
            children.append((child, True))
            child = child.next
        stack.extend(reversed(children))


class _Writer:
    """Collects text where it belongs: a line, a title, a cell, or code."""

    def __init__(self) -> None:
        self.outline = Outline()
        self._place = 1
        self._text: list[str] = []  # of the line, title, cell or code at hand
        self._title_place = 0  # > 0 within a title
        self._cells: list[str] | None = None  # within a table's row
        self._lists: list[int] = []  # number of the next item of each open list, 0: without numbers
        self._mark = ""  # of the list item whose first line is not written yet
        self._returns: list[Section] = []
        self._in_code = 0

    def enter(self, node: LexborNode) -> None:
        """Begin what a node opens, or take the text that it is."""
        tag = node.tag or ""
        if tag == "-text":
            self._text.append(node.text_content or "")
            return
        place = (node.attributes.get(_PLACE) or "") if tag[:1] != "-" else ""
        if tag in _LEVELS and not self._title_place and self._cells is None:
            self.flush()
            self._place = self._title_place = int(place) if place.isdecimal() else self._place
        elif tag in _BLOCKS:
            self._break()
            self._place = int(place) if place.isdecimal() else self._place
        self._open(node, tag)

    def _open(self, node: LexborNode, tag: str) -> None:
        if tag == "br":
            self._text.append("\n")
        elif tag in ("dl", "details"):
            self._returns.append(self.outline.current)
        elif tag in ("ul", "ol"):
            self._lists.append(1 if tag == "ol" else 0)
        elif tag == "li":
            self._mark = self._next_mark()
        elif tag == "tr" and self._cells is None and not self._title_place:
            self._cells = []
        elif tag == "pre" and self._is_free():
            self._in_code += 1
        elif tag in ("code", "kbd", "samp") and not self._in_code:
            self._text.append("`")

    def leave(self, tag: str) -> None:
        """End what a node opened."""
        if tag in _LEVELS and self._title_place:
            title = " ".join("".join(self._text).split())
            self.outline.heading(self._title_place, _LEVELS[tag], title)
            self._text, self._title_place = [], 0
        elif tag in ("td", "th") and self._cells is not None:
            self._cells.append("".join(self._text))
            self._text = []
        elif tag == "tr" and self._cells is not None:
            cells, self._cells, self._text = self._cells, None, []
            if any(cell.strip() for cell in cells):
                self.outline.line(self._place, table_row(cells))
        elif tag == "pre" and self._in_code:
            self._write_code()
        elif tag in ("code", "kbd", "samp") and not self._in_code:
            self._text.append("`")
        elif tag in _BLOCKS:
            self._close(tag)

    def _close(self, tag: str) -> None:
        self._break()
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        if tag in ("ul", "ol", "li"):
            self._mark = ""
        if tag in _SPACED and self._is_free() and not self._lists:
            self.outline.line(self._place, "")
        if tag in ("dl", "details") and self._returns:
            self.outline.go_back(self._returns.pop())

    def flush(self) -> None:
        """Write the lines at hand."""
        for line in "".join(self._text).replace("``", "").split("\n") if self._text else ():
            if words := " ".join(line.split()):
                self.outline.line(self._place, self._mark + words)
                self._mark = " " * len(self._mark) if self._lists else ""
        self._text = []

    def _break(self) -> None:
        """A block begins or ends: a new line, but within a title or a cell only a space."""
        if self._is_free() and not self._in_code:
            self.flush()
        else:
            self._text.append("\n" if self._in_code else " ")

    def _is_free(self) -> bool:
        return self._cells is None and not self._title_place

    def _next_mark(self) -> str:
        depth = len(self._lists)
        number = self._lists[-1] if depth else 0
        if number:
            self._lists[-1] += 1
        return "  " * max(0, depth - 1) + (f"{number}. " if number else "- ")

    def _write_code(self) -> None:
        self._in_code -= 1
        code, self._text = "".join(self._text), []
        if not self._in_code and code.strip():
            for line in fenced(code):
                self.outline.lines.append((self._place, line + "\n"))
                self.outline.current.body.append(line + "\n")
