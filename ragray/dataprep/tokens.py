"""Texts as hashed tokens and shingles, by compiled code straight from Arrow buffers.

In: Arrow columns of strings. Out: 64-bit hashes: of whole texts, of shingles, and MinHash band keys. A token
is a Han character, or a run of other letters and digits without regard to case and width; punctuation and
spaces only divide. Two texts with the same tokens are the same text to everything in this package that
looks for duplicates. `words` says the same in plain Python.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ragray.compiled import array_kernel, inlined, kernel
from ragray.dataprep.hashing import Hashes, Ints, sequence, sort_distinct, spread
from ragray.dataprep.language import HAN

Columns = tuple[pa.Array, pa.Array]  # a text is the one followed by the other, as on two lines

RECORD, QUESTION = 0, 1  # shingles: of three tokens; of two letters (Chinese) or four

_TOKEN = re.compile(rf"[{HAN}]|[^\W_{HAN}]+[+#]*")
_HAN = re.compile(f"[{HAN}]")
_TABLE_SIZE = 0x20000  # code points beyond are Han or divide
_HAN_BIT = 1 << 31
_SIGN_BIT = 1 << 30  # "+" and "#" belong to the word that they follow
_HAN_LAST = 0x3134F
_SPACE = 32


def words(text: str) -> list[str]:
    """Lower-case tokens: each Han character by itself, other letters and digits by word ("c++" is one)."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


@functools.cache
def _codes() -> npt.NDArray[np.uint32]:
    """What each code point counts as: 0 divides, else a number that is equal for equal letters; Han is marked."""
    table = np.zeros(_TABLE_SIZE, np.uint32)
    others: dict[str, int] = {}
    for code in range(_TABLE_SIZE):
        form = unicodedata.normalize("NFKC", chr(code)).casefold()
        letters = [char for char in form if char.isalnum()]
        if not letters:
            continue
        folded = ord(form) if len(form) == 1 else 0x110000 + others.setdefault(form, len(others))
        table[code] = folded | (_HAN_BIT if _HAN.match(form) else 0)
    for sign in "+#＋＃":
        table[ord(sign)] = ord(unicodedata.normalize("NFKC", sign)) | _SIGN_BIT
    return table


def _buffers(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """The bytes and the offsets of a string column without nulls."""
    if column.type != pa.string():
        column = column.cast(pa.string())
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), ends


def byte_hashes(column: pa.Array, seed: int = 0) -> Hashes:
    """uint64 [texts]: of the bytes as they are, such as ids; other seeds give unrelated numbers."""
    data, ends = _buffers(column)
    out = np.empty(len(column), np.uint64)
    _byte_hashes(data, ends, np.uint64(seed & (2**64 - 1)), out)
    return out


def text_hashes(column: pa.Array) -> Hashes:
    """uint64 [texts]: equal for texts with the same tokens."""
    nothing = pa.repeat("", len(column))
    return record_hashes((column, nothing), Permutations.draw(0, 1, 0))[0]


