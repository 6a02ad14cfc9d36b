import pytest

from ragray.config_data import CleanConfig, RepetitionConfig
from ragray.dataprep.filters import ngram_scale, verdict

SETTINGS = CleanConfig(repetition=RepetitionConfig(min_words=10))
PROSE = (
    "Open the settings page and choose the plan that you want, then press save and wait for the mail that confirms it."
)


def reason(text: str, settings: CleanConfig = SETTINGS) -> str:
    found = verdict("answer", text, settings)
    return "" if found is None else found[0]


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "打开设置页面，选择您需要的套餐，然后点击保存，系统会发送一封确认邮件到您的邮箱，请注意查收并完成验证。",
        "Run `git rev-parse --abbrev-ref @{u}`.",
        "yes\nyes",  # short
        "# A\n# B\n# C\n# D\n# E",
        "拨 ##002# 或 *#21# 即可。",
        "C# 8、C# 9、C# 10、C# 11 依次发布。",
        "Use `a && b`, `{{ x }}`, `<br>`.",
        "Yes.",
    ],
)
def test_good_answers_are_kept(text: str) -> None:
    assert reason(text) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=====***** ok *****=====", "symbols"),
        ("a # b # c # d #", "markers"),
        ("one... two… three... four...", "markers"),
        ("Lorem ipsum dolor", "placeholder"),
        ("a line that says little\n" * 4, "repeated_lines"),
        ("buy now cheap " * 10, "repeated_words"),
        ("买药请上我站很便宜" * 5, "repeated_words"),
        (f"{PROSE} {PROSE}", "repeated_words"),
    ],
)
def test_noise_is_named(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_limits_by_hand() -> None:
    """Ten characters of which three are signs: a share of 0.3."""
    assert reason("abcdefg$$$", CleanConfig(max_symbol_share=0.3)) == ""
    assert reason("abcdefg$$$", CleanConfig(max_symbol_share=0.29)) == "symbols"
    lines = "the first line of it\nsecond line\nthird line\nthe first line of it"  # one of four, 20 of 61 characters
    assert reason(lines, CleanConfig(repetition=RepetitionConfig(lines=0.25, line_chars=20 / 61))) == ""
    assert reason(lines, CleanConfig(repetition=RepetitionConfig(lines=0.24))) == "repeated_lines"


def test_code_and_links_may_repeat() -> None:
    link = "https://example.org/a/b/c/d/e/f/g/h"
    assert reason(f"Look at {link} or {link} or {link} or {link}") == ""
    assert reason("Write\n```\n" + "x = x + 1\n" * 20 + "```\nand see") == ""


def test_short_steps_may_repeat() -> None:
    assert reason("Open A.\nClick Save.\nOpen B.\nClick Save.\nOpen C.\nClick Save.", CleanConfig()) == ""


def test_every_limit_can_be_lifted() -> None:
    free = RepetitionConfig(lines=1, line_chars=1, top_ngrams=(), ngrams=())
    assert reason("buy now cheap " * 10, CleanConfig(repetition=free)) == ""


def test_chinese_ngrams_are_twice_as_long() -> None:
    assert (ngram_scale(6, 10), ngram_scale(5, 10)) == (2, 1)
