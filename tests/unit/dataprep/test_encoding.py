import io

import pytest

from ragray.dataprep.encoding import declared_encoding, detect_encoding

SIMPLIFIED = "怎样重新设置密码？请在设置页面点击“重置”，然后按照提示操作。如果没有收到邮件，请检查垃圾箱。\n"
TRADITIONAL = "怎樣重新設置密碼？請在設定頁面點擊「重設」，然後按照提示操作。如果沒有收到郵件，請檢查垃圾箱。\n"
FRENCH = "Où est la forêt près du château élevé ? Café fermé à midi, été comme hiver.\n"
ENGLISH = "It\u2019s a \u201cquoted\u201d word \u2013 and that\u2019s all.\n"


def found(content: bytes) -> str:
    return detect_encoding(io.BytesIO(content))


@pytest.mark.parametrize("lines", [1, 50])
@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        (SIMPLIFIED, "utf-8", "utf-8"),
        (SIMPLIFIED, "utf-8-sig", "utf-8-sig"),
        (SIMPLIFIED, "gb18030", "gb18030"),
        (SIMPLIFIED, "utf-16", "utf-16"),
        (SIMPLIFIED, "utf-16-le", "utf-16-le"),
        (SIMPLIFIED, "utf-16-be", "utf-16-be"),
        (TRADITIONAL, "big5", "big5hkscs"),
        (TRADITIONAL, "gb18030", "gb18030"),
        (ENGLISH, "utf-8", "utf-8"),
        (ENGLISH, "cp1252", "cp1252"),
        ("plain ascii\n", "utf-16-le", "utf-16-le"),
        ("plain ascii\n", "ascii", "utf-8"),
    ],
)
def test_encodings_are_told_apart(text: str, encoding: str, name: str, lines: int) -> None:
    assert found((text * lines).encode(encoding)) == name


def test_western_text_is_not_chinese() -> None:
    content = (FRENCH * 5).encode("cp1252")
    assert content.decode(found(content)) == FRENCH * 5


@pytest.mark.parametrize(
    ("text", "encoding"), [(SIMPLIFIED, "utf-8"), (SIMPLIFIED, "gb18030"), (TRADITIONAL, "big5hkscs")]
)
@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\x80\n", b"\xc3\x28\n", b"\x00" * 64 + b"\n", SIMPLIFIED.encode("utf-16-le")]
)
def test_one_damaged_line_decides_nothing(text: str, encoding: str, bad: bytes) -> None:
    good = text.encode(encoding)
    for content in (good * 3 + bad + good * 3, good + bad + good * 9, good * 9 + bad):
        assert found(content) == encoding


def test_one_long_line_is_no_obstacle() -> None:
    text = ",".join([SIMPLIFIED.strip()] * 30_000)
    for encoding in ("utf-8", "gb18030"):
        assert found(text.encode(encoding)) == encoding


def test_a_page_names_its_encoding() -> None:
    assert declared_encoding(b'<html><meta charset="GB2312">') == "gb18030"
    assert declared_encoding(b'<meta http-equiv="Content-Type" content="text/html; charset=big5">') == "big5hkscs"
    assert declared_encoding(b"<html>") == ""
