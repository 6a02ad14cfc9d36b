"""Simple HTML to text on the bytes of a column, in compiled code.

In: texts that hold only plain tags (`<p>`, `</b>`, `<br/>`) and the most frequent entities. Out: the same as
`normalize.without_markup`; a text with anything else is handed back unfinished.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ragray.compiled import array_kernel, inlined, kernel
from ragray.dataprep.characters import DIGIT, LATIN, characters
from ragray.dataprep.normalize import BLOCKS, INLINE, STANDALONE
from ragray.dataprep.scan import Ints
from ragray.dataprep.utf8 import Bytes, point_at, signed

_ENTITIES = {"nbsp": "\xa0", "amp": "&", "lt": "<", "gt": ">", "quot": '"', "#39": "'", "apos": "'", "ldquo": "“",
             "rdquo": "”", "mdash": "—", "ndash": "–", "hellip": "…", "middot": "·"}  # fmt: skip
_IS_BLOCK, _IS_STANDALONE = 1, 2


@functools.cache
def _names() -> tuple[npt.NDArray[np.uint64], Bytes]:
    """Tag names, packed into numbers, and what each is."""
    names = sorted(BLOCKS | set(INLINE), key=_packed)
    kinds = [(name in BLOCKS) * _IS_BLOCK | (name in STANDALONE) * _IS_STANDALONE for name in names if _packed(name)]
    return np.array([_packed(name) for name in names if _packed(name)], np.uint64), np.array(kinds, np.uint8)


@functools.cache
def _entities() -> tuple[npt.NDArray[np.uint64], Bytes]:
    """Entity names, packed into numbers, and the bytes of each: a length, then up to three."""
    names = sorted(_ENTITIES, key=_packed)
    forms = [bytes([len(_ENTITIES[name].encode())]) + _ENTITIES[name].encode().ljust(3, b"\0") for name in names]
    return np.array([_packed(name) for name in names], np.uint64), np.frombuffer(b"".join(forms), np.uint8)


def _packed(name: str) -> int:
    """A name of at most eight bytes as a number; 0 for a longer one."""
    return int.from_bytes(name.encode(), "big") if len(name) <= 8 else 0


def unmark(
    data: Bytes, starts: Ints, ends: Ints
) -> tuple[Bytes, Ints, Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(bytes, starts, ends, done, changed) of the texts `data[starts[i] : ends[i]]` without markup."""
    room = np.concatenate(([0], np.cumsum(ends - starts)))
    out = np.empty(int(room[-1]) + 1, np.uint8)
    found = room[:-1].copy()
    done, changed = np.zeros(len(starts), np.bool_), np.zeros(len(starts), np.bool_)
    _unmark(data, starts, ends, characters().classes, *_names(), *_entities(), out, found, done, changed)
    return out, room[:-1], found, done, changed


@inlined
def _index(value: np.uint64, listed: npt.NDArray[np.uint64]) -> int:
    for k in range(len(listed)):
        if listed[k] == value:
            return k
    return -1


@kernel
def _has_other(data: Bytes, start: int, end: int, name: np.uint64, size: int, closing: bool) -> bool:
    """Whether `</name>` (or, for a closing tag, `<name>`) is in the text, in any case."""
    for i in range(start, end - size - 1):
        if data[i] != 60:
            continue
        j = i + 1
        if not closing:
            if data[j] != 47:
                continue
            j += 1
        if j + size >= end:
            continue
        last = data[j + size]
        if last != 62 and (closing == 0 or (last != 32 and last != 10 and last != 47)):
            continue
        value = np.uint64(0)
        for k in range(size):
            byte = data[j + k]
            value = (value << np.uint64(8)) | np.uint64(byte | 0x20 if 65 <= byte <= 90 else byte)
        if value == name:
            return True
    return False


@kernel
def _after_word(data: Bytes, start: int, at: int, classes: Bytes) -> bool:
    """Whether the character before `at` is a letter or a digit."""
    i = at - 1
    while i > start and (data[i] & 0xC0) == 0x80:
        i -= 1
    point, _ = point_at(data, np.uint64(i))
    kind: int = (signed(classes[point]) >> 3) & 7
    return LATIN <= kind <= DIGIT


@kernel
def _tag(
    data: Bytes, start: int, end: int, at: int, classes: Bytes, names: npt.NDArray[np.uint64], kinds: Bytes
) -> tuple[int, int]:
    """(bytes, kind) of the tag at `at`: kind is 0 if nothing is shown for it, 1 for a new line, 2 if it is no markup.

    (0, 0): this is for the rules in plain Python.
    """
    i = at + 1
    closing = i < end and data[i] == 47
    i += closing
    name, size = np.uint64(0), 0
    while i < end and size <= 8:
        byte = data[i]
        if 65 <= byte <= 90:
            byte |= 0x20
        if not (97 <= byte <= 122 or (size and 48 <= byte <= 57)):
            break
        name = (name << np.uint64(8)) | np.uint64(byte)
        size += 1
        i += 1
    while i < end and (data[i] == 32 or data[i] == 10):
        i += 1
    is_markup = i < end and data[i] == 47
    i += is_markup
    k = _index(name, names) if size <= 8 else -1
    if k < 0 or i >= end or data[i] != 62:
        return 0, 0
    if not is_markup:
        if kinds[k] & _IS_STANDALONE:
            is_markup = at == start or closing or size > 1 or not _after_word(data, start, at, classes)
        else:
            is_markup = _has_other(data, start, end, name, size, closing)
    return i + 1 - at, (signed(kinds[k]) & _IS_BLOCK) if is_markup else 2


@array_kernel
def _unmark(
    data: Bytes, starts: Ints, ends: Ints, classes: Bytes, names: npt.NDArray[np.uint64], kinds: Bytes,
    entities: npt.NDArray[np.uint64], forms: Bytes, out: Bytes, found: Ints, done: npt.NDArray[np.bool_],
    changed: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    for row in range(len(starts)):
        start, end, place = starts[row], ends[row], found[row]
        i = start
        while i < end:
            byte = data[i]
            after = signed(data[i + 1]) if i + 1 < end else 32
            letter = 97 <= (after | 0x20) <= 122
            if byte == 60 and (letter or after == 47 or after == 33 or after >= 0x80):
                size, kind = _tag(data, start, end, i, classes, names, kinds)
                if size == 0:
                    break
                if kind == 2:
                    out[place : place + size] = data[i : i + size]
                    place += size
                else:
                    changed[row] = True
                    if kind == 1:
                        out[place] = 10
                        place += 1
                i += size
            elif byte == 38 and (letter or after == 35 or after == 60 or after >= 0x80):
                name, j = np.uint64(0), i + 1
                while j < end and j < i + 9 and data[j] != 59:
                    name = (name << np.uint64(8)) | np.uint64(data[j])
                    j += 1
                k = _index(name, entities) if j < end and data[j] == 59 else -1
                if k < 0:
                    break
                changed[row] = True
                for m in range(forms[4 * k]):
                    out[place] = forms[4 * k + 1 + m]
                    place += 1
                i = j + 1
            else:
                out[place] = byte
                place += 1
                i += 1
        done[row] = i >= end
        found[row] = place
