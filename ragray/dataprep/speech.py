"""Questions as speech recognition hands them over.

In: a question and a source of randomness. Out: the question without marks and capitals, its numbers spelled out,
with a filler word and now and then a word that sounds alike.
"""

from __future__ import annotations

import re
from random import Random

from ragray.dataprep.spelling import homophones_en, homophones_zh
from ragray.dataprep.wording import items

_NUMBER = re.compile(r"\d+(?:\.\d+)*")
_MARKS = re.compile(r"[^\w\s'+#%]|_")
_ABBREVIATION = re.compile(r"\b[A-Z]{2,4}\b")
_MISHEARD_SHARE = 0.5
_FILLERS_EN = ("um", "uh", "so", "okay so", "like", "well")
_FILLERS_ZH = ("嗯", "那个", "呃", "就是", "这个", "请问一下")

_ONES = items(
    """
zero; one; two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; thirteen; fourteen; fifteen; sixteen
seventeen; eighteen; nineteen
"""
)
_TENS = items("-; -; twenty; thirty; forty; fifty; sixty; seventy; eighty; ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
_DIGITS = "零一二三四五六七八九"
_UNITS = ("", "十", "百", "千")
_MYRIADS = ("", "万", "亿", "万亿")
_TOO_LONG = 12  # digits: read one by one


def speech_en(question: str, chance: Random) -> str:
    """As English speech is written down."""
    text = _ABBREVIATION.sub(lambda match: " ".join(match[0]), question).replace("%", " percent ")
    text = _NUMBER.sub(lambda match: f" {_spoken(match[0])} ", text)
    text = " ".join(_MARKS.sub(" ", text).lower().split())
    if chance.random() < _MISHEARD_SHARE:
        text = homophones_en(text, chance)
    return f"{chance.choice(_FILLERS_EN)} {text}"


def speech_zh(question: str, chance: Random) -> str:
    """As Chinese speech is written down."""
    text = re.sub(r"(\d+(?:\.\d+)?)%", lambda match: "百分之" + spoken_zh(match[1]), question)
    text = _NUMBER.sub(lambda match: spoken_zh(match[0]), text)
    text = " ".join(_MARKS.sub(" ", text).lower().split())
    text = re.sub("(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])", "", text)
    if chance.random() < _MISHEARD_SHARE:
        text = homophones_zh(text, chance)
    return chance.choice(_FILLERS_ZH) + text


def _spoken(number: str) -> str:
    whole, *parts = number.split(".")
    return " point ".join([words_en(whole), *(" ".join(_ONES[int(digit)] for digit in part) for part in parts)])


def words_en(digits: str) -> str:
    """Digits in English words; very long numbers, and those that begin with 0, digit by digit."""
    if len(digits) > _TOO_LONG or (digits[0] == "0" and len(digits) > 1):
        return " ".join(_ONES[int(digit)] for digit in digits)
    return _words(int(digits))


def _words(number: int) -> str:
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (f" {_words(rest)}" if rest else "")
    size, name = next((size, name) for size, name in _SCALES if number >= size)
    count, rest = divmod(number, size)
    return f"{_words(count)} {name}" + (f" {_words(rest)}" if rest else "")


def spoken_zh(number: str) -> str:
    """A number such as "2.60" in Chinese words; after the point digit by digit."""
    whole, *parts = number.split(".")
    return "点".join([_whole_zh(whole), *("".join(_DIGITS[int(digit)] for digit in part) for part in parts)])


def _whole_zh(digits: str) -> str:
    if len(digits) > _TOO_LONG or (digits[0] == "0" and len(digits) > 1):
        return "".join(_DIGITS[int(digit)] for digit in digits)
    if int(digits) == 0:
        return _DIGITS[0]
    text = ""
    groups = [digits[max(0, end - 4) : end] for end in range(len(digits), 0, -4)]
    for power, group in reversed(list(enumerate(groups))):
        if int(group):
            gap = _DIGITS[0] if text and (len(group) == 4 and group[0] == "0") else ""
            gap = gap if not text.endswith(_DIGITS[0]) else ""
            text += gap + _four_zh(group.lstrip("0")) + _MYRIADS[power]
        elif text and not text.endswith(_DIGITS[0]) and any(int(rest) for rest in groups[:power]):
            text += _DIGITS[0]
    return text[1:] if text.startswith("一十") else text


def _four_zh(digits: str) -> str:
    """One to four digits, the first not 0."""
    text = ""
    for power, digit in zip(range(len(digits) - 1, -1, -1), digits, strict=True):
        if digit != "0":
            text += _DIGITS[int(digit)] + _UNITS[power]
        elif not text.endswith(_DIGITS[0]):
            text += _DIGITS[0]
    return text.rstrip(_DIGITS[0])
