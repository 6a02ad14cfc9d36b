"""Question-answer pairs from JSON and JSONL.

In: a file or, of JSONL, a range of its bytes. Out: rows one by one, or tables made from chunks of lines by Arrow's
parser. A chunk with anything unusual in it is read line by line, so both ways give the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ragray.config_data import ColumnsConfig
from ragray.dataprep.faq_file import FaqFile, FilePart, check_columns, row_of_object, wanted_columns
from ragray.dataprep.line_chunks import MAX_LINE_BYTES, Chunk, chunks_of
from ragray.dataprep.rows import FIELDS, TOO_LARGE, RawRow, columns_table, in_one_piece, raw_table
from ragray.dataprep.sources import MAX_ROW_CHARS, read_text
from ragray.errors import DataError

_ROWS_BEFORE_COLUMN_CHECK = 1000
_MAX_BRACKETS = 500  # of a line: Python's parser gives up where they are nested deeper than its stack
_NEWLINE, _RETURN, _OPEN, _CLOSE, _LIST = b"\n\r{}["


def json_rows(file: FaqFile) -> Iterator[RawRow]:
    """The rows of a JSON document: a list of objects, or an object that holds a single list.

    Raises:
        DataError: it is not such a document, or lacks a column.
    """
    text = read_text(file.file.path, file.encoding)
    try:
        tree = _loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file.file.source}: not valid JSON: {error}",
            f"correct the file, or set {file.setting}.format to jsonl if each line is an object",
        ) from None
    entries = _only_list(tree)
    if entries is None:
        raise DataError(
            f"{file.file.source}: holds no list of objects", 'write it like [{"question": ..., "answer": ...}]'
        )
    seen = dict.fromkeys(key for entry in entries if isinstance(entry, dict) for key in entry)
    if any(isinstance(entry, dict) for entry in entries):
        check_columns(file, seen)
    for number, entry in enumerate(entries, 1):
        row = row_of_object(entry, file.columns, number, "")
        yield row_of_object(entry, file.columns, number, _shown(entry)) if row.reason else row


def _loads(text: str) -> Any:
    """What a JSON text holds; where it has an integer too long for Python, its integers as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=str)


def _only_list(tree: object) -> list[Any] | None:
    """The list that a JSON document is, or holds as its single list."""
    if isinstance(tree, list):
        return tree
    lists = [value for value in tree.values() if isinstance(value, list)] if isinstance(tree, dict) else []
    return lists[0] if len(lists) == 1 else None


def _shown(entry: object) -> str:
    try:
        return json.dumps(entry, ensure_ascii=False)
    except RecursionError:
        return ""


class LineReader:
    """Makes rows of lines, and compares the columns once the first thousand objects are known."""

    def __init__(self, part: FilePart) -> None:
        self._file = part.file
        self._seen: dict[str, None] = {}
        self._objects = 0
        self._is_whole = part.end is None
        self.is_checked = part.start > 0  # the first part has done it

    def rows(self, chunk: Chunk) -> Iterator[RawRow]:
        """The rows of a chunk, without ordinals."""
        if chunk.is_cut:
            yield RawRow.unreadable(chunk.line, "too_large", TOO_LARGE, chunk.content[:4096].decode("utf-8", "replace"))
            return
        lines = chunk.content.split(b"\n")[:-1]
        for number, raw in enumerate(lines, chunk.line):
            line = raw.decode("utf-8", "replace")
            if len(raw) > MAX_LINE_BYTES or line.strip():
                yield self._row(line, number)

    def _row(self, line: str, number: int) -> RawRow:
        if len(line) > MAX_ROW_CHARS:
            return RawRow.unreadable(number, "too_large", TOO_LARGE, line)
        try:
            entry = _loads(line)
        except (ValueError, RecursionError) as error:
            return RawRow.unreadable(number, "broken_line", f"not a JSON object: {error}", line)
        if isinstance(entry, dict) and not self.is_checked:
            self._seen |= dict.fromkeys(entry)
            self._objects += 1
            if self._objects == _ROWS_BEFORE_COLUMN_CHECK:
                self._check()
        return row_of_object(entry, self._file.columns, number, line)

    def finish(self) -> None:
        """Compare the columns of a file with fewer objects. A first part that has fewer does not show them all.

        Raises:
            DataError: one is missing.
        """
        if self._objects and self._is_whole and not self.is_checked:
            self._check()

    def _check(self) -> None:
        check_columns(self._file, self._seen)
        self.is_checked = True


def jsonl_rows(part: FilePart) -> Iterator[RawRow]:
    """The rows of JSONL line by line, without ordinals.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    reader = LineReader(part)
    for chunk in chunks_of(part):
        yield from reader.rows(chunk)
    reader.finish()


def jsonl_tables(part: FilePart) -> Iterator[pa.Table]:
    """The same rows in tables of some megabytes each.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    reader = LineReader(part)
    for chunk in chunks_of(part):
        table = _parsed(chunk, part.file.columns) if reader.is_checked and not chunk.is_cut else None
        yield raw_table(reader.rows(chunk)) if table is None else table
    reader.finish()


def _parsed(chunk: Chunk, columns: ColumnsConfig) -> pa.Table | None:
    """The rows of a chunk by Arrow's parser; None where that might differ from reading it line by line.

    Each line opens and closes a brace and the parser finds as many objects as lines, so each line is one object.
    """
    import pyarrow.json as pajson

    ends = _tidy_ends(chunk.content)
    names = wanted_columns(columns)
    if ends is None or any("." in name for name in names):
        return None
    schema = _schema(chunk.content[: ends[0]], columns)
    if schema is None:
        return None
    try:
        table = pajson.read_json(
            pa.BufferReader(chunk.content),
            pajson.ReadOptions(use_threads=False, block_size=len(chunk.content) + 1),
            pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if len(table) != len(ends):
        return None
    found = {}
    for field in FIELDS:
        if name := getattr(columns, field):
            column = in_one_piece(table.column(name)).cast(pa.string())
            found[field] = column if field in ("question", "answer", "id") else column.fill_null("")
    return columns_table(found, pa.array(np.arange(chunk.line, chunk.line + len(ends))))


def _tidy_ends(content: bytes) -> npt.NDArray[np.int64] | None:
    """int64 [lines]: where the lines end, if each is of the form {...}, not too long, and not deeply nested."""
    signs = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(signs == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if not (signs[starts] == _OPEN).all():
        return None
    last = signs[ends - 1]
    last = np.where(last == _RETURN, signs[np.maximum(ends - 2, 0)], last)
    if not (last == _CLOSE).all():
        return None
    if (ends - starts).max() > MAX_ROW_CHARS:
        return None
    brackets = (signs == _OPEN) | (signs == _LIST)
    if np.count_nonzero(brackets) - len(ends) <= _MAX_BRACKETS:
        return ends
    return ends if np.add.reduceat(brackets, starts, dtype=np.int64).max() <= _MAX_BRACKETS else None


def _schema(first_line: bytes, columns: ColumnsConfig) -> pa.Schema | None:
    """All columns as text, but those as numbers (an id, a group) in which the first line has one."""
    names = wanted_columns(columns)
    types = dict.fromkeys(names, pa.string())
    if len(names) > 2:
        try:
            entry = json.loads(first_line)
        except (ValueError, RecursionError):
            return None
        texts = (columns.question, columns.answer)
        types |= {name: pa.int64() for name in names if name not in texts and type(entry.get(name)) is int}
    return pa.schema(list(types.items()))
