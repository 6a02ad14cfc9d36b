import pytest

from ragray.dataprep.language import detect_language, has_han


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
