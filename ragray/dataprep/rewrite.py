"""The simple cleaning steps on the bytes of a column, in compiled code.

In: texts in which no character is beyond the tables (`scan` says so). Out: the same texts without invisible characters,
in normal form, with tidy white space, and which of these changed each text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ragray.compiled import kernel
from ragray.dataprep.characters import BLANK, BREAK, DROP, MAP, MAP_UNLESS_HAN, characters
from ragray.dataprep.scan import Ints
from ragray.dataprep.utf8 import Bytes, Eights, eights, point_at

Blanks = npt.NDArray[np.int32]

BY_DROPPING, BY_MAPPING, BY_SPACING = 1, 2, 4
_GROWTH = 3  # times as many bytes as before, at most


def rewrite(
    data: Bytes, starts: Ints, ends: Ints, one_line: bool, has_han: npt.NDArray[np.bool_]
) -> tuple[Bytes, Ints, Ints, Bytes, Blanks]:
    """(bytes, starts, ends, changes, blanks) of the cleaned texts `data[starts[i] : ends[i]]`.

    Changes are bits; blanks are the characters of white space that are left.

    Args:
        one_line: a line break becomes a space.
        has_han: which texts have Chinese characters, and keep Chinese punctuation.
    """
    out = np.empty(int((ends - starts).sum()) * _GROWTH + 1, np.uint8)
    begins, found = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
    changes, blanks = np.zeros(len(starts), np.uint8), np.zeros(len(starts), np.int32)
    tables = characters()
    _rewrite(data, starts, ends, one_line, has_han, tables.classes, tables.starts, tables.forms,
             out, begins, found, changes, blanks)  # fmt: skip
    return out, begins, found, changes, blanks


def gather(sources: tuple[Bytes, Bytes, Bytes], which: Bytes, starts: Ints, ends: Ints) -> pa.Array:
    """A string column of the texts `sources[which[i]][starts[i] : ends[i]]`."""
    offsets = np.concatenate(([0], np.cumsum(ends - starts)))
    large = bool(offsets[-1] >= 2**31)
    out = np.empty(int(offsets[-1]), np.uint8)
    first, second, third = map(eights, sources)
    _gather(*sources, (first, second, third), which, starts, offsets, out, eights(out))
    kind, width = (pa.large_string(), np.int64) if large else (pa.string(), np.int32)
    return pa.Array.from_buffers(kind, len(which), [None, pa.py_buffer(offsets.astype(width)), pa.py_buffer(out)])


@kernel
def _rewrite(
    data: Bytes, starts: Ints, ends: Ints, one_line: bool, han: npt.NDArray[np.bool_], classes: Bytes,
    form_starts: npt.NDArray[np.int32],
    forms: Bytes, out: Bytes, begins: Ints, found: Ints, changes: Bytes, blanks: Blanks,
) -> None:  # fmt: skip
    place = np.uint64(0)
    for row in range(len(starts)):
        start, end = np.uint64(starts[row]), np.uint64(ends[row])
        first = place
        begins[row] = place
        i = start
        blank, breaks, before, changed, left = False, 0, np.uint64(0), 0, 0
        while i < end:
            point, size = point_at(data, i)
            value = np.int64(classes[point])
            action, kind = value & 7, (value >> 3) & 7
            at = i
            i += size
            if action == DROP:
                changed |= BY_DROPPING
                continue
            if action == BREAK:
                if point != 10:
                    changed |= BY_DROPPING
                    if point == 13 and i < end and data[i] == 10:
                        continue  # the line feed that follows counts
                if one_line:
                    changed |= BY_SPACING
                    blank = True
                else:
                    breaks += 1
                before += np.uint64(1)
                continue
            is_mapped = action == MAP or (action == MAP_UNLESS_HAN and not han[row])
            if is_mapped:
                changed |= BY_MAPPING
            if kind == BLANK:
                if point != 32 and not is_mapped:
                    changed |= BY_SPACING
                blank = True
                before += np.uint64(1)
                continue
            if place > first:
                for _ in range(min(breaks, 2)):
                    out[place] = 10
                    place += np.uint64(1)
                    left += 1
                if blank and not breaks:
                    out[place] = 32
                    place += np.uint64(1)
                    left += 1
            blank, breaks = False, 0
            source, base, length = data, at, size
            if is_mapped:
                source, base = forms, np.uint64(form_starts[point]) + np.uint64(1)
                length = np.uint64(forms[form_starts[point]])
            for k in range(length):
                out[place] = source[base + np.uint64(k)]
                place += np.uint64(1)
            before += length
        if before != place - first:
            changed |= BY_SPACING
        found[row], changes[row], blanks[row] = place, changed, left


@kernel
def _gather(
    first: Bytes, second: Bytes, third: Bytes, by_eight: tuple[Eights, Eights, Eights], which: Bytes, starts: Ints,
    offsets: Ints, out: Bytes, out_by_eight: Eights,
) -> None:  # fmt: skip
    row, count = 0, len(which)
    while row < count:
        begin, source, last = starts[row], which[row], row + 1
        end = begin + offsets[row + 1] - offsets[row]
        while last < count and which[last] == source and starts[last] == end:  # neighbours are copied at once
            end += offsets[last + 1] - offsets[last]
            last += 1
        if source == 0:
            _copy(first, by_eight[0], begin, end, out, out_by_eight, offsets[row])
        elif source == 1:
            _copy(second, by_eight[1], begin, end, out, out_by_eight, offsets[row])
        else:
            _copy(third, by_eight[2], begin, end, out, out_by_eight, offsets[row])
        row = last


@kernel
def _copy(
    source: Bytes, by_eight: Eights, begin: int, end: int, out: Bytes, out_by_eight: Eights, place: int
) -> None:  # fmt: skip
    """Copy bytes, eight by eight; the last ones singly."""
    here, there = np.uint64(begin), np.uint64(place)  # unsigned: a negative place would count from the end
    size, k, step = np.uint64(end - begin), np.uint64(0), np.uint64(8)
    while k + step <= size:
        out_by_eight[there + k] = by_eight[here + k]
        k += step
    while k < size:
        out[there + k] = source[here + k]
        k += np.uint64(1)
