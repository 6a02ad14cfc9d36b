"""One pass over the bytes of a column that tells which rows need which cleaning step, in compiled code.

In: a string column. Out: for each text a row of counts and flags. A flag may be raised without need, never missing:
a text without flags is returned by every step as it is, and kept by every filter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ragray.compiled import inlined, kernel
from ragray.config_data import CleanConfig
from ragray.dataprep.characters import (
    BLANK,
    BREAK,
    DIGIT,
    DROP,
    HAN_KIND,
    IS_CONTACT,
    IS_ENGLISH,
    IS_FOREIGN,
    IS_LOREM,
    IS_STRONG_CONTACT,
    IS_US,
    IS_WEB,
    KANA,
    LATIN,
    LETTER,
    MAP,
    MAP_UNLESS_HAN,
    SYMBOL,
    UNSURE,
    WORD_BYTES,
    WORD_SHIFT,
    characters,
    contact_pairs,
    known_words,
)  # fmt: skip
from ragray.dataprep.filters import MIN_LINES
from ragray.dataprep.repeats import may_repeat
from ragray.dataprep.utf8 import Bytes, Eights, eights, letters_at, lower_case, signed

Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]

# Columns of what `scan` finds.
FLAGS, CHARS, BLANKS, LETTERS, LATINS, HANS_CHARS, KANAS, DIGITS, SYMBOLS, LATIN_WORDS, ENGLISHES, FOREIGNS, ACCENTED, \
    MARKERS, WORDS, TRADITIONAL, LINES = range(17)  # fmt: skip
COLUMNS = 17
MAYBE_MOJIBAKE, RAW, UNMARKED, CLEAN = range(4)
# Flags.
F_SLOW, F_MAP, F_MAP_UNLESS_HAN, F_DROP, F_BLANKS, F_CODE, F_LINK, F_CONTACT, F_STRONG_CONTACT, F_AT, F_WEB, \
    F_REPEATS, F_MARKUP = (1 << n for n in range(13))  # fmt: skip


def buffers(column: pa.Array) -> tuple[Bytes, Ints]:
    """The bytes and the offsets of a string column without nulls."""
    _, offsets, data = column.buffers()
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    ends = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), ends


def scan(data: Bytes, starts: Ints, ends: Ints, one_line: bool, settings: CleanConfig, state: int = RAW) -> Counts:
    """int32 [texts, COLUMNS]: what is in each text `data[starts[i] : ends[i]]`.

    Args:
        one_line: the texts are questions, where a line break is white space to be repaired.
        state: MAYBE_MOJIBAKE, if that is repaired; RAW; UNMARKED, after the HTML step; or CLEAN, after all steps:
            such texts only need to be judged.
    """
    found = np.zeros((len(starts), COLUMNS), np.int32)
    _scan(data, eights(data), starts, ends, one_line, state, characters().classes, *known_words(), contact_pairs(),
          found)  # fmt: skip
    judged = found[:, FLAGS] & (F_SLOW if state == CLEAN else F_SLOW | F_MARKUP | F_MAP | F_DROP) == 0
    scale = 1 + (2 * found[:, HANS_CHARS] > found[:, WORDS])
    enough = (found[:, WORDS] >= settings.repetition.min_words * scale) | (found[:, LINES] >= MIN_LINES)
    rows = np.flatnonzero(judged & enough)
    repeat = may_repeat(data, starts[rows], ends[rows], settings.repetition)
    found[rows[repeat], FLAGS] |= F_REPEATS
    return found


@inlined
def _kind_of_word(word: np.uint64, size: int, keys: npt.NDArray[np.uint64], kinds: Bytes, factor: np.uint64) -> int:
    """What is known of a lower-case word of `size` bytes, as bits. Without a branch: words come in no order."""
    slot = ((word * factor) >> np.uint64(WORD_SHIFT)) & ~np.uint64(1)
    other = slot | np.uint64(1)
    known = signed(kinds[slot]) * (keys[slot] == word) + signed(kinds[other]) * (keys[other] == word)
    found: int = known * (size <= WORD_BYTES)
    return found


@inlined
def _flags_of_word(bits: int, after_contact: bool) -> int:
    flags = 0
    if bits & IS_CONTACT:
        flags |= F_CONTACT
    if bits & IS_STRONG_CONTACT or (bits & IS_US and after_contact):
        flags |= F_STRONG_CONTACT
    if bits & IS_WEB:
        flags |= F_WEB
    if bits & IS_LOREM:
        flags |= F_SLOW
    return flags


@inlined
def _is_mojibake(point: int) -> bool:
    """Whether a character after one of U+00C2 to U+00F4 is as in `normalize`'s pattern of mojibake."""
    return (
        0x80 <= point <= 0xBF or 0x152 <= point <= 0x192 or 0x2C6 <= point <= 0x2DC or 0x2013 <= point <= 0x203A
        or point == 0x20AC or point == 0x2122
    )  # fmt: skip


