"""Lines that open or end many answers: disclaimers, navigation, signatures.

In: tables of cleaned records. Out: which answers have each line (by digests), which lines are common, and the records
without them at the beginning and the end of their answers. Lines of parts of the data add up to those of the whole, in
any order. A line counts if it is as long as a sentence, stands outside of fenced code, and is not all of its answer;
steps, items, commands and introductions ("1. Open the console.", "To reset it:") stay, however common. Equal answers
count once: they are duplicates, not boilerplate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ragray.compiled import inlined, kernel
from ragray.config_data import CleanConfig
from ragray.dataprep.hashing import spread
from ragray.dataprep.rows import in_one_piece
from ragray.dataprep.scan import Ints, buffers
from ragray.dataprep.tokens import byte_hashes
from ragray.dataprep.utf8 import Bytes

Digests = npt.NDArray[np.uint64]

LINES = pa.schema([("line", pa.uint64()), ("answer", pa.uint64())])  # digests; each pair once, ascending
MIN_BYTES = 24  # shorter lines ("Click Save.") are left alone

_BASE = 0x9E3779B97F4A7C15 | 1
_MASK = (1 << 64) - 1
_STRUCTURE = re.compile(
    r"[\W\d_]|第|step\b|\w[、.)]"  # an item, a row of a table, a step
    r"|.*[:：]$|[a-z].*[\w\"')\]}]$",  # an introduction; a command, or what else is no sentence
    re.IGNORECASE,
)
_SAYS_MORE = re.compile(r"[^\W_]")


def lines_of(table: pa.Table) -> pa.Table:
    """Which lines stand in which answers of a table with the column `answer`: a table of LINES."""
    rows, digests = _lines(table)
    return _pairs(digests, byte_hashes(in_one_piece(table.column("answer")))[rows])


def merge_lines(parts: Sequence[pa.Table]) -> pa.Table:
    """The lines of several tables together."""
    joined = pa.concat_tables([LINES.empty_table(), *parts])
    return _pairs(*(np.asarray(joined.column(name)) for name in LINES.names))


def common_lines(parts: Sequence[pa.Table], records: Sequence[int], settings: CleanConfig) -> Digests:
    """The digests, ascending, of lines in so many different answers that they are boilerplate.

    Args:
        parts: a table of LINES for each part of the data.
        records: how many records each part has.

    A line with some share in all of the data has that share in one of the parts: only such lines are counted in all.
    """
    share = settings.boilerplate_share
    frequent = [_frequent(table, math.floor(share * n)) for table, n in zip(parts, records, strict=True)]
    found = np.unique(np.concatenate([np.empty(0, np.uint64), *frequent]))
    pairs = merge_lines([_only(table, found) for table in parts])
    lines, answers = np.unique(np.asarray(pairs.column("line")), return_counts=True)
    digests: Digests = lines[answers >= max(settings.boilerplate_records, share * sum(records))]
    return digests


def _pairs(lines: Digests, answers: Digests) -> pa.Table:
    order = np.argsort(lines)
    same = lines[order][1:] == lines[order][:-1]
    repeated = np.flatnonzero(np.append(same, False) | np.append(False, same))  # few: most lines occur once
    order[repeated] = order[repeated][np.lexsort((answers[order[repeated]], lines[order[repeated]]))]
    lines, answers = lines[order], answers[order]
    new = np.ones(len(lines), np.bool_)
    new[1:] = (lines[1:] != lines[:-1]) | (answers[1:] != answers[:-1])
    return pa.table([pa.array(lines[new], pa.uint64()), pa.array(answers[new], pa.uint64())], schema=LINES)


def _frequent(table: pa.Table, least: int) -> Digests:
    lines, answers = np.unique(np.asarray(table.column("line")), return_counts=True)
    found: Digests = lines[answers >= least]
    return found


def _only(table: pa.Table, lines: Digests) -> pa.Table:
    return table.filter(pa.array(np.isin(np.asarray(table.column("line")), lines), pa.bool_()))


def remove_lines(table: pa.Table, lines: Digests) -> tuple[pa.Table, list[tuple[str, str]]]:
    """The table without these lines in `answer`, and each answer that changed, before and after.

    An answer that would have nothing left to say stays as it is.
    """
    rows, digests = _lines(table)
    place = np.minimum(np.searchsorted(lines, digests), max(0, len(lines) - 1))
    hit = np.unique(rows[lines[place] == digests]) if len(lines) else np.empty(0, np.int64)
    if not len(hit):
        return table, []
    column = in_one_piece(table.column("answer"))
    known = set(lines.tolist())
    before = column.take(pa.array(hit)).to_pylist()
    after = [without_lines(answer, known) for answer in before]
    mask = np.zeros(len(table), np.bool_)
    mask[hit] = True
    replaced = pc.replace_with_mask(column, pa.array(mask), pa.array(after, column.type))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    return table.set_column(table.column_names.index("answer"), "answer", replaced), changed


def without_lines(answer: str, lines: set[int]) -> str:
    """`answer` without lines of these digests at its beginning and end; as it is where nothing would be left."""
    kept = answer.split("\n")
    for end in (0, -1):
        while kept and (not kept[end].strip() or _is_boilerplate(kept[end], lines)):
            kept.pop(end)
    rest = "\n".join(kept)
    return rest if len(rest) < len(answer.strip()) and _SAYS_MORE.search(rest) else answer


def _is_boilerplate(line: str, lines: set[int]) -> bool:
    return line_digest(line) in lines and not _STRUCTURE.match(line)


def line_digest(line: str) -> int:
    """A 64-bit number for a line; 0 for one that is too short to be boilerplate."""
    raw = line.encode()
    if len(raw) < MIN_BYTES:
        return 0
    value = 0
    for byte in raw:
        value = (value * _BASE + byte + 1) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def _lines(table: pa.Table) -> tuple[Ints, Digests]:
    """The distinct countable lines of each answer: row and digest."""
    column = in_one_piece(table.column("answer"))
    if not len(column):
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    data, ends = buffers(column)
    room = int(np.count_nonzero(data == 10)) + 2 * len(column)
    rows, digests = np.empty(room, np.int64), np.empty(room, np.uint64)
    count = _line_digests(data, ends, rows, digests)
    return rows[:count], digests[:count]


@inlined
def _opens_fence(data: Bytes, start: int, end: int) -> bool:
    while start < end and (data[start] == 32 or data[start] == 9):
        start += 1
    first = data[start] if end - start >= 3 else 0
    return (first == 96 or first == 126) and data[start + 1] == first and data[start + 2] == first


@kernel
def _line_digests(data: Bytes, ends: Ints, rows: Ints, digests: Digests) -> int:
    count = 0
    for row in range(len(ends) - 1):
        start, end = ends[row], ends[row + 1]
        first, fenced, begin = count, False, start
        value = np.uint64(0)
        for i in range(start, end + 1):
            if i < end and data[i] != 10:
                value = value * np.uint64(_BASE) + np.uint64(data[i]) + np.uint64(1)
                continue
            is_whole = begin == start and i == end
            is_fence = _opens_fence(data, begin, i)
            fenced = fenced != is_fence
            if not fenced and not is_fence and not is_whole and i - begin >= MIN_BYTES:
                digest = spread(value)
                known = False
                for k in range(first, count):
                    known |= digests[k] == digest
                if not known:
                    rows[count], digests[count] = row, digest
                    count += 1
            begin, value = i + 1, np.uint64(0)
    return count
