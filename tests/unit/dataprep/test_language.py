import pytest

from ragray.dataprep.function_words import ENGLISH, FOREIGN
from ragray.dataprep.language import convert_chinese, detect_language, has_han, script_of
from ragray.dataprep.script_letters import HANS, HANT


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("怎样安装 ragray？", "zh"),
        ("ragray prepare 命令做什么", "zh"),
        ("How do I install it?", "en"),
        ("どうやってインストールしますか", "other"),
        ("설치 방법", "other"),
        ("Как установить?", "other"),
        ("12345 ???", "other"),
        ("", "other"),
    ],
)
def test_language(text: str, lang: str) -> None:
    assert detect_language(text) == lang


def test_has_han() -> None:
    assert has_han("a中b") and not has_han("abc ，。")


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("Wie lange ist die Inkubationszeit?", "other"),
        ("Czy mogę wrócić do kraju?", "other"),
        ("Quali negozi sono aperti?", "other"),
        ("Hur sprids viruset och är det farligt?", "other"),
        ("Comment installer ce logiciel ?", "other"),
        ("git rebase vs merge", "en"),
        ("ragray prepare config.yaml", "en"),
        ("Strikethrough with GitHub Markdown", "en"),
        ("What is Löwenstein-Jensen medium?", "en"),
        ("E = mc", "en"),
    ],
)
def test_english_among_latin_scripts(text: str, lang: str) -> None:
    assert detect_language(text) == lang


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("臺灣的軟體如何安裝？", "Hant"),
        ("软件如何安装？", "Hans"),
        ("如何安", "Hans"),  # the same in both
        ("台灣", "Hant"),
        ("皇后在里面", "Hans"),
        ("ls -la", "Hans"),
    ],
)
def test_script(text: str, script: str) -> None:
    assert script_of(text) == script


def test_script_letters_are_disjoint() -> None:
    assert HANS.isdisjoint(HANT)


def test_no_word_is_english_and_foreign() -> None:
    assert ENGLISH.isdisjoint(FOREIGN)


def test_conversion_by_words() -> None:
    pytest.importorskip("opencc")
    assert convert_chinese("头发和发展", "traditional") == "頭髮和發展"
    assert convert_chinese("頭髮和發展", "simplified") == "头发和发展"
    assert convert_chinese("no Chinese", "traditional") == "no Chinese"
