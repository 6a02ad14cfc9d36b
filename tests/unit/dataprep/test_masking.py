import pytest

from ragray.dataprep.masking import is_card_number, is_id_number, masked

ALL = ("email", "id_number", "card_number", "phone")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("写信到 a.b-c@mail.example.com.cn。", "写信到 <EMAIL>。"),
        ("身份证11010519491231002X，", "身份证<ID>，"),  # the example of GB 11643-1999
        ("Card 4111 1111 1111 1111 or 5500-0000-0000-0004", "Card <CARD> or <CARD>"),
        ("手机13812345678、+86 138 1234 5678", "手机<PHONE>、<PHONE>"),
        ("电话010-12345678或（0571）", "电话<PHONE>或（0571）"),
        ("(021)61234567 400-820-8820", "<PHONE> <PHONE>"),
        ("call 1-800-555-1234 or (415) 555-2671", "call <PHONE> or <PHONE>"),
        ("+44 20 7946 0958", "<PHONE>"),
    ],
)
def test_personal_data_is_hidden(text: str, hidden: str) -> None:
    assert masked(text, ALL) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:ragray/ragray.git",
        "192.168.100.200 and 10.0.0.1:8080",
        "v1.2.3.20230405, 2.13.0-1",
        "2023-01-15 12:00:00, 20230405",
        "1609459200000 ms, 4294967295 bytes, 18446744073709551615",
        "ports 8000-9000, pages 400-500",
        "ISBN 978-7-111-12345-6",
        "550e8400-e29b-41d4-a716-446655440000",
        "11010519491231002Y",
        "4111 1111 1111 1112",  # Luhn's check fails
        "x = 3.14159265358979",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert masked(text, ALL) == text


def test_only_the_kinds_asked_for() -> None:
    assert masked("a@b.org 13812345678", ("phone",)) == "a@b.org <PHONE>"


def test_check_digits() -> None:
    assert is_id_number("11010519491231002X") and not is_id_number("110105194912310021")
    assert is_card_number("378282246310005") and not is_card_number("378282246310006")
    assert not is_card_number("0000000000000000")
