"""Reading question-answer pairs from files of seven formats.

In: one input file and its settings. Out: `RawRow`s in file order, the unreadable ones with a reason, so
that every row of the file is accounted for. A file as a whole fails only where nothing in it can be
trusted: wrong columns, invalid JSON, unreadable.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ragray.config import ColumnsConfig, FaqSourceConfig
from ragray.dataprep.qa_text import markdown_rows, qa_text_rows
from ragray.dataprep.rows import RawRow
from ragray.dataprep.sources import InputFile, check_readable, ending_of, expand, lines_of, read_text, unique_labels
from ragray.errors import DataError

FORMAT_OF_ENDING = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "qa_text",
    ".md": "markdown",
}

_MAX_LINES_OF_A_ROW = 1000  # of a CSV row with line breaks; an open quote must not swallow the file
_ROWS_BEFORE_COLUMN_CHECK = 1000


@dataclass(frozen=True, slots=True)
class FaqFile:
    """One file of question-answer pairs with all that is needed to read it."""

    file: InputFile
    setting: str  # dotted name of its source, such as "data.faq.0"
    format: str
    encoding: str
    columns: ColumnsConfig


def faq_files(sources: Collection[FaqSourceConfig]) -> list[FaqFile]:
    """All files that the configuration names, in the order of the sources and sorted within each.

    Raises:
        DataError: a file is missing, empty, unreadable, of unknown format, or named twice.
    """
    found: list[tuple[Path, str, FaqSourceConfig]] = []
    owners: dict[Path, str] = {}
    for n, source in enumerate(sources):
        setting = f"data.faq.{n}"
        for path in expand(source.path, tuple(FORMAT_OF_ENDING), f"{setting}.path"):
            if path.resolve() in owners:
                raise DataError(
                    f"{path}: named by {owners[path.resolve()]} and by {setting}", f"narrow {setting}.path or remove it"
                )
            owners[path.resolve()] = setting
            check_readable(path)
            found.append((path, setting, source))
    labels = unique_labels([path for path, _, _ in found])
    return [
        FaqFile(
            InputFile(path, str(path), label), setting, _format(path, source, setting), source.encoding, source.columns
        )
        for (path, setting, source), label in zip(found, labels, strict=True)
    ]


def read_rows(file: FaqFile) -> Iterator[RawRow]:
    """The rows of a file in order, numbered from 1, the unreadable ones included.

    Raises:
        DataError: the file cannot be read, or does not have the columns.
    """
    rows = _READERS[file.format](file)
    return (replace(row, ordinal=ordinal) for ordinal, row in enumerate(rows, 1))


def _format(path: Path, source: FaqSourceConfig, setting: str) -> str:
    if source.format != "auto":
        return source.format
    try:
        return FORMAT_OF_ENDING[ending_of(path)]
    except KeyError:
        raise DataError(
            f"{path}: its ending does not tell the format",
            f"set {setting}.format to one of {', '.join(sorted(set(FORMAT_OF_ENDING.values())))}",
        ) from None


def _jsonl(file: FaqFile) -> Iterator[RawRow]:
    seen: set[str] = set()
    rows = 0
    for number, line in enumerate(lines_of(file.file.path, file.encoding), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield RawRow.unreadable(number, "broken_line", f"not a JSON object: {error}", line)
            continue
        if isinstance(entry, dict):
            seen.update(entry)
            rows += 1
            if rows == _ROWS_BEFORE_COLUMN_CHECK:
                _check_columns(file, seen)
        yield _row_of_object(entry, file.columns, number, line)
    if 0 < rows < _ROWS_BEFORE_COLUMN_CHECK:
        _check_columns(file, seen)


def _json(file: FaqFile) -> Iterator[RawRow]:
    text = read_text(file.file.path, file.encoding)
    try:
        tree = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{file.file.source}: not valid JSON: {error}",
            f"correct the file, or set {file.setting}.format to jsonl if each line is an object",
        ) from None
    entries = _only_list(tree)
    if entries is None:
        raise DataError(
            f"{file.file.source}: holds no list of objects", 'write it like [{"question": ..., "answer": ...}]'
        )
    seen = {key for entry in entries if isinstance(entry, dict) for key in entry}
    if any(isinstance(entry, dict) for entry in entries):
        _check_columns(file, seen)
    for number, entry in enumerate(entries, 1):
        yield _row_of_object(entry, file.columns, number, json.dumps(entry, ensure_ascii=False))


def _only_list(tree: object) -> list[Any] | None:
    """The list that a JSON document is, or holds as its single list."""
    if isinstance(tree, list):
        return tree
    lists = [value for value in tree.values() if isinstance(value, list)] if isinstance(tree, dict) else []
    return lists[0] if len(lists) == 1 else None


def _row_of_object(entry: object, columns: ColumnsConfig, line: int, text: str) -> RawRow:
    if not isinstance(entry, dict):
        return RawRow.unreadable(line, "bad_row", "not an object with keys", text)
    for name in (columns.question, columns.answer):
        if name not in entry:
            return RawRow.unreadable(line, "bad_row", f"has no {name}", text)
    return _row_of_values(entry, columns, line, text)


def _row_of_values(values: Mapping[str, Any], columns: ColumnsConfig, line: int, text: str) -> RawRow:
    """A row from named values; numbers become text, lists and objects do not."""
    fields = []
    for name in (columns.question, columns.answer, columns.id, columns.lang):
        value = values.get(name) if name else None
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
            return RawRow.unreadable(line, "not_text", f"{name} is not text but {type(value).__name__}", text)
        fields.append("" if value is None else str(value))
    question, answer, id_, lang = fields
    if columns.id and not id_.strip():
        return RawRow.unreadable(line, "empty_id", f"{columns.id} is empty", text)
    return RawRow.readable(line, question, answer, id_.strip(), lang.strip())


def _csv(file: FaqFile, delimiter: str = ",") -> Iterator[RawRow]:
    records = _csv_records(lines_of(file.file.path, file.encoding), delimiter)
    header = next((cells for _, cells, _ in records if cells), [])
    names = [name.strip() for name in header]
    _check_columns(file, names)
    for line, cells, text in records:
        if cells is None:
            yield RawRow.unreadable(line, "broken_line", "its quotes do not match", text)
        elif len(cells) != len(names):
            yield RawRow.unreadable(line, "bad_row", f"has {len(cells)} fields, the header {len(names)}", text)
        else:
            yield _row_of_values(dict(zip(names, cells, strict=True)), file.columns, line, text)


def _tsv(file: FaqFile) -> Iterator[RawRow]:
    return _csv(file, "\t")


def _csv_records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | None, str]]:
    """(first line, fields, text) of each row; fields None where its quotes do not match.

    A row may span lines inside quotes, if it then has as many fields as the first row. Where it has not, or
    a quote is never closed, only its first line is given up, and reading goes on with the next: one stray
    quote must not swallow the rows after it.
    """
    waiting: list[str] = []  # lines read ahead and not used
    number = width = 0
    while first := waiting.pop(0) if waiting else next(lines, ""):
        number += 1
        if not first.strip():
            continue
        taken = [first]
        cells, is_open = _parse_csv(first, delimiter)
        while is_open and len(taken) < _MAX_LINES_OF_A_ROW:
            following = waiting.pop(0) if waiting else next(lines, "")
            if not following:
                break
            taken.append(following)
            if '"' in following:
                cells, is_open = _parse_csv("".join(taken), delimiter)
        if cells is None or (len(taken) > 1 and width and len(cells) != width):
            waiting = taken[1:] + waiting
            yield number, None, first
            continue
        width = width or len(cells)
        yield number, cells, first
        number += len(taken) - 1


def _parse_csv(text: str, delimiter: str) -> tuple[list[str] | None, bool]:
    """The fields of one row, or None; and whether a quote is still open at its end."""
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return None, "unexpected end of data" in str(error)
    return (rows[0] if len(rows) == 1 else None), False


def _parquet(file: FaqFile) -> Iterator[RawRow]:
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file.file.path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.file.source}: not a readable Parquet file: {error}", "export the file again") from None
    _check_columns(file, table.schema_arrow.names)
    wanted = [n for n in (file.columns.question, file.columns.answer, file.columns.id, file.columns.lang) if n]
    number = 0
    for batch in table.iter_batches(columns=list(dict.fromkeys(wanted))):
        for values in batch.to_pylist():
            number += 1
            yield _row_of_values(values, file.columns, number, str(values))


def _qa_text(file: FaqFile) -> Iterator[RawRow]:
    return qa_text_rows(lines_of(file.file.path, file.encoding))


def _markdown(file: FaqFile) -> Iterator[RawRow]:
    return markdown_rows(lines_of(file.file.path, file.encoding))


def _check_columns(file: FaqFile, known: Collection[str]) -> None:
    """Raise `DataError` where the file lacks a column that the configuration names."""
    for field in ("question", "answer", "id", "lang"):
        wanted = getattr(file.columns, field)
        if wanted is None or wanted in known:
            continue
        close = difflib.get_close_matches(wanted, sorted(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise DataError(
            f"{file.file.source}: no column {wanted!r}; its columns: {', '.join(map(repr, known))}{hint}",
            f"set {file.setting}.columns.{field}={close[0] if close else '<one of these>'}",
        )


_READERS: dict[str, Callable[[FaqFile], Iterator[RawRow]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
    "qa_text": _qa_text,
    "markdown": _markdown,
}
