"""Reading UTF-8 in compiled code: code points one by one, ASCII letters eight at a time.

In: bytes, and a place in them. Out: what is there. Bytes that may be no UTF-8 are `scan`'s to find.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ragray.compiled import inlined

Bytes = npt.NDArray[np.uint8]
Eights = npt.NDArray[np.uint64]

_ONES, _HIGH, _LOW7, _CASE = (np.uint64(0x0101010101010101 * byte) for byte in (0x01, 0x80, 0x7F, 0x20))
_FROM_A, _BEYOND_Z = np.uint64(0x0101010101010101 * (0x80 - 0x61)), np.uint64(0x0101010101010101 * (0x80 - 0x7B))


def eights(data: Bytes) -> Eights:
    """uint64 [bytes - 7]: at each place the eight bytes from there on, the first of them lowest. A view."""
    count = max(0, len(data) - 7)
    if not count:
        return np.zeros(0, np.uint64)
    return np.ndarray((count,), np.dtype("<u8"), data.data, 0, (1,))


@inlined
def signed(value: np.uint8 | np.uint64) -> int:
    """An unsigned number as int64, so that compiled arithmetic with it stays in integers."""
    return np.int64(value)  # type: ignore[return-value]


@inlined
def letters_at(data: Bytes, by_eight: Eights, i: np.uint64, end: np.uint64) -> tuple[int, np.uint64]:
    """(how many of the next eight bytes are ASCII letters without a gap, these in lower or upper case as they are).

    The bytes of a number are compared all at once: with its highest bit free, a byte tells by it whether it is above a
    limit (Lamport 1975, "Multiple byte processing with full-word instructions").
    """
    if i < np.uint64(len(by_eight)):
        value = by_eight[i]
    else:  # at the very end of the bytes
        value = np.uint64(0)
        for k in range(min(signed(end - i), 8)):
            value |= np.uint64(data[i + np.uint64(k)]) << np.uint64(8 * k)
    low = (value | _CASE) & _LOW7
    others = ~((low + _FROM_A) & ~(low + _BEYOND_Z) & ~value) & _HIGH
    first = (others & (~others + np.uint64(1))) >> np.uint64(7)  # of the first that is none, the lowest bit
    count = min(signed((((first - np.uint64(1)) & _ONES) * _ONES) >> np.uint64(56)), signed(end - i))
    if count == 8:
        return 8, value
    return count, value & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))


@inlined
def lower_case(letters: np.uint64) -> np.uint64:
    """The letters in lower case: of each byte that is one, bit 6 is set, and goes to bit 5."""
    return letters | ((letters >> np.uint64(1)) & _CASE)


@inlined
def point_at(data: Bytes, i: np.uint64) -> tuple[int, np.uint64]:
    """(code point, bytes of it) at a place of UTF-8 without points above U+FFFF."""
    point = signed(data[i])
    if point < 0x80:
        return point, np.uint64(1)
    second = signed(data[i + np.uint64(1)]) & 0x3F
    if point < 0xE0:
        return ((point & 0x1F) << 6) | second, np.uint64(2)
    return ((point & 0x0F) << 12) | (second << 6) | (signed(data[i + np.uint64(2)]) & 0x3F), np.uint64(3)