@dataclass(frozen=True)
class Permutations:
    """Random permutations of the 32-bit numbers: `number * factors[k] + offsets[k]` modulo 2**32, in bands.

    Source: Broder 1997, "On the resemblance and containment of documents", section 3.
    """

    factors: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    rows: int  # of a band

    @classmethod
    def draw(cls, bands: int, rows: int, seed: int) -> Permutations:
        """`bands * rows` permutations; factors are odd, so that each is one."""
        random = np.random.Generator(np.random.PCG64(seed))
        factors = random.integers(0, 2**31, bands * rows, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return cls(factors, random.integers(0, 2**32, bands * rows, dtype=np.uint32), rows)


def record_hashes(columns: Columns, permutations: Permutations) -> tuple[Hashes, Hashes, Hashes]:
    """Three things of each text of two columns, in one pass over its bytes.

    Returns:
        uint64 [texts]: equal for equal tokens in the first column; the same of the second column; and
        uint64 [bands, texts]: a key for each band of MinHash values of the shingles of both together.
    """
    (data, ends), (more, more_ends) = map(_buffers, columns)
    count = len(ends) - 1
    first, second = np.empty(count, np.uint64), np.empty(count, np.uint64)
    bands = np.empty((len(permutations.factors) // permutations.rows, count), np.uint64)
    _record_hashes(
        data, ends, more, more_ends, _codes(), permutations.factors, permutations.offsets, permutations.rows,
        first, second, bands,
    )  # fmt: skip
    return first, second, bands


def question_bands(questions: pa.Array, permutations: Permutations) -> Hashes:
    """uint64 [bands, texts]: a key for each band of MinHash values of each question's letters."""
    data, ends = _buffers(questions)
    out = np.empty((len(permutations.factors) // permutations.rows, len(ends) - 1), np.uint64)
    _question_bands(data, ends, _codes(), permutations.factors, permutations.offsets, permutations.rows, out)
    return out


def shingles_of(pieces: Sequence[tuple[Columns, Ints]], kind: int) -> tuple[Hashes, Ints]:
    """The distinct shingles of some rows of each piece, each ascending, end to end, and where each text begins."""
    count = sum(len(rows) for _, rows in pieces)
    hashes, starts, done = np.empty(64 * count, np.uint64), np.zeros(count + 1, np.int64), 0
    for columns, rows in pieces:
        (data, ends), (more, more_ends) = map(_buffers, columns)
        hashes = _shingle_sets(data, ends, more, more_ends, _codes(), kind, rows, hashes, starts[done:])
        done += len(rows)
    return hashes[: starts[-1]], starts


def columns_of(texts: Iterable[str], others: Sequence[str] | None = None) -> Columns:
    """Arrow columns of Python texts; without `others` the second column is empty."""
    first = pa.array(list(texts), pa.string())
    return first, pa.array([""] * len(first) if others is None else list(others), pa.string())


@inlined
def _code_at(data: npt.NDArray[np.uint8], i: int) -> tuple[np.int64, int]:
    """(code point, bytes) of the UTF-8 character at `i`."""
    first = np.int64(data[i])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return ((first & 0x1F) << 6) | (np.int64(data[i + 1]) & 0x3F), 2
    second, third = np.int64(data[i + 1]) & 0x3F, np.int64(data[i + 2]) & 0x3F
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (second << 6) | third, 3
    return ((first & 0x07) << 18) | (second << 12) | (third << 6) | (np.int64(data[i + 3]) & 0x3F), 4


@inlined
def _class_of(codes: npt.NDArray[np.uint32], point: np.int64) -> np.int64:
    if point < _TABLE_SIZE:
        return np.int64(codes[point])
    return point | np.int64(_HAN_BIT) if point <= _HAN_LAST else np.int64(0)


@kernel
def _tokens(data: npt.NDArray[np.uint8], i: int, end: int, codes: npt.NDArray[np.uint32], out: Hashes, n: int) -> int:
    """Append the token hashes of data[i:end] to out[n:]; returns the new count."""
    word = np.uint64(0)
    while i < end:
        point, width = _code_at(data, i)
        i += width
        code = _class_of(codes, point)
        if code == 0 or code & _HAN_BIT or (code & _SIGN_BIT and word == 0):
            if word:
                out[n] = spread(word)
                n += 1
                word = np.uint64(0)
            if code & _HAN_BIT:
                out[n] = spread(np.uint64(code))
                n += 1
            continue
        word = (word + np.uint64(code) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        if code & _SIGN_BIT and i < end:  # letters after "c++" begin another word
            following = _class_of(codes, _code_at(data, i)[0])
            if following and not following & _SIGN_BIT:
                out[n] = spread(word)
                n += 1
                word = np.uint64(0)
    if word:
        out[n] = spread(word)
        n += 1
    return n


@kernel
def _letters(
    data: npt.NDArray[np.uint8], i: int, end: int, codes: npt.NDArray[np.uint32], out: Hashes
) -> tuple[int, bool]:
    """The letters of data[i:end], one space between words; none where there is a Han character. (count, has Han)"""
    n, han, gap = 0, False, False
    while i < end:
        point, width = _code_at(data, i)
        i += width
        code = _class_of(codes, point)
        if code == 0 or (code & _SIGN_BIT and (gap or n == 0)):
            gap = True
            continue
        if gap and n:
            out[n] = np.uint64(_SPACE)
            n += 1
        gap = False
        han = han or (code & _HAN_BIT) != 0
        out[n] = np.uint64(code)
        n += 1
    if han:
        kept = 0
        for k in range(n):
            if out[k] != np.uint64(_SPACE):
                out[kept] = out[k]
                kept += 1
        n = kept
    return n, han


@kernel
def _runs(values: Hashes, n: int, width: int) -> int:
    """Hash every run of `width` values in place, repeated ones included; fewer are one run. Returns the count."""
    width = min(width, n)
    if n == 0:
        return 0
    for k in range(n - width + 1):
        value = np.uint64(0)
        for part in range(width):
            value = value * np.uint64(0x9E3779B97F4A7C15) + values[k + part]
        values[k] = spread(value)
    return n - width + 1


@kernel
def _shingles(
    data: npt.NDArray[np.uint8], i: int, end: int, more: npt.NDArray[np.uint8], j: int, more_end: int,
    codes: npt.NDArray[np.uint32], kind: int, out: Hashes,
) -> int:  # fmt: skip
    """The shingles of a text, repeated ones included. Returns their count."""
    if kind == RECORD:
        n = _tokens(data, i, end, codes, out, 0)
        return int(_runs(out, _tokens(more, j, more_end, codes, out, n), 3))
    n, han = _letters(data, i, end, codes, out)
    return int(_runs(out, n, 2 if han else 4))


@array_kernel
def _room(ends: npt.NDArray[np.int32], more_ends: npt.NDArray[np.int32], row: int, scratch: Hashes) -> Hashes:
    size = ends[row + 1] - ends[row] + more_ends[row + 1] - more_ends[row] + 1
    return scratch if size <= len(scratch) else np.empty(2 * size, np.uint64)


@kernel
def _byte_hashes(data, ends, seed, out):  # type: ignore[no-untyped-def]
    for row in range(len(ends) - 1):
        value = spread(seed + np.uint64(0x9E3779B97F4A7C15))
        for i in range(ends[row], ends[row + 1]):
            value = (value ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
            value ^= value >> np.uint64(32)
        out[row] = spread(value)


@inlined
def _bands(shingles, n, factors, offsets, rows, smallest, out, text):  # type: ignore[no-untyped-def]
    smallest[:] = np.uint32(0xFFFFFFFF)
    for s in range(n):
        high = np.uint32(shingles[s] >> np.uint64(32))
        for k in range(len(factors)):
            smallest[k] = min(smallest[k], np.uint32(high * factors[k] + offsets[k]))
    for band in range(out.shape[0]):
        key = np.uint64(band + 1)
        for k in range(band * rows, band * rows + rows):
            key = (key ^ np.uint64(smallest[k])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        out[band, text] = key


@array_kernel
def _record_hashes(data, ends, more, more_ends, codes, factors, offsets, rows, first, second, out):  # type: ignore[no-untyped-def]
    scratch = np.empty(1 << 14, np.uint64)
    smallest = np.empty(len(factors), np.uint32)
    for text in range(len(ends) - 1):
        scratch = _room(ends, more_ends, text, scratch)
        one = _tokens(data, ends[text], ends[text + 1], codes, scratch, 0)
        both = _tokens(more, more_ends[text], more_ends[text + 1], codes, scratch, one)
        first[text] = sequence(scratch, 0, one)
        second[text] = sequence(scratch, one, both)
        if len(factors):
            _bands(scratch, _runs(scratch, both, 3), factors, offsets, rows, smallest, out, text)


@array_kernel
def _question_bands(data, ends, codes, factors, offsets, rows, out):  # type: ignore[no-untyped-def]
    scratch = np.empty(1 << 14, np.uint64)
    smallest = np.empty(len(factors), np.uint32)
    for text in range(len(ends) - 1):
        scratch = _room(ends, ends, text, scratch)
        n, han = _letters(data, ends[text], ends[text + 1], codes, scratch)
        _bands(scratch, _runs(scratch, n, 2 if han else 4), factors, offsets, rows, smallest, out, text)


@array_kernel
def _shingle_sets(data, ends, more, more_ends, codes, kind, rows, hashes, starts):  # type: ignore[no-untyped-def]
    """Write shingles to `hashes` from `starts[0]` on, and the ends of the texts to `starts`. Returns `hashes`, or a
    larger array in its place."""
    scratch = np.empty(1 << 14, np.uint64)
    bounds = np.empty(1 << 16, np.int64)
    at = starts[0]
    for n in range(len(rows)):
        row = rows[n]
        scratch = _room(ends, more_ends, row, scratch)
        total = _shingles(
            data, ends[row], ends[row + 1], more, more_ends[row], more_ends[row + 1], codes, kind, scratch
        )  # fmt: skip
        if 2 * total + 2 > len(bounds):
            bounds = np.empty(4 * total, np.int64)
        if at + total > len(hashes):
            larger = np.empty(2 * (at + total), np.uint64)
            larger[:at] = hashes[:at]
            hashes = larger
        at += sort_distinct(scratch, total, hashes[at:], bounds)
        starts[n + 1] = at
    return hashes
