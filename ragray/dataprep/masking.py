"""Personal data replaced by marks: e-mail addresses, phone, identity card and payment card numbers.

In: a text and the kinds to mask. Out: the text with <EMAIL>, <PHONE>, <ID>, <CARD>. Numbers are checked where they have
a check digit; versions, IP addresses, dates and identifiers are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_BEFORE = r"(?<![0-9A-Za-z_.+/=#-])"
_AFTER = r"(?![0-9A-Za-z_]|[.:/-][0-9A-Za-z])"
_EMAIL = re.compile(
    r"(?<![0-9A-Za-z._%+/:-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
    r"(?![0-9A-Za-z_-]|:[0-9A-Za-z/~])"
)
_ID = re.compile(_BEFORE + r"[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]" + _AFTER)
_CARD = re.compile(_BEFORE + r"[2-6](?:\d{12,18}|\d{3}(?:[ -]\d{4}){2,3}[ -]\d{1,7}|\d{3}[ -]\d{6}[ -]\d{5})" + _AFTER)
_PHONE = re.compile(
    _BEFORE.replace("+", "") + r"(?:(?:\+?86[- ]?)?1[3-9]\d(?:\d{8}|[- ]\d{4}[- ]\d{4})"  # mobile, China
    r"|(?:\+86[- ]?)?\(?0(?:10|2\d|[3-9]\d{2})[-) ] ?[1-9]\d{6,7}(?:-\d{1,5})?"  # landline, China
    r"|0(?:10|2\d)[2-9]\d{7}|[48]00-(?:\d{3}-\d{4}|\d{4}-\d{3}|\d{7})|400[1-9]\d{6}"
    r"|(?:\+?1[- ])?(?:\(\d{3}\) ?|[2-9]\d{2}-)[2-9]\d{2}-\d{4}"  # North America
    r"|\+[1-9]\d{0,2}(?:[ -]?\(?\d{1,5}\)?){2,5})" + _AFTER
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CARD_LENGTHS = (
    (re.compile("4"), (13, 16, 19)),
    (re.compile("5[1-5]|2[2-7]|35|6011|65"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("62"), (16, 17, 18, 19)),
)


def masked(text: str, kinds: Sequence[str]) -> str:
    """`text` with the data of these kinds (email, id_number, card_number, phone) replaced by marks."""
    for kind in ("email", "id_number", "card_number", "phone"):
        if kind in kinds:
            pattern, is_one, mark = _KINDS[kind]
            text = pattern.sub(lambda match: mark if is_one(match[0]) else match[0], text)  # noqa: B023  (used at once)
    return text


def is_id_number(number: str) -> bool:
    """Whether the check digit of an 18-digit Chinese identity number is right. Source: GB 11643-1999."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[-1].upper()


def is_card_number(number: str) -> bool:
    """Whether a number has the length and the check digit of a payment card. Source: ISO/IEC 7812-1, annex B (Luhn)."""
    digits = [int(char) for char in number if char.isdigit()]
    joined = "".join(map(str, digits))
    if not any(start.match(joined) and len(digits) in lengths for start, lengths in _CARD_LENGTHS):
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _is_phone(number: str) -> bool:
    digits = sum(char.isdigit() for char in number)
    return 8 <= digits <= 18 if "-" in number[-6:] else 8 <= digits <= 15


def _always(number: str) -> bool:
    return bool(number)


_KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool], str]] = {
    "email": (_EMAIL, _always, "<EMAIL>"),
    "id_number": (_ID, is_id_number, "<ID>"),
    "card_number": (_CARD, is_card_number, "<CARD>"),
    "phone": (_PHONE, _is_phone, "<PHONE>"),
}