@inlined
def _sign_flags(point: int, after: int) -> int:
    """What an ASCII sign may open, by the byte after it."""
    letter = 97 <= (after | 0x20) <= 122
    # Control characters, and first bytes of invisible ones, which are taken out before markup is looked for.
    odd = after == 0x7F or after in (0xC2, 0xC5, 0xD8, 0xE1, 0xE2, 0xEE, 0xEF) or (after < 32 and after != 10)
    if point == 60:
        return F_MARKUP if letter or odd or after == 47 or after == 33 else 0  # a tag
    if point == 38:
        return F_MARKUP if letter or odd or after == 35 or after == 60 else 0  # an entity
    if point == 123:
        return F_SLOW if odd or after == 123 or after == 37 else 0  # a template
    if point == 96 or (point == 126 and (after == 126 or odd)):
        return F_CODE
    if (point == 58 and after == 47) or (point == 93 and after == 40):
        return F_LINK
    return F_AT if point == 64 else 0


@kernel
def _scan(
    data: Bytes, by_eight: Eights, starts: Ints, ends: Ints, one_line: bool, state: int, classes: Bytes,
    keys: npt.NDArray[np.uint64], kinds: Bytes, factor: np.uint64, pairs: npt.NDArray[np.bool_],
    found: Counts,
) -> None:  # fmt: skip
    ignored = ~(0 if state <= RAW else F_MARKUP if state == UNMARKED else F_MARKUP | F_SLOW)
    one, two = np.uint64(1), np.uint64(2)
    for row in range(len(starts)):
        out = found[row]
        start, end = np.uint64(starts[row]), np.uint64(ends[row])
        i = start
        flags, previous, blanks, breaks = 0, 0, 0, 0
        chars = spaces = letters = latins = hans = kanas = digits = symbols = markers = traditional = 0
        latin_words = english = foreign = accented = 0
        word, word_bytes, after_contact = np.uint64(0), 0, False
        words, in_word, lines, line_start = 0, False, 0, 0
        while True:
            # A run of ASCII letters: most of an English text.
            if i < end and 97 <= (data[i] | 0x20) <= 122:
                run, part = letters_at(data, by_eight, i, end)
                word |= lower_case(part) << np.uint64((8 * word_bytes) & 63)
                chars, latins, word_bytes, in_word = chars + run, latins + run, word_bytes + run, True
                i += np.uint64(run)
                blanks, breaks, previous = 0, 0, 97
                if run == 8:
                    continue
            point, size, kind, value = 10, one, BLANK, 0  # the end counts as a line break
            if i < end:
                point = signed(data[i])
                if point >= 0x80:
                    size = two if point < 0xE0 else np.uint64(3)
                    if point < 0xC2 or point >= 0xF0 or i + size > end:
                        flags |= F_SLOW  # invalid, or beyond the table
                        break
                    second, third = signed(data[i + one]), signed(data[i + size - one])
                    if (second & 0xC0) != 0x80 or (third & 0xC0) != 0x80 or (point == 0xE0 and second < 0xA0):
                        flags |= F_SLOW  # invalid
                        break
                    if point < 0xE0:
                        point = ((point & 0x1F) << 6) | (second & 0x3F)
                    else:
                        point = ((point & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F)
                    if 0xC2 <= previous <= 0xF4 and state == MAYBE_MOJIBAKE and _is_mojibake(point):
                        flags |= F_SLOW
                        break
                value = signed(classes[np.uint64(point)])
                kind = (value >> 3) & 7
                chars += 1
                action = value & 7
                if action == UNSURE:
                    flags |= F_SLOW
                    break
                if action == MAP:
                    flags |= F_MAP
                elif action == MAP_UNLESS_HAN:
                    flags |= F_MAP_UNLESS_HAN
                elif action == DROP or (action == BREAK and point != 10):
                    flags |= F_DROP
            # Words for the language: runs of Latin letters, accented ones too.
            if 0xC0 <= point <= 0x24F:
                both = np.uint64(data[i]) | (np.uint64(data[i + one]) << np.uint64(8))
                word |= both << np.uint64((8 * word_bytes) & 63)
                word_bytes += 2
                accented += 1
            elif word_bytes:
                bits = _kind_of_word(word, word_bytes, keys, kinds, factor)
                latin_words += 1
                english += (bits & IS_ENGLISH) != 0
                foreign += (bits & IS_FOREIGN) != 0
                if bits > IS_FOREIGN:
                    flags |= _flags_of_word(bits, after_contact)
                after_contact = (bits & IS_CONTACT) != 0
                word, word_bytes = np.uint64(0), 0
            # Words as the filters count them: runs of letters and digits, Han characters one by one.
            if in_word and (kind == HAN_KIND or kind < LATIN or kind > DIGIT):
                words, in_word = words + 1, False
            if i >= end:
                break
            if kind == HAN_KIND:
                words += 1
                hans += 1
                traditional += ((value >> 7) & 1) - ((value >> 6) & 1)
                if pairs[np.uint64((previous * 0x9E5 ^ point) & 0xFFFF)]:
                    flags |= F_STRONG_CONTACT
                blanks = breaks = 0
            elif LATIN < kind <= DIGIT:
                in_word = True
                letters += kind == LETTER
                kanas += kind == KANA
                digits += kind == DIGIT
                blanks = breaks = 0
            elif kind == BLANK:
                spaces += 1
                if point == 10:
                    if blanks or one_line or breaks >= 2 or i == start:
                        flags |= F_BLANKS
                    breaks, blanks = breaks + 1, 0
                    lines += words > line_start
                    line_start = words
                else:
                    if point != 32 or blanks or breaks or i == start:
                        flags |= F_BLANKS
                    blanks = 1
            else:
                blanks = breaks = 0
                symbols += kind == SYMBOL
                if point < 0x80:
                    after = signed(data[i + one]) if i + one < end else 32
                    flags |= _sign_flags(point, after) & ignored
                    if flags & F_SLOW:
                        break
                    markers += point == 35 or (point == 46 and after == 46)
                else:
                    markers += point == 0x2026
            previous = point
            i += size
        if blanks or breaks:
            flags |= F_BLANKS
        out[FLAGS], out[CHARS], out[BLANKS], out[LETTERS], out[LATINS] = flags, chars, spaces, letters, latins
        out[HANS_CHARS], out[KANAS], out[DIGITS], out[SYMBOLS], out[MARKERS] = hans, kanas, digits, symbols, markers
        out[LATIN_WORDS], out[ENGLISHES], out[FOREIGNS], out[ACCENTED] = latin_words, english, foreign, accented
        out[WORDS], out[TRADITIONAL], out[LINES] = words, traditional, lines + (words > line_start)
