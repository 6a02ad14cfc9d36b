"""Word documents and PDFs as outlines.

In: the bytes of a file. Out: an `Outline`. A DOCX tells its headings, lists and tables by its styles; places are
paragraphs. A PDF has none of these: what is set larger than the body is a heading, and lines whose parts stand apart
are rows of a table; places are pages.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ragray.dataprep.outline import Outline, fenced, table_row
from ragray.dataprep.pages import page_outline
from ragray.dataprep.sources import MAX_WHOLE_BYTES, Place, page_text, read_bytes
from ragray.errors import DataError

if TYPE_CHECKING:
    from docx.document import Document
    from docx.text.paragraph import Paragraph

_HEADING_STYLE = re.compile(r"heading\s*([1-9])", re.IGNORECASE)
_CODE_STYLE = re.compile(r"code|preformatted|verbatim", re.IGNORECASE)
_LARGER = 1.15  # times the body's size: a heading
_MAX_HEADING_CHARS = 200
_MAX_HEADING_SIZES = 6
_SAME_LINE = 0.4  # of the type size: texts whose baselines differ by less stand on one line
_APART = 2.0  # type sizes between two texts of one line: cells of a table


def outline_of(path: Place, format: str, encoding: str) -> Outline:
    """The outline of a file of one of the formats html, docx and pdf.

    Raises:
        DataError: the file cannot be read.
    """
    if format == "html":
        return page_outline(page_text(path, encoding))
    reader = pdf_outline if format == "pdf" else docx_outline
    return reader(read_bytes(path), str(path))


def docx_outline(content: bytes, source: str) -> Outline:
    """The outline of a Word document.

    Raises:
        DataError: it is damaged, or unpacks to more than `MAX_WHOLE_BYTES`.
    """
    outline = Outline()
    for place, item in enumerate(_open_docx(content, source).iter_inner_content(), 1):
        if hasattr(item, "rows"):
            for row in item.rows:
                cells = list(dict.fromkeys((cell._tc, cell.text) for cell in row.cells))  # merged cells come repeatedly
                outline.line(place, table_row(text for _, text in cells))
            outline.line(place, "")
        else:
            _write_paragraph(outline, place, item)
    return outline


def _open_docx(content: bytes, source: str) -> Document:
    import docx

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > MAX_WHOLE_BYTES:
            raise DataError(f"{source}: unpacks to {unpacked >> 20:,} MiB", "divide the document")
        return docx.Document(io.BytesIO(content))
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  (the parsers below raise errors of many kinds for damaged files)
        raise DataError(f"{source}: not a readable DOCX file: {error}", "save the document again") from None


def _write_paragraph(outline: Outline, place: int, paragraph: Paragraph) -> None:
    text = paragraph.text.strip()
    style = str(paragraph.style.name or "") if paragraph.style is not None else ""
    level = _level(paragraph, style)
    if level:
        outline.heading(place, level, " ".join(text.split()))
    elif _CODE_STYLE.search(style):
        for line in fenced(paragraph.text) if text else ():
            outline.line(place, line)
    elif "list" in style.lower() or _properties(paragraph, "numPr"):
        outline.line(place, f"- {text}" if text else "")
    else:
        for line in text.split("\n"):
            outline.line(place, line.strip())
        outline.line(place, "")


def _level(paragraph: Paragraph, style: str) -> int:
    """The level of a heading, 0 for other text; a style's name may be translated, its outline level is not."""
    named = _HEADING_STYLE.match(style)
    if named or style == "Title":
        return min(int(named[1]), 6) if named else 1
    found: list[Any] = _properties(paragraph, "outlineLvl")
    level = int(found[0]) if found and str(found[0]).isdecimal() else 9
    return level + 1 if level < 6 else 0


def _properties(paragraph: Paragraph, name: str) -> list[Any]:
    """The values of a property of a paragraph or of its style."""
    elements = [paragraph._p, *([paragraph.style.element] if paragraph.style is not None else [])]
    values = []
    for element in elements:
        for found in element.xpath(f"./w:pPr/w:{name}"):
            values.append(next(iter(found.attrib.values()), ""))
    return values


class _Piece(NamedTuple):
    """A piece of text on a page: where its baseline starts, and its size; all in points."""

    x: float
    y: float
    size: float
    text: str


class _Line(NamedTuple):
    page: int
    size: float
    cells: list[str]
    gap: float  # to the line above, in type sizes


def pdf_outline(content: bytes, source: str) -> Outline:
    """The outline of a PDF.

    Raises:
        DataError: it is damaged, or asks for a password.
    """
    lines = list(_pdf_lines(content, source))
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += sum(map(len, line.cells))
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    larger = sorted((size for size in sizes if size >= _LARGER * body), reverse=True)[:_MAX_HEADING_SIZES]
    outline = Outline()
    for line in lines:
        text = " ".join(line.cells)
        if line.size in larger and len(text) <= _MAX_HEADING_CHARS:
            outline.heading(line.page, larger.index(line.size) + 1, text)
        else:
            if line.gap > 2.0:
                outline.line(line.page, "")
            outline.line(line.page, table_row(line.cells) if len(line.cells) > 1 else text)
    return outline


def _pdf_lines(content: bytes, source: str) -> Iterator[_Line]:
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{source}: asks for a password", "save it without one")
        for number, page in enumerate(reader.pages, 1):
            pieces: list[_Piece] = []
            page.extract_text(visitor_text=_collector(pieces))
            yield from _lines_of_page(number, pieces)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  (pypdf raises errors of many kinds for damaged files)
        raise DataError(f"{source}: not a readable PDF file: {error}", "save the document again") from None


def _collector(pieces: list[_Piece]) -> Callable[[str, Any, Any, Any, Any], None]:
    def collect(text: str, page: Any, at: Any, font: Any, size: Any) -> None:
        if text.strip():
            scale = abs(at[3] * page[3]) or 1.0
            x, y = (at[4] * page[0] + at[5] * page[2] + page[4], at[4] * page[1] + at[5] * page[3] + page[5])
            pieces.append(_Piece(x, y, round(float(size) * scale, 1), text))

    return collect


def _lines_of_page(number: int, pieces: list[_Piece]) -> Iterator[_Line]:
    """Pieces in the order of the page's own text, joined to lines; a line's parts that stand apart are cells."""
    held: list[_Piece] = []
    above: float | None = None
    for piece in [*pieces, None]:
        if piece is not None and (not held or abs(piece.y - held[-1].y) < _SAME_LINE * max(piece.size, 1.0)):
            held.append(piece)
            continue
        if held:
            size = max(part.size for part in held)
            gap = abs(above - held[0].y) / max(size, 1.0) if above is not None else 0.0
            above = held[0].y
            for cells in _cells(held):
                yield _Line(number, size, cells, gap)
        held = [piece] if piece is not None else []


def _cells(pieces: list[_Piece]) -> Iterator[list[str]]:
    """The texts of a line, apart where they stand apart; a piece may hold lines of its own."""
    cells: list[str] = []
    end = None
    for piece in pieces:
        width = sum(1.0 if ord(char) > 0x2E80 else 0.5 for char in piece.text.strip()) * piece.size
        if end is not None and piece.x - end < _APART * piece.size and cells:
            cells[-1] += piece.text
        else:
            cells.append(piece.text)
        end = piece.x + width
    if len(cells) == 1:
        for line in cells[0].split("\n"):
            if line.strip():
                yield [" ".join(line.split())]
    else:
        yield [" ".join(cell.split()) for cell in cells]
