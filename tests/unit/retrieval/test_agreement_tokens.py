"""Which signs of a question say something, and which only end or divide its sentences."""

import pytest

from ragray.retrieval.agreement_tokens import sign, tokens


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("Hello, how are you?!", []), ("你好,怎么安装?谢谢!", []), ("约翰·史密斯是谁", []),
        ("Is it 'so'? \"Yes.\"", []),
        ("a != b", ["!="]), ("is x<=5?", ["<="]), ("气温-5度", ["-"]), ("What is 5!", ["!"]), ("Run it!", []),
        ("5\" or 5' wide", ['"', "'"]), ("(see \\d)", ["(", "\\", ")"]), ("what does ; do", [";"]),
        ("how do I run ray ?", []),
        (".env", ["."]), ("use --fast, please", []), ("$5 or 5 €", ["€"]), ("a || b", ["||"]),
    ],
)  # fmt: skip
def test_signs_that_say_something_are_told_from_punctuation(text: str, signs: list[str]) -> None:
    assert [sign(text, token) for token in tokens(text) if token.lastgroup == "sign"] == signs


def test_quotes_flags_and_prices_are_one_token_each_behind_a_bracket() -> None:
    found = [(token.lastgroup, token.group()) for token in tokens('("fast" (--set ($5')]
    assert [one for one in found if one[0] != "sign"] == [("quoted", '"fast"'), ("flag", "--set"), ("word", "$5")]
