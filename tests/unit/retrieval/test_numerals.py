"""Numbers and units in the ways that people write them."""

import pytest

from ragray.retrieval.numerals import chinese, chinese_unit, scaled, spelled, written


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("8GB", ("8", "gb")), ("v2.60.1", ("2.60.1", "")), ("50%", ("50", "%")), ("3rd", ("3", "")),
        ("1,000", ("1000", "")), ("10,000,000", ("10000000", "")), ("$5", ("5", "$")), ("4bits", ("4", "bit")),
        ("GPU", None), ("gpt-4o", None), ("3-5", None),
    ],
)  # fmt: skip
def test_a_number_has_one_spelling(token: str, value: tuple[str, str] | None) -> None:
    assert written(token) == value


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("eight", ("8", 1)), ("twenty five seconds", ("25", 2)), ("two hundred and five", ("205", 4)),
        ("three thousand one hundred", ("3100", 4)), ("one million", ("1000000", 2)), ("second", ("2", 1)),
        ("once", ("1", 1)), ("gpus", ("", 0)), ("hundred", ("", 0)), ("two and a", ("2", 1)),
    ],
)  # fmt: skip
def test_english_numbers_are_added_up(words: str, value: tuple[str, int]) -> None:
    assert spelled(words.split(), 0) == value


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("三", "3"), ("十", "10"), ("十五", "15"), ("二十三", "23"), ("两百零五", "205"), ("三万", "30000"),
        ("一千二百三十四", "1234"), ("一亿二千万", "120000000"), ("二〇二四", "2024"),
    ],
)  # fmt: skip
def test_chinese_numerals_are_added_up(numeral: str, value: str) -> None:
    assert chinese(numeral) == value


def test_units_and_signs_of_size_follow_a_number() -> None:
    assert (chinese_unit("个月内"), chinese_unit("个"), chinese_unit("分钟"), chinese_unit("吗")) == (
        "个月",
        "个",
        "分钟",
        "",
    )
    assert (scaled("3", "万"), scaled("1.5", "亿"), scaled("2", "百")) == ("30000", "150000000", "200")
