"""Which language a text is in, from its letters alone.

In: a text. Out: "zh", "en" or "other". It exists so that shingles, variants, templates and metrics
agree on the language of every record.
"""

from __future__ import annotations

import re

from ragray.schema import Lang

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"

_HAN = re.compile(f"[{HAN}]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\u1100-\u11ff\uac00-\ud7af]")
_LATIN = re.compile("[A-Za-z]")
_LETTER = re.compile(r"[^\W\d_]")
_HAN_SHARE = 0.15  # a Chinese question may be mostly the names of commands
_LATIN_SHARE = 0.8  # plain Latin letters; below, the text has the accents of another language
_OTHER_SHARE = 0.1


def has_han(text: str) -> bool:
    """Whether there is any Chinese character in `text`."""
    return _HAN.search(text) is not None


def detect_language(text: str) -> Lang:
    """The language of `text`: "zh" with enough Han characters, "en" where Latin letters dominate, else "other".

    Han characters beside kana or hangul are Japanese or Korean: "other". A text without letters is "other".
    """
    letters = len(_LETTER.findall(text))
    if not letters:
        return "other"
    han = len(_HAN.findall(text))
    if len(_KANA_OR_HANGUL.findall(text)) >= _OTHER_SHARE * letters:
        return "other"
    if han >= _HAN_SHARE * letters:
        return "zh"
    return "en" if len(_LATIN.findall(text)) >= _LATIN_SHARE * letters else "other"
