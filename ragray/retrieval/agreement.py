"""Whether two questions that share most words also ask for the same thing.

In: two questions. Out: True only if numbers with units, dates, versions, negations, quoted strings, identifiers, names,
comparatives and words of direction are the same in the same order, if the words that both have stand in the same order,
and if both ask for the same (how, when, why, ...). No vector of words can tell `convert a list to a string` from
`convert a string to a list`. It is meant to say no too often: a yes shows somebody another question's answer.

Order matters throughout, so that swapped entities, a `from` and `to` exchanged or a negation that moved are all seen.
A capital letter marks a name where one of both questions writes it: `GitHub` in one and `github` in the other agree.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragray.retrieval.agreement_words import (
    AUXILIARIES,
    CHINESE_ASKS,
    CHINESE_FILLERS,
    CHINESE_MARKED,
    CHINESE_NOT,
    CHINESE_NOT_IN,
    CHINESE_PLAIN,
    ENGLISH_ASKS,
    ENGLISH_MARKED,
    ENGLISH_NOT,
    MEASURES,
    MONTHS,
    WAYS,
    WEEKDAYS,
)
from ragray.retrieval.numerals import (
    CHINESE_NUMERALS,
    UNITS,
    chinese,
    chinese_unit,
    scaled,
    spelled,
    written,
)
from ragray.retrieval.phrases import CJK
from ragray.retrieval.stopwords import CHINESE, ENGLISH

if TYPE_CHECKING:
    from ragray.retrieval.analyzer import Analyzer

_QUOTES = ('"', '"'), ("“", "”"), ("`", "`"), ("「", "」"), ("『", "』"), ("《", "》"), ("‘", "’")
_QUOTED = "|".join(rf"{a}[^{b}]+{b}" for a, b in _QUOTES)
_TOKEN = re.compile(
    rf"(?P<quoted>{_QUOTED}|(?<!\w)'[^']+'(?!\w))"
    rf"|(?P<flag>(?<![\w-])--?[A-Za-z][\w-]*)"
    rf"|(?P<cjk>[{CJK}]+)"
    rf"|(?P<word>[$€£¥]?[^\W{CJK}]+(?:[.,\-/:@'’_][^\W{CJK}]+)*(?:\+\+|#(?!\w)|%|°)?)"
)
_PARTS = re.compile(r"[-/,:]")
_DATE = re.compile(r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})")
_CHINESE = re.compile(
    "|".join(f"(?P<ask{number}>{forms})" for number, (_, forms) in enumerate(CHINESE_ASKS))
    + rf"|(?P<filler>{'|'.join(CHINESE_FILLERS)})"
    rf"|(?P<number>(?P<percent>百分之)?第?(?P<digits>[{CHINESE_NUMERALS}半]+))"
)
_WAYS = re.compile(WAYS, re.IGNORECASE)
_MAY = re.compile(r"\bMay\s+\d|\d(?:st|nd|rd|th)?\s+(?:of\s+)?May\b")  # the month, beside a number
_SHORTENED = re.compile(r"'(?:s|m|re|ve|ll|d)?$")
_VAGUE_ONE_AFTER = frozenset("the this that which no any every each some another other new only good".split())  # noqa: SIM905
_VAGUE_ONE_BEFORE = frozenset("can should would could of by must may might does do is has".split())  # noqa: SIM905

Mark = tuple[str, str]  # ("fact" or "name", what both must have) or ("word", its stem); a fact has no weight


@dataclass(frozen=True, slots=True)
class Reading:
    """What of a question another one must agree with: marks in their order, and what it asks for."""

    marks: tuple[Mark, ...]
    asks: tuple[str, ...]  # such as how, when; empty where it has the form of a statement


def agree(one: Reading, other: Reading) -> bool:
    """Whether both questions ask for the same thing about the same things, as far as their words tell."""
    if not _same_asks(set(one.asks), set(other.asks)):
        return False
    names = {stem for kind, stem in (*one.marks, *other.marks) if kind == "name"}
    shared = _stems(one) & _stems(other)
    if _stems(one) - shared and _stems(other) - shared:
        return False  # a word stands in place of another: perhaps a synonym, perhaps not
    kept = names | shared
    return _sequence(one, kept) == _sequence(other, kept)


def _same_asks(one: set[str], other: set[str]) -> bool:
    return one == other or {frozenset(one), frozenset(other)} <= {frozenset(), frozenset({"how"})}


def _stems(reading: Reading) -> set[str]:
    return {stem for kind, stem in reading.marks if kind != "fact"}


def _sequence(reading: Reading, kept: set[str]) -> list[str]:
    """The facts, and those words that count, each word where it stands first."""
    marks = (f"!{text}" if kind == "fact" else text for kind, text in reading.marks if kind == "fact" or text in kept)
    seen: set[str] = set()
    sequence = []
    for mark in marks:
        if mark.startswith("!") or mark not in seen:
            sequence.append(mark)
        seen.add(mark)
    return sequence


def read(question: str, analyzer: Analyzer) -> Reading:
    """What a question says that must agree; `analyzer` gives the stems of its plain words."""
    text = unicodedata.normalize("NFKC", question).replace("’", "'")
    return _Reader(_WAYS.sub("how", text), analyzer).reading()


class _Reader:
    """Reads one question from left to right."""

    def __init__(self, text: str, analyzer: Analyzer) -> None:
        self._text = text
        self._analyzer = analyzer
        self._tokens = list(_TOKEN.finditer(text))
        self._marks: list[Mark] = []
        self._asks: set[str] = set()
        self._is_chinese = any(token.lastgroup == "cjk" for token in self._tokens)
        self._words: list[str] = []  # English words in the order of their tokens, parts of hyphenated ones apart
        self._written: list[str] = []
        self._asked: list[str] = []  # all English words
        self._names_may = _MAY.search(text) is not None
        self._skipped = 0  # characters of the next Chinese run that were a number's unit

    def reading(self) -> Reading:
        """Marks and asks."""
        for number, token in enumerate(self._tokens):
            if token.lastgroup == "word":
                self._collect(token, number)
                continue
            self._flush()
            text = token.group()
            if token.lastgroup == "cjk":
                self._chinese(text[self._skipped :])
                self._skipped = 0
            else:
                self._fact(text[1:-1].strip().casefold() if token.lastgroup == "quoted" else text)
        self._flush()
        self._ask_in_english()
        return Reading(tuple(self._marks), tuple(sorted(self._asks)))

    def _fact(self, text: str) -> None:
        self._marks.append(("fact", text))

    def _collect(self, token: re.Match[str], number: int) -> None:
        """Note a word; one that is a number takes the unit behind it."""
        word = token.group()
        if (date := _DATE.fullmatch(word)) and max(len(date[1]), len(date[3])) == 4:
            self._flush()
            for part in date.groups():
                self._fact(f"#{int(part)}")
        elif (value := written(word)) is not None:
            self._flush()
            self._number(*value, number)
        elif "'" in word or all(part.isalpha() for part in _PARTS.split(word)):
            for part in _PARTS.split(word):
                self._words.append(part.lower())
                self._written.append(part)
        else:
            self._flush()
            self._fact(word.casefold().replace("-", "") if word[0].isalpha() else word.casefold())

    def _number(self, value: str, unit: str, number: int) -> None:
        following = self._tokens[number + 1] if number + 1 < len(self._tokens) else None
        if not unit and following is not None:
            between = self._text[self._tokens[number].end() : following.start()]
            if following.lastgroup == "cjk" and not between.strip():
                run = following.group()
                if run[0] in "万亿千百" and value.count(".") <= 1:
                    value, self._skipped = scaled(value, run[0]), 1
                unit = chinese_unit(run[self._skipped :])
                self._skipped += len(unit)
            elif following.group().lower() in UNITS and between.isspace():
                unit = UNITS[following.group().lower()]
        self._fact(f"#{value} {unit}".strip())

    def _flush(self) -> None:
        """Mark the English words collected so far."""
        place, words = 0, self._words
        while place < len(words):
            place += self._number_word(place) or self._word(place)
        self._asked += words
        self._words, self._written = [], []

    def _number_word(self, place: int) -> int:
        words = self._words
        if self._marks and place == 0 and words[0] in UNITS and self._marks[-1][1].endswith(f" {UNITS[words[0]]}"):
            return 1  # the unit of the number before it
        before, after = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else ""
        if words[place] == "one" and (before in _VAGUE_ONE_AFTER or after in _VAGUE_ONE_BEFORE):
            return 1
        value, count = spelled(words, place)
        if count and place + count < len(words) and words[place + count] in UNITS:
            self._fact(f"#{value} {UNITS[words[place + count]]}")
            return count + 1
        if count:
            self._fact(f"#{value}")
        return count

    def _word(self, place: int) -> int:
        word, shown = self._words[place], self._written[place]
        bare = _SHORTENED.sub("", word)
        if word in ENGLISH_NOT or word.endswith("n't"):
            self._fact("not")
        elif bare in ENGLISH_MARKED:
            self._marks.append(("name", ENGLISH_MARKED[bare]))
        elif bare in WEEKDAYS or (bare in MONTHS and (bare != "may" or self._names_may)):
            self._fact(bare[:3])
        elif bare not in ENGLISH and bare not in AUXILIARIES and (stem := self._stem(bare)):
            is_name = shown != word or self._is_chinese or len(bare) == 1
            self._marks.append(("name" if is_name else "word", stem))
        return 1

    def _stem(self, word: str) -> str:
        terms = self._analyzer.terms(word)
        return terms[0] if terms else word

    def _chinese(self, run: str) -> None:
        at = 0
        for found in _CHINESE.finditer(run):
            begin, end = found.span()
            if begin < at:
                continue  # the unit of a number
            self._chinese_words(run[at:begin])
            at = end
            if found["number"]:
                at = self._chinese_number(run, found)
            elif (kind := found.lastgroup or "").startswith("ask"):
                self._asks.add(CHINESE_ASKS[int(kind[3:])][0])
        self._chinese_words(run[at:])

    def _chinese_number(self, run: str, found: re.Match[str]) -> int:
        """Mark a numeral with its unit, and say where it ends."""
        digits, end = found["digits"], found.end()
        value = "0.5" if digits == "半" else chinese(digits.replace("半", "")) + (".5" if "半" in digits else "")
        unit = "%" if found["percent"] else chinese_unit(run[end:])
        self._fact(f"#{value} {unit}".strip())
        return end if found["percent"] else end + len(unit)

    def _chinese_words(self, text: str) -> None:
        if not text:
            return
        import rjieba

        for word in rjieba.cut(text):
            if any(sign in word for sign in CHINESE_NOT) and word not in CHINESE_NOT_IN:
                self._fact("不")
                word = word.translate({ord(sign): None for sign in CHINESE_NOT})
            if word not in CHINESE_PLAIN and any(sign in word for sign in CHINESE_MARKED):
                self._marks.append(("name", word))
            elif word and word not in CHINESE:
                self._marks.append(("word", word))

    def _ask_in_english(self) -> None:
        words = self._asked
        for place, word in enumerate(words):
            kind = ENGLISH_ASKS.get(_SHORTENED.sub("", word))
            following = words[place + 1] if place + 1 < len(words) else ""
            if kind == "how" and following in MEASURES:
                kind = f"how {following}"
            if kind is not None:
                self._asks.add("why" if (word, following) == ("how", "come") else kind)
        if not self._asks and words and words[0] in AUXILIARIES:
            self._asks.add("whether")
