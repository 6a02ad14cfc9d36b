"""What the cleaning steps do with each character, and what it is, as tables for compiled code.

In: the rules of `normalize`, `language` and `filters`. Out: a byte for each code point below `TABLE_SIZE`: three bits
of action, three of kind, two of script; and the forms that characters are replaced by. Whatever a single character
cannot decide (marks that combine, jamo, code, markup) is left to the rules in plain Python.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragray.dataprep import normalize
from ragray.dataprep.filters import MARKS
from ragray.dataprep.function_words import ENGLISH, FOREIGN
from ragray.dataprep.language import HAN, KANA_OR_HANGUL
from ragray.dataprep.script_letters import HANS, HANT
from ragray.dataprep.utf8 import Bytes

TABLE_SIZE = 0x20000
KEEP, MAP, MAP_UNLESS_HAN, DROP, SPACE, BREAK, UNSURE = range(7)
BLANK, LATIN, HAN_KIND, KANA, LETTER, DIGIT, MARK, SYMBOL = range(8)
IS_ENGLISH, IS_FOREIGN, IS_CONTACT, IS_STRONG_CONTACT, IS_US, IS_LOREM, IS_WEB = (1 << n for n in range(7))
WORD_BYTES = 8
WORD_SLOTS = 8192
WORD_SHIFT = 64 - 13  # to a slot of so many

_CONTACT_PAIRS = ("联系", "咨询", "热线", "微信", "电话", "客服", "来电", "扫码", "公众")
_CONTACT_WORDS = {
    IS_CONTACT: "contact call email mail phone tel",
    IS_STRONG_CONTACT: "wechat whatsapp hotline qq vx",
    IS_US: "us our", IS_LOREM: "lorem", IS_WEB: "www",
}  # fmt: skip
_HAN = re.compile(f"[{HAN}]")
_GROWTH = 3  # times as many bytes as before, at most


@dataclass(frozen=True)
class Characters:
    """`classes`: uint8 [TABLE_SIZE]; a form is in `forms` from `starts` on: the number of its bytes, then these."""

    classes: Bytes
    starts: npt.NDArray[np.int32]
    forms: Bytes


@functools.cache
def characters() -> Characters:
    """The tables; made once in each process, in about a quarter of a second."""
    classes = np.zeros(TABLE_SIZE, np.uint8)
    starts = np.zeros(TABLE_SIZE, np.int32)
    forms = bytearray(b"\0")
    always, table = normalize.chinese_table(), normalize.compatibility_table()
    unstable = _unstable()
    for code in range(TABLE_SIZE):
        char = chr(code)
        action = _action(char, table.get(code), unstable)
        if action == MAP:
            if code not in always:
                action = MAP_UNLESS_HAN
            form = table[code].encode()
            starts[code] = len(forms)
            forms += bytes([len(form)]) + form
        script = 1 if char in HANS else 2 if char in HANT else 0
        classes[code] = action | _kind(char) << 3 | script << 6
    return Characters(classes, starts, np.frombuffer(bytes(forms), np.uint8))


@functools.cache
def contact_pairs() -> npt.NDArray[np.bool_]:
    """bool [65536]: whether a pair of characters, by `pair_slot`, may open a contact line."""
    found = np.zeros(1 << 16, np.bool_)
    for pair in _CONTACT_PAIRS:
        found[(ord(pair[0]) * 0x9E5 ^ ord(pair[1])) & 0xFFFF] = True
    return found


@functools.cache
def known_words() -> tuple[npt.NDArray[np.uint64], Bytes, np.uint64]:
    """A hash table of lower-case words by their bytes: uint64 [WORD_SLOTS], what each word is (bits), and a factor.

    The highest bits of a word times the factor name the slot; a word is there or in the other slot of the pair.
    """
    kinds: dict[int, int] = {}
    for bit, words in ((IS_ENGLISH, ENGLISH), (IS_FOREIGN, FOREIGN)):
        for word in words:
            kinds[_packed(word)] = kinds.get(_packed(word), 0) | bit
    for bit, listed in _CONTACT_WORDS.items():
        for word in listed.split():
            kinds[_packed(word)] = kinds.get(_packed(word), 0) | bit
    kinds.pop(0, None)
    factor = 0x9E3779B97F4A7C15
    while max(Counter(_pair(key, factor) for key in kinds).values()) > 2:
        factor += 2
    keys, bits = np.zeros(WORD_SLOTS, np.uint64), np.zeros(WORD_SLOTS, np.uint8)
    for key, kind in sorted(kinds.items()):
        slot = 2 * _pair(key, factor)
        slot += int(keys[slot] != 0)
        keys[slot], bits[slot] = key, kind
    return keys, bits, np.uint64(factor)


def _pair(key: int, factor: int) -> int:
    return (key * factor % (1 << 64)) >> (WORD_SHIFT + 1)


def _packed(word: str) -> int:
    raw = word.encode()
    return int.from_bytes(raw, "little") if len(raw) <= WORD_BYTES else 0


def _action(char: str, form: str | None, unstable: frozenset[str]) -> int:
    if normalize.LINE_BREAK.match(char) or char == "\n":
        return BREAK
    if char in "\ue000\ue001\ufffd" or "\ud800" <= char <= "\udfff":
        return UNSURE
    if normalize.INVISIBLE.match(char):
        return DROP
    if form is not None:
        grows = len(form.encode()) > _GROWTH * len(char.encode()) or len(form.encode()) > 200
        blank = form != " " and any(part.isspace() for part in form)
        return UNSURE if grows or blank or not unstable.isdisjoint(form) else MAP
    if char.isspace():
        return SPACE
    odd = (_HAN.match(char) or KANA_OR_HANGUL.match(char)) and not char.isalnum()
    return UNSURE if char in unstable or odd else KEEP


@functools.cache
def _unstable() -> frozenset[str]:
    """Characters that NFC changes, or may join with the one before."""
    found = set(map(chr, (*range(0x1100, 0x1200), *range(0xA960, 0xA980), *range(0xD7B0, 0xD800))))
    for code in (*range(0x300, 0xD800), *range(0xE000, 0x30000)):
        char = chr(code)
        parts = unicodedata.decomposition(char)
        if unicodedata.combining(char) or (parts and not unicodedata.is_normalized("NFC", char)):
            found.add(char)
        if parts and parts[0] != "<" and " " in parts:
            found.add(chr(int(parts.split()[1], 16)))
    return frozenset(found)


def _kind(char: str) -> int:
    if char.isspace():
        return BLANK
    if char.isascii() and char.isalpha():
        return LATIN
    if _HAN.match(char):
        return HAN_KIND
    if KANA_OR_HANGUL.match(char):
        return KANA
    if char.isalnum():
        return DIGIT if char.isdecimal() else LETTER
    return MARK if char in MARKS else SYMBOL
