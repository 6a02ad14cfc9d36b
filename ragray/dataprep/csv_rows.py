"""Question-answer pairs from CSV and TSV.

In: a file. Out: rows one by one, or tables made from thousands of lines at once. Lines in which anything is unusual
are read row by row, so both ways give the same rows.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ragray.dataprep.faq_file import FaqFile, check_columns, row_of_values
from ragray.dataprep.rows import FIELDS, TOO_LARGE, RawRow, columns_table, raw_table
from ragray.dataprep.sources import MAX_ROW_CHARS, CutLine, lines_of

_MAX_LINES_OF_A_ROW = 1000  # with line breaks in it; an open quote must not swallow the file
_LINES_AT_ONCE = 8192
_CHARS_AT_ONCE = 2 << 20


class _Lines:
    """Decoded lines that can be given back, numbered from 1."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._returned: deque[str] = deque()
        self.number = 1  # of the next line

    def take(self) -> str:
        """The next line, or "" at the end."""
        line = self._returned.popleft() if self._returned else next(self._lines, "")
        self.number += bool(line)
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)

    def take_many(self) -> list[str]:
        """The next lines, up to some thousands or some megabytes."""
        taken: list[str] = []
        size = 0
        while len(taken) < _LINES_AT_ONCE and size < _CHARS_AT_ONCE and (line := self.take()):
            taken.append(line)
            size += len(line)
        return taken


class CsvReader:
    """Reads one file.

    A row may span lines inside quotes, if it then has as many fields as the header. Where it has not, or
    a quote is never closed, only its first line is given up, and reading goes on with the next: one stray
    quote must not swallow the rows after it.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """

    def __init__(self, file: FaqFile, delimiter: str) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW_CHARS))  # of the process; it never shrinks
        self._file, self._delimiter = file, delimiter
        self._lines = _Lines(lines_of(file.file.path, file.encoding))
        header = None
        while header is None and (found := self._next_row(0)):
            header = found[1]
        self._names = [name.strip() for name in header or []]
        check_columns(file, self._names)

    def rows(self) -> Iterator[RawRow]:
        """All rows after the header, without ordinals."""
        while row := self._row():
            yield row

    def tables(self) -> Iterator[pa.Table]:
        """The same rows in tables of some thousands."""
        while lines := self._lines.take_many():
            first = self._lines.number - len(lines)
            found, used = self._parsed(lines, first)
            self._lines.give_back(lines[used:])
            if found is not None:
                yield found
                continue
            yield raw_table(self._rows_before(first + len(lines)))

    def _rows_before(self, end: int) -> Iterator[RawRow]:
        """The rows that begin before a line, but for blank lines."""
        while self._lines.number < end and (row := self._row()):
            yield row

    def _row(self) -> RawRow | None:
        found = self._next_row(len(self._names))
        if found is None:
            return None
        line, cells, text = found
        if isinstance(text, CutLine):
            return RawRow.unreadable(line, "too_large", TOO_LARGE, text)
        if cells is None:
            return RawRow.unreadable(line, "broken_line", "its quotes do not match", text)
        if len(cells) != len(self._names):
            return RawRow.unreadable(line, "bad_row", f"has {len(cells)} fields, the header {len(self._names)}", text)
        return row_of_values(dict(zip(self._names, cells, strict=True)), self._file.columns, line, text)

    def _next_row(self, width: int) -> tuple[int, list[str] | None, str] | None:
        """(first line, fields or None where its quotes do not match, text of its first line); None at the end."""
        first = self._lines.take()
        while first and not first.strip():
            first = self._lines.take()
        if not first:
            return None
        number, taken = self._lines.number - 1, [first]
        cells, is_open = (None, False) if isinstance(first, CutLine) else _parse(first, self._delimiter)
        size = len(first)
        while is_open and len(taken) < _MAX_LINES_OF_A_ROW and size <= MAX_ROW_CHARS:
            following = self._lines.take()
            if not following:
                break
            taken.append(following)
            size += len(following)
            if '"' in following:
                cells, is_open = _parse("".join(taken), self._delimiter)
        if is_open or (len(taken) > 1 and width and len(cells or []) != width):
            cells = None
        if cells is None:
            self._lines.give_back(taken[1:])
        return number, cells, first

    def _parsed(self, lines: list[str], number: int) -> tuple[pa.Table | None, int]:
        """The rows of these lines, and how many lines they are; (None, 0) where any of them is unusual.

        A row that goes on after the last line is left out.
        """
        width = len(self._names)
        blank = self._delimiter.isspace() and any(line.isspace() for line in lines)  # tabs alone are no row
        if width < 2 or blank or any(isinstance(line, CutLine) for line in lines):
            return None, 0
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        rows: list[list[str]] = []
        ends = [0]
        try:
            for cells in reader:
                if len(cells) != width:
                    return None, 0
                rows.append(cells)
                ends.append(reader.line_num)
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                return None, 0
        chars = np.concatenate(([0], np.cumsum([len(line) for line in lines])))[ends]
        if not rows or np.diff(ends).max() > _MAX_LINES_OF_A_ROW or np.diff(chars).max() > MAX_ROW_CHARS:
            return None, 0
        place = {name: n for n, name in enumerate(self._names)}  # of two columns of one name, the last
        fields = {field: getattr(self._file.columns, field) for field in FIELDS}
        values = list(zip(*rows, strict=True))
        if any(name is not None and name not in place for name in fields.values()):
            return None, 0
        arrays = {field: pa.array(values[place[name]], pa.string()) for field, name in fields.items() if name}
        table = columns_table(arrays, pa.array(np.array(ends[:-1], np.int64) + number))
        return (table, ends[-1]) if table is not None else (None, 0)


def _parse(text: str, delimiter: str) -> tuple[list[str] | None, bool]:
    """The fields of one row, or None; and whether a quote is still open at its end."""
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return None, "unexpected end of data" in str(error)
    return (rows[0] if len(rows) == 1 else None), False
