"""Numbers as people write them: digits, English words, Chinese numerals, with their units.

In: a token, or words. Out: one spelling of its value (`8GB` -> `8` and `gb`; `二十三` -> `23`; `twenty five` -> `25`).
Versions stay what they are: 2.60.1 is not 2.60. Needed where two questions must speak of the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

_CHINESE_DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_CHINESE_PLACES = {"十": 10, "百": 100, "千": 1000}
_CHINESE_GROUPS = {"万": 10_000, "亿": 100_000_000}
CHINESE_NUMERALS = "".join([*_CHINESE_DIGITS, *_CHINESE_PLACES, *_CHINESE_GROUPS])

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()  # noqa: SIM905
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()  # noqa: SIM905
ENGLISH_NUMBERS = {word: number for number, word in enumerate(_ONES)} | {
    word: 10 * number for number, word in enumerate(_TENS, 2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ALONE = {word: str(number) for number, word in enumerate(_ORDINALS, 1)} | {
    "once": "1", "twice": "2", "thrice": "3", "half": "0.5", "dozen": "12", "quarter": "0.25",
}  # fmt: skip

_UNIT_GROUPS = {
    "%": "% percent pct", "$": "$ usd dollar dollars", "€": "€ eur euro euros", "b": "byte bytes", "bit": "bit bits",
    "kb": "kb", "mb": "mb", "gb": "gb", "tb": "tb", "kib": "kib", "mib": "mib", "gib": "gib", "tib": "tib",
    "ms": "ms millisecond milliseconds", "s": "s sec secs second seconds", "min": "min mins minute minutes",
    "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks", "month": "month months",
    "year": "year years yr yrs", "km": "km kilometer kilometers", "m": "m meter meters metre metres", "cm": "cm",
    "mm": "mm", "kg": "kg kilogram kilograms", "g": "g gram grams", "mg": "mg milligram milligrams",
    "l": "l liter liters", "ml": "ml", "°": "° degree degrees", "k": "k", "token": "token tokens", "x": "x times",
    "am": "am a.m", "pm": "pm p.m", "£": "£ gbp", "¥": "¥",
}  # fmt: skip
UNITS = {name: unit for unit, names in _UNIT_GROUPS.items() for name in names.split()}
_CASED = {"Kb": "kbit", "Mb": "mbit", "Gb": "gbit", "Tb": "tbit", "M": "million"}
# Longer ones first: each is looked for at the beginning of what follows a number.
CHINESE_UNITS = """个月 小时 分钟 毫秒 公里 公斤 千克 毫克 毫升 厘米 毫米 人民币 美元 欧元 星期 字节 比特
    年 月 日 号 天 周 时 点 分 秒 元 块 米 克 斤 升 度 岁 次 倍 个 位 条 章 节 页 级 层 台 张 份 路 版 届 人""".split()  # noqa: SIM905
_WRITTEN = re.compile(r"v?([$€£¥]?)(\d+(?:[.,]\d+)*)([a-z]*|[%°])", re.IGNORECASE)
_THOUSANDS = re.compile(r",(?=\d{3}(?:\D|$))")
_ENDINGS = frozenset({"st", "nd", "rd", "th"})


def written(token: str) -> tuple[str, str] | None:
    """(value, unit) of a token that begins with a number, such as 8GB, v2.60, 50% or 3rd; None for others."""
    found = _WRITTEN.fullmatch(token)
    if found is None:
        return None
    unit = "" if found[3].lower() in _ENDINGS else found[3]
    units = unit_of(unit) or unit.lower(), unit_of(found[1])
    return _THOUSANDS.sub("", found[2]), " ".join(filter(None, units))


def unit_of(text: str) -> str:
    """The unit that a word or sign names, such as gb, gbit (written Gb), min or $; "" for none."""
    return _CASED.get(text) or UNITS.get(text.lower(), "")


def spelled(words: Sequence[str], place: int) -> tuple[str, int]:
    """(value, how many words it takes) of the English number that begins at `place`; ("", 0) where none does.

    Args:
        words: lower-case, with hyphens between tens and ones taken apart.
        place: where to look.
    """
    if words[place] in _ALONE:
        return _ALONE[words[place]], 1
    total, part, at = 0, 0, place
    while at < len(words):
        word = words[at]
        if word in ENGLISH_NUMBERS:
            part += ENGLISH_NUMBERS[word]
        elif word in _SCALES and at > place:
            part = max(part, 1) * _SCALES[word]
            if word != "hundred":
                total, part = total + part, 0
        elif not (word == "and" and words[at - 1] in _SCALES and at + 1 < len(words)
                  and words[at + 1] in ENGLISH_NUMBERS and at > place):  # fmt: skip
            break
        at += 1
    return (str(total + part), at - place) if at > place else ("", 0)


def chinese(numeral: str) -> str:
    """The value of a Chinese numeral: 二十三 -> 23, 两百零五 -> 205, 三万 -> 30000, 二〇二四 -> 2024."""
    if len(numeral) > 1 and all(c in _CHINESE_DIGITS for c in numeral):
        return str(int("".join(str(_CHINESE_DIGITS[c]) for c in numeral)))
    above, total, group, digit = 0, 0, 0, None
    for c in numeral:
        if c in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[c]
        elif c in _CHINESE_PLACES:
            group += (1 if digit is None else digit) * _CHINESE_PLACES[c]
            digit = None
        else:
            total = (total + group + (digit or 0) or 1) * _CHINESE_GROUPS[c]
            if c == "亿":
                above, total = above + total, 0
            group, digit = 0, None
    return str(above + total + group + (digit or 0))


def scaled(value: str, sign: str) -> str:
    """Digits with a Chinese sign of size behind them: (3, 万) -> 30000, (1.5, 亿) -> 150000000."""
    return f"{Decimal(value) * ({**_CHINESE_PLACES, **_CHINESE_GROUPS}[sign]):f}".removesuffix(".0")


def chinese_unit(text: str) -> str:
    """The unit that `text` begins with; "" where it begins with none."""
    return next((unit for unit in CHINESE_UNITS if text.startswith(unit)), "")
