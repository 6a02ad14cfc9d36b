"""Lines that stand in many answers: disclaimers, navigation, signatures.

In: tables of cleaned records. Out: how many records have each line (by digest), which lines are common, and the records
without them. Counts of parts of the data add up to the counts of the whole, in any order. A line counts if it has a few
letters, is no item of a list, row of a table or heading ("1. Open the console." may be a step of many answers), stands
outside of fenced code, and is not all of its answer: equal answers are duplicates, not boilerplate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from ragray.config_data import CleanConfig
from ragray.dataprep.characters import Bytes
from ragray.dataprep.normalize import tidy_spaces
from ragray.dataprep.repeats import spread
from ragray.dataprep.scan import Ints, buffers

Digests = npt.NDArray[np.uint64]

COUNTS = pa.schema([("line", pa.uint64()), ("records", pa.int64())])
MIN_BYTES = 8  # shorter lines ("Yes.", "}") are left alone

_BASE = 0x9E3779B97F4A7C15 | 1
_MASK = (1 << 64) - 1
_FENCES = ("```", "~~~")
_SAYS_MORE = re.compile(r"[^\W_]")


def count_lines(table: pa.Table) -> pa.Table:
    """How many records of a table have each line in their `answer`: a table of COUNTS, ascending by line."""
    _, digests = _lines(table)
    lines, records = np.unique(digests, return_counts=True)
    return pa.table([pa.array(lines, pa.uint64()), pa.array(records, pa.int64())], schema=COUNTS)


def merge_counts(counts: Sequence[pa.Table]) -> pa.Table:
    """The counts of several tables together, ascending by line."""
    joined = pa.concat_tables([COUNTS.empty_table(), *counts])
    summed = joined.group_by("line", use_threads=False).aggregate([("records", "sum")]).sort_by("line")
    return summed.rename_columns({"records_sum": "records"}).select(COUNTS.names).cast(COUNTS)


def common_lines(counts: Sequence[pa.Table], records: Sequence[int], settings: CleanConfig) -> Digests:
    """The digests, ascending, of lines in so many records that they are boilerplate.

    Args:
        counts: a table of COUNTS for each part of the data, ascending by line.
        records: how many records each part has.

    A line with some share in all of the data has that share in one of the parts: only such lines are counted in all.
    """
    share = settings.boilerplate_share
    least = max(settings.boilerplate_records, share * sum(records))
    frequent = [
        np.asarray(table.filter(pc.greater_equal(table.column("records"), share * n)).column("line"))
        for table, n in zip(counts, records, strict=True)
    ]
    found = np.unique(np.concatenate([np.empty(0, np.uint64), *frequent]))
    totals = np.zeros(len(found), np.int64)
    for table in counts:
        lines, place = np.asarray(table.column("line")), np.searchsorted(found, np.asarray(table.column("line")))
        known = found[np.minimum(place, max(0, len(found) - 1))] == lines if len(found) else np.zeros(len(lines), bool)
        totals[place[known]] += np.asarray(table.column("records"))[known]
    return found[totals >= least]


def remove_lines(table: pa.Table, lines: Digests) -> tuple[pa.Table, list[tuple[str, str]]]:
    """The table without these lines in `answer`, and each answer that changed, before and after.

    An answer that would have nothing left to say stays as it is.
    """
    rows, digests = _lines(table)
    place = np.minimum(np.searchsorted(lines, digests), max(0, len(lines) - 1))
    hit = np.unique(rows[lines[place] == digests]) if len(lines) else np.empty(0, np.int64)
    if not len(hit):
        return table, []
    column = table.column("answer").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    known = set(lines.tolist())
    before = column.take(pa.array(hit)).to_pylist()
    after = [without_lines(answer, known) for answer in before]
    mask = np.zeros(len(table), np.bool_)
    mask[hit] = True
    replaced = pc.replace_with_mask(column, pa.array(mask), pa.array(after, column.type))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    return table.set_column(table.column_names.index("answer"), "answer", replaced), changed


def without_lines(answer: str, lines: set[int]) -> str:
    """`answer` without its lines of these digests; as it is where nothing would be left."""
    kept, fenced = [], False
    for line in answer.split("\n"):
        is_fence = line.startswith(_FENCES)
        fenced ^= is_fence
        if fenced or is_fence or line_digest(line) not in lines:
            kept.append(line)
    rest = "\n".join(kept)
    if len(kept) == len(answer.split("\n")) or not _SAYS_MORE.search(rest):
        return answer
    return rest.strip() if any(fence in rest for fence in _FENCES) else tidy_spaces(rest)


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
    column = table.column("answer").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    if not len(column):
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    data, ends = buffers(column)
    room = int(np.count_nonzero(data == 10)) + 2 * len(column)
    rows, digests = np.empty(room, np.int64), np.empty(room, np.uint64)
    count = _line_digests(data, ends, rows, digests)
    return rows[:count], digests[:count]


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _opens_fence(data: Bytes, start: int, end: int) -> bool:
    first = data[start] if end - start >= 3 else 0
    return (first == 96 or first == 126) and data[start + 1] == first and data[start + 2] == first


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_structure(first: np.uint8, second: np.uint8) -> bool:
    """Whether a line with these first bytes is an item of a list, a row of a table or a heading."""
    if 48 <= first <= 57 or first == 124 or first == 35:  # a digit, | and #
        return True
    is_mark: bool = first == 45 or first == 42 or first == 43  # -, * and +
    return is_mark and second == 32


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
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
            countable = not fenced and not is_fence and not is_whole and i - begin >= MIN_BYTES
            if countable and not _is_structure(data[begin], data[begin + 1]):
                digest = spread(value)
                known = False
                for k in range(first, count):
                    known |= digests[k] == digest
                if not known:
                    rows[count], digests[count] = row, digest
                    count += 1
            begin, value = i + 1, np.uint64(0)
    return count
