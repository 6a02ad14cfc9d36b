"""A file of question-answer pairs, a part of it, and how named values become a row.

In: the configuration of a source. Out: `FaqFile` and `FilePart`, which can be sent to other processes, and rows
from objects and tables whose columns the configuration names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ragray.config_data import ColumnsConfig
from ragray.dataprep.rows import FIELDS, RawRow
from ragray.dataprep.sources import InputFile
from ragray.errors import DataError

_MISSING = object()


@dataclass(frozen=True, slots=True)
class FaqFile:
    """One file of question-answer pairs with all that is needed to read it."""

    file: InputFile
    setting: str  # dotted name of its source, such as "data.faq.0"
    format: str
    encoding: str
    columns: ColumnsConfig


@dataclass(frozen=True, slots=True)
class FilePart:
    """Some consecutive rows of a file. What `start` and `end` count depends on the format."""

    file: FaqFile
    start: int = 0  # JSONL: byte; Parquet: row group
    end: int | None = None  # exclusive; None: the file's end
    first_ordinal: int = 1  # of its first row
    first_line: int = 1  # of its first line or row
    encoding: str = ""  # of a part of a text; "" where it is still to be found


def wanted_columns(columns: ColumnsConfig) -> list[str]:
    """The names of the columns that are read, each once."""
    return list(dict.fromkeys(name for name in _names(columns) if name))


def _names(columns: ColumnsConfig) -> list[str | None]:
    return [getattr(columns, field) for field in FIELDS]


def root_of(name: str) -> str:
    """The column that holds a nested value: "answers" for "answers.0.text"."""
    return name.partition(".")[0]


def check_columns(file: FaqFile, known: Collection[str]) -> None:
    """Compare the columns that the configuration names with those of the file.

    Raises:
        DataError: the file lacks one; the message names the one that is most like it.
    """
    for field, wanted in zip(FIELDS, _names(file.columns), strict=True):
        if wanted is None or wanted in known or root_of(wanted) in known:
            continue
        close = difflib.get_close_matches(wanted, sorted(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        shown = ", ".join(map(repr, list(known)[:50]))
        raise DataError(
            f"{file.file.source}: no column {wanted!r}; its columns: {shown}{hint}",
            f"set {file.setting}.columns.{field}={close[0] if close else '<one of these>'}",
        )


def row_of_object(entry: object, columns: ColumnsConfig, line: int, text: str) -> RawRow:
    """A row from what stood in a JSON file."""
    if not isinstance(entry, dict):
        return RawRow.unreadable(line, "bad_row", "not an object with keys", text)
    for name in (columns.question, columns.answer):
        if _value(entry, name) is _MISSING:
            return RawRow.unreadable(line, "bad_row", f"has no {name}", text)
    return row_of_values(entry, columns, line, text)


def row_of_values(values: Mapping[str, Any], columns: ColumnsConfig, line: int, text: str) -> RawRow:
    """A row from named values; numbers become text; lists, objects, NaN and infinity do not."""
    fields = []
    for name in _names(columns):
        value = _value(values, name) if name else None
        value = None if value is _MISSING else value
        if value is not None and not _is_text(value):
            kind = value if isinstance(value, float) else type(value).__name__
            return RawRow.unreadable(line, "not_text", f"{name} is not text but {kind}", text)
        fields.append("" if value is None else str(value))
    question, answer, *others = fields
    others = [other.strip() for other in others]
    if columns.id and not others[0]:
        return RawRow.unreadable(line, "empty_id", f"{columns.id} is empty", text)
    return RawRow.readable(line, question, answer, *others)


def _is_text(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _value(values: Mapping[str, Any], name: str) -> Any:
    """The value of a name; "answers.0.text" also means the text of the first of the answers."""
    if name in values or "." not in name:
        return values.get(name, _MISSING)
    found: Any = values
    for part in name.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return _MISSING
    return found
