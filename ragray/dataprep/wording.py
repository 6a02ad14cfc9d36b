"""Reading the word lists of the wording rules, which are written to be read and added to.

In: a text of a few short lines. Out: tuples and mappings.
"""

from __future__ import annotations

import re
from random import Random

Rules = tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]

_ENTRY = re.compile(r"[;\n]")


def items(text: str) -> tuple[str, ...]:
    """Entries that semicolons or line ends divide."""
    return tuple(entry.strip() for entry in _ENTRY.split(text) if entry.strip())


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Entries of the form `word: other`."""
    split = (entry.rpartition(": ") for entry in items(text))
    return tuple((word.strip(), other.strip()) for word, _, other in split)


def word_table(text: str) -> dict[str, tuple[str, ...]]:
    """Entries of the form `word: other, another`."""
    return {word: tuple(part.strip() for part in others.split(",")) for word, others in pairs(text)}


def rules(text: str) -> Rules:
    """Blocks of a pattern and, indented below it, the forms that may take its place; letter case is ignored."""
    blocks = [block.strip("\n").split("\n") for block in text.strip("\n").split("\n\n")]
    return tuple(
        (re.compile(pattern.strip(), re.IGNORECASE), tuple(form.strip() for form in forms))
        for pattern, *forms in blocks
    )


def apply_rules(table: Rules, question: str, chance: Random) -> str:
    """One of the forms of the first rule that the whole question fits, or ""."""
    for pattern, forms in table:
        match = pattern.fullmatch(question)
        if match:
            return match.expand(chance.choice(forms)).strip()
    return ""


def replace_some(text: str, places: list[re.Match[str]], others: dict[str, tuple[str, ...]], chance: Random) -> str:
    """One to three of the `places` replaced by one of the `others` of their word; "" takes a word out."""
    chosen = set(chance.sample(range(len(places)), min(len(places), chance.randint(1, 3))))
    for number in sorted(chosen, reverse=True):
        match = places[number]
        other = chance.choice(others[match[0].lower()])
        if match[0][:1].isupper():
            other = other[:1].upper() + other[1:]
        text = text[: match.start()] + other + text[match.end() :]
    return text
