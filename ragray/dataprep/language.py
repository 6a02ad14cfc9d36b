"""Which language a text is in, from its letters and its shortest words.

In: a text. Out: "zh", "en" or "other", and the script of Chinese. It exists so that shingles, variants, templates and
metrics agree on the language of every record. No model is loaded: a question is judged in microseconds, by the same
rule when data is prepared and when it is served.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Literal

from ragray.dataprep.function_words import ENGLISH, FOREIGN
from ragray.dataprep.script_letters import HANS, HANT
from ragray.schema import Lang

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"

Script = Literal["Hans", "Hant"]

_HAN = re.compile(f"[{HAN}]")
KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\u1100-\u11ff\uac00-\ud7af]")
_LATIN = re.compile("[A-Za-z]")
_LETTER = re.compile(r"[^\W\d_]")
HAN_SHARE = 0.15  # a Chinese question may be mostly the names of commands
LATIN_SHARE = 0.8  # plain Latin letters; below, the text has the accents of another language
OTHER_SHARE = 0.1
_LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")
_ACCENTED = re.compile("[\u00c0-\u024f]")
ACCENTED_SHARE = 0.02
PROSE_WORDS = 12  # from so many words on, English has one of its function words
_WORD_BYTES = 8


def _short(words: frozenset[str]) -> frozenset[bytes]:
    """Words of a length that compiled code holds in one number."""
    return frozenset(word.encode() for word in words if len(word.encode()) <= _WORD_BYTES)


_ENGLISH = _short(ENGLISH)
_FOREIGN = _short(FOREIGN)


def has_han(text: str) -> bool:
    """Whether there is any Chinese character in `text`."""
    return _HAN.search(text) is not None


def detect_language(text: str) -> Lang:
    """The language of `text`: "zh" with enough Han characters, "en" where it reads
    as English, else "other".

    Han characters beside kana or hangul are Japanese or Korean: "other". A text without letters is "other".
    """
    letters = len(_LETTER.findall(text))
    if not letters:
        return "other"
    han = len(_HAN.findall(text))
    if len(KANA_OR_HANGUL.findall(text)) >= OTHER_SHARE * letters:
        return "other"
    if han >= HAN_SHARE * letters:
        return "zh"
    if len(_LATIN.findall(text)) < LATIN_SHARE * letters:
        return "other"
    words = [word.encode().lower() for word in _LATIN_WORD.findall(text)]
    english, foreign = (sum(word in known for word in words) for known in (_ENGLISH, _FOREIGN))
    return "en" if reads_english(len(words), english, foreign, len(_ACCENTED.findall(text)), letters) else "other"


def reads_english(words: int, english: int, foreign: int, accented: int, letters: int) -> bool:
    """Whether a text in Latin letters is English, from how many function words of English and of others it has.

    A text without any of them is English, unless it is long or has accents: most are names, commands and keywords.
    """
    if english or foreign:
        return english > foreign or (english == foreign and accented < ACCENTED_SHARE * letters)
    return words < PROSE_WORDS and accented < ACCENTED_SHARE * letters


def script_of(text: str) -> Script:
    """The script of a Chinese text: "Hant" where characters of traditional Chinese prevail, else "Hans"."""
    found = sum(map(HANT.__contains__, text)) - sum(map(HANS.__contains__, text))
    return "Hant" if found > 0 else "Hans"


def convert_chinese(text: str, target: Literal["simplified", "traditional"]) -> str:
    """`text` in simplified or traditional characters, by words ("头发" is "頭髮"), not by the wording of a region."""
    if not has_han(text):
        return text
    return str(_converter("t2s" if target == "simplified" else "s2t").convert(text))


@functools.cache
def _converter(config: str) -> Any:
    from opencc import OpenCC

    return OpenCC(config)
