"""Whether a text repeats itself, in compiled code.

In: the words of a text as hashes of all its beginnings, so that the hash of any n-gram is one subtraction. Out: bounds:
a text that `filters` would refuse is never passed over, one that it keeps may be pointed at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ragray.compiled import inlined, kernel
from ragray.config_data import RepetitionConfig
from ragray.dataprep.characters import DIGIT, HAN_KIND, LATIN, characters
from ragray.dataprep.filters import MIN_LINES, MIN_REPEATS, REPEAT_SIZES, TOP_SIZES
from ragray.dataprep.hashing import Hashes, spread
from ragray.dataprep.utf8 import Bytes, Eights, eights, letters_at, point_at, signed

Counts = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

_MAX_WORDS = 8192  # of a text that is judged here
_MAX_LINES = 48
_BASE = 0x9E3779B97F4A7C15 | 1
_SHORTEST = min(REPEAT_SIZES)


def may_repeat(data: Bytes, starts: Ints, ends: Ints, limits: RepetitionConfig) -> npt.NDArray[np.bool_]:
    """bool [texts]: whether the filters of repeated lines and n-grams may refuse `data[starts[i] : ends[i]]`."""
    found = np.zeros(len(starts), np.bool_)
    if len(starts):
        scratch = np.zeros(4 * _MAX_WORDS, np.uint64), np.zeros(4 * _MAX_WORDS, np.int32)
        lists = np.zeros(_MAX_WORDS + 1, np.uint64), np.zeros(_MAX_WORDS + 1, np.int32), np.zeros(_MAX_LINES, np.uint64)
        _judge(data, eights(data), starts, ends, characters().classes, limits.min_words,
               min((1.0, *limits.top_ngrams)), min((1.0, *limits.ngrams)), *scratch, *lists, found)  # fmt: skip
    return found


@kernel
def _lines_repeat(hashes: Hashes, count: int) -> bool:
    """Whether any two of `count` lines are equal, or there are too many to tell."""
    if count > len(hashes):
        return True
    for i in range(count):
        for j in range(i):
            if hashes[i] == hashes[j]:
                return True
    return False


@inlined
def _slot_of(key: np.uint64, slots: Hashes, mask: np.uint64) -> np.uint64:
    """Where `key` is, or has to go. 0 marks a free slot."""
    slot = (key ^ (key >> np.uint64(29))) & mask
    while slots[slot] != 0 and slots[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def _emptied(slots: Hashes, words: int) -> np.uint64:
    """Free as many slots as n-grams of so many words need; the mask for `_slot_of`."""
    count = np.uint64(1)
    while count < np.uint64(2 * words):
        count *= np.uint64(2)
    slots[:count] = np.uint64(0)
    return count - np.uint64(1)


@kernel
def _power(n: int) -> np.uint64:
    power = np.uint64(1)
    for _ in range(n):
        power *= np.uint64(_BASE)
    return power


@kernel
def _top_chars(hashes: Hashes, chars: Counts, words: int, n: int, slots: Hashes, held: Counts) -> int:
    """At least as many characters as the n-gram with the most has, repetitions included; 0 if none is frequent."""
    mask, power = _emptied(slots, words), _power(n)
    most = 0
    for k in range(words - n + 1):
        i, until_n = np.uint64(k), np.uint64(k + n)
        key = (hashes[until_n] - hashes[i] * power) | np.uint64(1)
        slot = _slot_of(key, slots, mask)
        if slots[slot] == 0:
            slots[slot], held[slot] = key, 1
        else:
            held[slot] += 1
            if held[slot] >= MIN_REPEATS:
                most = max(most, held[slot] * (chars[until_n] - chars[i]))
    return most


@kernel
def _repeated_chars(hashes: Hashes, chars: Counts, words: int, n: int, slots: Hashes) -> int:
    """At least as many characters as are in n-grams that were there before."""
    mask, power = _emptied(slots, words), _power(n)
    covered, until = 0, 0
    for k in range(words - n + 1):
        i, until_n = np.uint64(k), np.uint64(k + n)
        key = (hashes[until_n] - hashes[i] * power) | np.uint64(1)
        slot = _slot_of(key, slots, mask)
        if slots[slot] == 0:
            slots[slot] = key
        else:
            covered += chars[until_n] - chars[np.uint64(max(k, until))]
            until = k + n
    return covered


@kernel
def _words_repeat(
    hashes: Hashes, chars: Counts, words: int, scale: int, top: float, again: float,
    slots: Hashes, held: Counts,
) -> bool:  # fmt: skip
    """Whether the filter of repeated n-grams may refuse the text."""
    total = chars[words]
    if _repeated_chars(hashes, chars, words, _SHORTEST * scale, slots) > again * total:
        return True
    for n in TOP_SIZES:
        most = _top_chars(hashes, chars, words, n * scale, slots, held)
        if most > top * total:
            return True
        if most == 0:  # no longer n-gram is frequent either
            return False
    return False


@inlined
def _push(
    token: np.uint64, size: int, words: int, total: int, line: np.uint64, hashes: Hashes, chars: Counts
) -> tuple[int, int, np.uint64]:
    """One word more: (words, characters in words, hash of the line)."""
    words, total, mixed = words + 1, total + size, spread(token)
    if words <= _MAX_WORDS:
        hashes[np.uint64(words)] = hashes[np.uint64(words - 1)] * np.uint64(_BASE) + mixed
        chars[np.uint64(words)] = total
    return words, total, line * np.uint64(_BASE) + mixed


@kernel
def _judge(
    data: Bytes, by_eight: Eights, starts: Ints, ends: Ints, classes: Bytes, min_words: int, top: float, again: float,
    slots: Hashes, held: Counts, hashes: Hashes, chars: Counts, line_hashes: Hashes,
    found: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    for row in range(len(starts)):
        i, end = np.uint64(starts[row]), np.uint64(ends[row])
        words, total, han, lines, line_start, line = 0, 0, 0, 0, 0, np.uint64(0)
        token, token_chars = np.uint64(0), 0
        while True:
            if i < end and 97 <= (data[i] | 0x20) <= 122:
                run, letters = letters_at(data, by_eight, i, end)
                token, token_chars = token * np.uint64(_BASE) + letters, token_chars + run
                i += np.uint64(run)
                continue
            point, size = point_at(data, i) if i < end else (10, np.uint64(1))  # the end counts as a line break
            kind = (signed(classes[np.uint64(point)]) >> 3) & 7
            if LATIN <= kind <= DIGIT and kind != HAN_KIND:
                token, token_chars = token * np.uint64(_BASE) + np.uint64(point), token_chars + 1
            else:
                if token_chars:
                    words, total, line = _push(token, token_chars, words, total, line, hashes, chars)
                    token, token_chars = np.uint64(0), 0
                if kind == HAN_KIND:
                    words, total, line = _push(np.uint64(point), 1, words, total, line, hashes, chars)
                    han += 1
                elif point == 10 and words > line_start:
                    if lines < _MAX_LINES:
                        line_hashes[lines] = line
                    lines, line_start, line = lines + 1, words, np.uint64(0)
            if i >= end:
                break
            i += size
        scale = 2 if 2 * han > words else 1
        found[row] = (lines >= MIN_LINES and _lines_repeat(line_hashes, lines)) or (
            words >= min_words * scale
            and (words > _MAX_WORDS or _words_repeat(hashes, chars, words, scale, top, again, slots, held))
        )
