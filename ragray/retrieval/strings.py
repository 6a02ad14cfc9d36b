"""A list of strings that opens without reading it: UTF-8 bytes end to end, and where each begins.

In: strings. Out: two `.npy` files that are memory-mapped, read by number, and searched by binary search
where they are sorted by their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def encoded(strings: Sequence[str]) -> pa.Array:
    """UTF-8, large_binary [strings]."""
    return pa.array([text.encode("utf-8", "surrogatepass") for text in strings], pa.large_binary())


def write_strings(strings: pa.Array, folder: Path, name: str) -> None:
    """Write strings, or their UTF-8, as `<name>.bytes.npy` (uint8) and `<name>.starts.npy` (int64, one more)."""
    held = strings.cast(pa.large_binary())
    _, offsets, data = held.buffers()
    begin = held.offset
    starts = np.frombuffer(offsets, np.int64)[begin : begin + len(held) + 1] if len(held) else np.zeros(1, np.int64)
    held_bytes = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    np.save(folder / f"{name}.bytes.npy", held_bytes[starts[0] : starts[-1]])
    np.save(folder / f"{name}.starts.npy", starts - starts[0])


class Strings:
    """Strings by number, memory-mapped."""

    def __init__(self, folder: Path, name: str) -> None:
        self._bytes = memoryview(np.load(folder / f"{name}.bytes.npy", mmap_mode="r"))
        self._starts: NDArray[np.int64] = np.asarray(np.load(folder / f"{name}.starts.npy", mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        return self._raw(number).decode("utf-8", "surrogatepass")

    def encoded(self) -> pa.Array:
        """All strings as bytes, large_binary [strings]."""
        starts, data = pa.py_buffer(np.ascontiguousarray(self._starts)), pa.py_buffer(self._bytes)
        return pa.Array.from_buffers(pa.large_binary(), len(self), [None, starts, data])

    def find(self, text: str, order: NDArray[np.int64] | None = None) -> int | None:
        """The number of `text`, or None.

        Args:
            text: what to look for.
            order: the strings' numbers sorted by their bytes; None where they are stored sorted.
        """
        key = text.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._raw(middle if order is None else int(order[middle])) < key:
                low = middle + 1
            else:
                high = middle
        if low == len(self):
            return None
        number = low if order is None else int(order[low])
        return number if self._raw(number) == key else None

    def _raw(self, number: int) -> bytes:
        return bytes(self._bytes[self._starts[number] : self._starts[number + 1]])


def byte_order(strings: pa.Array) -> NDArray[np.int64]:
    """int64: the numbers of strings, or of their UTF-8, sorted by their bytes; equal ones keep their order."""
    return np.asarray(pc.sort_indices(strings.cast(pa.large_binary())), np.int64)
