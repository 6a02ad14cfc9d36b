"""What readers hand to the cleaning step: one row of an input file, readable or not.

In: nothing. Out: `RawRow` with its Arrow schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

import pyarrow as pa

from ragray.dataprep.sources import REPLACEMENT

SHOWN_CHARS = 200  # of a rejected row's text

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of an input file. `reason` is empty for a readable row; otherwise `text` is what stood there."""

    ordinal: int  # from 1 in its file, counting unreadable rows too
    line: int  # first line (text formats) or row (tables and JSON lists), from 1
    question: str = ""
    answer: str = ""
    id: str = ""
    lang: str = ""
    reason: str = ""
    detail: str = ""
    text: str = ""

    @classmethod
    def readable(cls, line: int, question: str, answer: str, id_: str = "", lang: str = "") -> RawRow:
        """A row with its fields; lone surrogates, which no encoding can write, become U+FFFD."""
        question, answer, id_, lang = (_SURROGATE.sub(REPLACEMENT, part) for part in (question, answer, id_, lang))
        return cls(0, line, question, answer, id_, lang)

    @classmethod
    def unreadable(cls, line: int, reason: str, detail: str, text: str) -> RawRow:
        """A row that is rejected as it stands; bytes that could not be decoded are the first cause to name."""
        shown = _SURROGATE.sub(REPLACEMENT, text.strip()[:SHOWN_CHARS])
        if REPLACEMENT in text:
            reason, detail = "bad_encoding", "holds bytes that are not text in the file's encoding"
        return cls(0, line, reason=reason, detail=_SURROGATE.sub(REPLACEMENT, detail), text=shown)


RAW_SCHEMA = pa.schema(
    [(f.name, pa.int64() if f.type == "int" else pa.string()) for f in fields(RawRow)],
)


def raw_table(rows: Iterable[RawRow]) -> pa.Table:
    """An Arrow table of raw rows."""
    listed = list(rows)
    return pa.table({name: [getattr(row, name) for row in listed] for name in RAW_SCHEMA.names}, schema=RAW_SCHEMA)


def raw_rows(table: pa.Table) -> list[RawRow]:
    """The rows of a table that `raw_table` made."""
    columns = (table.column(name).to_pylist() for name in RAW_SCHEMA.names)
    return [RawRow(*values) for values in zip(*columns, strict=True)]
