from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypinyin import lazy_pinyin

from ragray.dataprep.speech import speech_en, speech_zh, spoken_zh, words_en

DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")}


@pytest.mark.parametrize(
    ("digits", "en", "zh"),
    [
        ("0", "zero", "零"),
        ("10", "ten", "十"),
        ("15", "fifteen", "十五"),
        ("110", "one hundred ten", "一百一十"),
        ("105", "one hundred five", "一百零五"),
        ("8080", "eight thousand eighty", "八千零八十"),
        ("10500", "ten thousand five hundred", "一万零五百"),
        ("100005", "one hundred thousand five", "十万零五"),
        ("120000000", "one hundred twenty million", "一亿二千万"),
        ("100000005", "one hundred million five", "一亿零五"),
        ("1000000000", "one billion", "十亿"),
        ("007", "zero zero seven", "零零七"),
    ],
)
def test_numbers_by_hand(digits: str, en: str, zh: str) -> None:
    assert (words_en(digits), spoken_zh(digits)) == (en, zh)


def read_back(text: str) -> int:
    """A Chinese number as an integer: the reader is written from the rules of writing, not from the speaker."""
    total = section = digit = 0
    for character in text:
        if character in DIGITS:
            digit = DIGITS[character]
        elif character in "十百千":
            section += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[character]
            digit = 0
        else:
            total = (total + section + digit) * 10_000 if character == "万" else (total + section + digit) * 10**8
            section = digit = 0
    return total + section + digit


@given(st.integers(0, 10**8 - 1))
def test_chinese_numbers_are_read_back(number: int) -> None:
    assert read_back(spoken_zh(str(number))) == number


def test_points() -> None:
    assert spoken_zh("2.60") == "二点六零" and spoken_zh("0.85") == "零点八五"


@pytest.mark.parametrize("seed", range(20))
def test_as_recognized(seed: int) -> None:
    en = speech_en("How much memory (in GB) does the GPU need: 16, or 20% more?", Random(seed))
    assert en == en.lower() and not set(en) & set("?(),:%0123456789")
    assert "sixteen" in en and "twenty percent" in en and "g p u" in en
    zh = speech_zh("显存只有16GB，能训练20%吗？", Random(seed))
    assert not set(zh) & set("，？%0123456789")
    sounds = "".join(lazy_pinyin(zh))  # a misheard character sounds the same
    assert "shiliugb" in sounds and "baifenzhiershima" in sounds
