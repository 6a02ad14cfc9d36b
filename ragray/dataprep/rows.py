"""What readers hand to the cleaning step: one row of an input file, readable or not.

In: nothing. Out: `RawRow` with its Arrow schema, and tables of it built from rows or from whole columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ragray.dataprep.sources import MAX_ROW_CHARS, REPLACEMENT

FIELDS = ("question", "answer", "id", "lang", "group", "split")  # that a column can hold, in this order
SHOWN_CHARS = 200  # of a rejected row's text
TOO_LARGE = f"has more than {MAX_ROW_CHARS:,} characters"

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
    group: str = ""
    split: str = ""  # as the file gives it

    @classmethod
    def readable(cls, line: int, *fields: str) -> RawRow:
        """A row with its question, answer, id, language, group and split; lone surrogates become U+FFFD.

        A row of more than `MAX_ROW_CHARS` is not readable after all.
        """
        if sum(map(len, fields)) > MAX_ROW_CHARS:
            return cls.unreadable(line, "too_large", TOO_LARGE, "".join(fields[:2]))
        clean = [_SURROGATE.sub(REPLACEMENT, part) for part in fields]
        question, answer, id_, lang, group, split = clean + [""] * (6 - len(clean))
        return cls(0, line, question, answer, id_, lang, group=group, split=split)

    @classmethod
    def unreadable(cls, line: int, reason: str, detail: str, text: str) -> RawRow:
        """A row that is rejected as it stands; bytes that could not be decoded are the first cause to name."""
        shown = _shown(text)
        if REPLACEMENT in text and reason != "too_large":
            reason, detail = "bad_encoding", "holds bytes that are not text in the file's encoding"
        return cls(0, line, reason=reason, detail=_SURROGATE.sub(REPLACEMENT, detail), text=shown)


def _shown(text: str) -> str:
    """The beginning of a rejected row's text, as it can be written and looked at."""
    return _SURROGATE.sub(REPLACEMENT, text[: 2 * SHOWN_CHARS].strip()[:SHOWN_CHARS]).replace("\0", REPLACEMENT)


RAW_SCHEMA = pa.schema(
    [(f.name, pa.int64() if f.type == "int" else pa.string()) for f in fields(RawRow)],
)
_TEXTS = tuple(name for name in RAW_SCHEMA.names if name not in ("ordinal", "line"))
# What str.strip takes away.
WHITE_SPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace())


def numbered(rows: Iterable[RawRow], first: int = 1) -> Iterator[RawRow]:
    """The rows with their ordinals, from `first`."""
    return (replace(row, ordinal=ordinal) for ordinal, row in enumerate(rows, first))


def raw_table(rows: Iterable[RawRow]) -> pa.Table:
    """An Arrow table of raw rows."""
    listed = list(rows)
    return pa.table({name: [getattr(row, name) for row in listed] for name in RAW_SCHEMA.names}, schema=RAW_SCHEMA)


def raw_tables(rows: Iterable[RawRow], block_rows: int) -> Iterator[pa.Table]:
    """Tables of at most `block_rows` rows each."""
    rows = iter(rows)
    while block := list(itertools.islice(rows, block_rows)):
        yield raw_table(block)


def columns_table(columns: dict[str, pa.Array], line: pa.Array) -> pa.Table | None:
    """A table from whole columns (of `FIELDS`: question, answer, and others if given), without ordinals.

    None where a row may need a closer look: a missing value, invalid UTF-8, a text that is too long, an
    empty id.
    """
    for name, column in columns.items():
        if column.null_count:
            return None
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            return None
        if name not in ("question", "answer"):
            columns[name] = column = pc.utf8_trim(column, characters=WHITE_SPACE)
        if name == "id" and pc.any(pc.equal(column, "")).as_py():
            return None
    sizes = [pc.binary_length(column) for column in columns.values()]
    if len(line) and sum(pc.max(size).as_py() for size in sizes) > MAX_ROW_CHARS:
        return None
    empty = pa.repeat(pa.scalar("", pa.string()), len(line))
    filled = {name: columns.get(name, empty) for name in _TEXTS}
    return pa.table({"ordinal": line, "line": line} | filled).select(RAW_SCHEMA.names).cast(RAW_SCHEMA)


def renumbered(tables: Iterable[pa.Table], block_rows: int, first: int = 1) -> Iterator[pa.Table]:
    """The rows of the tables in tables of `block_rows` rows, the last one shorter, with ordinals from `first`."""
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        waiting.append(table)
        held += len(table)
        while held >= block_rows:
            joined = pa.concat_tables(waiting)
            yield _with_ordinals(joined.slice(0, block_rows), first)
            first += block_rows
            waiting, held = [joined.slice(block_rows)], held - block_rows
    if held:
        yield _with_ordinals(pa.concat_tables(waiting), first)


def in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column of a table as one array; not copied where it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _with_ordinals(table: pa.Table, first: int) -> pa.Table:
    ordinals = pa.array(np.arange(first, first + len(table), dtype=np.int64))
    return table.combine_chunks().set_column(0, RAW_SCHEMA.field(0), ordinals)
