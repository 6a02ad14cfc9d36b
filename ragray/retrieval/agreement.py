"""Whether two questions that share most words also ask for the same thing.

In: two questions. Out: True only if numbers with units, dates, versions, operators and other signs, negations, quoted
strings, identifiers, names, persons, comparatives, prepositions and words of direction are the same in the same order,
if the words that both have stand in the same order, and if both ask for the same (how, when, why, ...). No vector of
words can tell `convert a list to a string` from `convert a string to a list`. It is meant to say no too often: a yes
shows somebody another question's answer.

Order matters throughout, so that swapped entities, a `from` and `to` exchanged or a negation that moved are all seen.
A capital letter marks a name where one of both questions writes it: `GitHub` in one and `github` in the other agree.
A single letter keeps its case, and a word such as `US` that is written in capitals is not `us`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragray.retrieval.agreement_tokens import sign, tokens
from ragray.retrieval.agreement_words import (
    ADDRESSED,
    AUXILIARIES,
    CHINESE_ASKS,
    CHINESE_FILLERS,
    CHINESE_LINKED,
    CHINESE_MARKED,
    CHINESE_MARKED_WORDS,
    CHINESE_MODALS,
    CHINESE_NOT,
    CHINESE_NOT_IN,
    CHINESE_PLAIN,
    ENGLISH_ASKS,
    ENGLISH_LINKED,
    ENGLISH_MARKED,
    ENGLISH_NOT,
    FIRST_PERSON,
    MEASURES,
    MONTHS,
    POLITE,
    SECOND_PERSON,
    WAYS,
    WEEKDAYS,
)
from ragray.retrieval.numerals import CHINESE_NUMERALS, chinese, chinese_unit, scaled, spelled, unit_of, written
from ragray.retrieval.stopwords import CHINESE, ENGLISH

if TYPE_CHECKING:
    from ragray.retrieval.analyzer import Analyzer

_PARTS = re.compile(r"[-/,:]")
_DATE = re.compile(r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})")
_CHINESE = re.compile(
    "|".join(f"(?P<ask{number}>{forms})" for number, (_, forms) in enumerate(CHINESE_ASKS))
    + rf"|(?P<filler>{'|'.join(CHINESE_FILLERS)})"
    rf"|(?P<number>(?P<percent>百分之)?第?(?P<digits>[{CHINESE_NUMERALS}半]+))"
)
READING_VERSION = 2  # raised with each change of what is read: what was measured or kept by another is not comparable
_WAYS = re.compile(WAYS, re.IGNORECASE)
_POLITE = re.compile(POLITE, re.IGNORECASE)
_MAY = re.compile(r"\bMay\s+\d|\d(?:st|nd|rd|th)?\s+(?:of\s+)?May\b")  # the month, beside a number
_SHORTENED = re.compile(r"'(?:s|m|re|ve|ll|d)?$")
_DENIED = re.compile(r"(.+?)n[o']?t")
_CUT = {"ca": "can", "wo": "will", "sha": "shall"}  # of can't, won't and shan't
_TAILS = {"'ll": "will", "'ve": "have"}
_GENERIC_AFTER = frozenset("do can could should would may might".split())  # noqa: SIM905
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
    return _Reader(_WAYS.sub("how", _POLITE.sub("", text)), analyzer).reading()


class _Reader:
    """Reads one question from left to right."""

    def __init__(self, text: str, analyzer: Analyzer) -> None:
        self._text = text
        self._analyzer = analyzer
        self._tokens = tokens(text)
        self._marks: list[Mark] = []
        self._asks: set[str] = set()
        self._is_chinese = any(token.lastgroup == "cjk" for token in self._tokens)
        self._words: list[str] = []  # English words in the order of their tokens, parts of hyphenated ones apart
        self._written: list[str] = []
        self._asked: list[str] = []  # all English words
        self._names_may = _MAY.search(text) is not None
        self._persons = frozenset(re.findall(r"[a-z]+", text.lower())) & (FIRST_PERSON | SECOND_PERSON)
        self._skipped = 0  # characters of the next Chinese run that were a number's unit
        self._unit_at = -1  # the token that was a number's unit

    def reading(self) -> Reading:
        """Marks and asks."""
        for number, token in enumerate(self._tokens):
            if number == self._unit_at:
                continue
            if token.lastgroup == "word":
                self._collect(token, number)
                continue
            self._flush()
            text = token.group()
            if token.lastgroup == "cjk":
                self._chinese(text[self._skipped :])
                self._skipped = 0
            elif token.lastgroup == "sign":
                self._fact(sign(self._text, token))
            else:
                self._fact(text[1:-1].strip() if token.lastgroup == "quoted" else text)
        self._flush()
        self._ask_in_english()
        return Reading(tuple(self._marks), tuple(sorted(self._asks)))

    def _fact(self, text: str) -> None:
        self._marks.append(("fact", text))

    def _collect(self, token: re.Match[str], number: int) -> None:
        """Note a word; one that is a number takes the unit behind it."""
        word = token.group()
        parts = _PARTS.split(word)
        if (date := _DATE.fullmatch(word)) and max(len(date[1]), len(date[3])) == 4:
            self._flush()
            for part in date.groups():
                self._fact(f"#{int(part)}")
        elif (value := written(word)) is not None:
            self._flush()
            self._number(*value, number)
        elif len(parts) > 1 and all(len(part) == 1 for part in parts):  # a-b is not a/b
            self._flush()
            self._fact(word)
        elif "'" in word or all(part.isalpha() for part in parts):
            for part in parts:
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
            elif not between.strip() and (unit := unit_of(following.group())):
                self._unit_at = number + 1
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
        before, after = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else ""
        if words[place] == "one" and (before in _VAGUE_ONE_AFTER or after in _VAGUE_ONE_BEFORE):
            return 1
        value, count = spelled(words, place)
        unit = unit_of(words[place + count]) if count and place + count < len(words) else ""
        if count:
            self._fact(f"#{value} {unit}".strip())
        return count + bool(unit)

    def _word(self, place: int) -> int:
        word, shown = self._words[place], self._written[place]
        bare = _SHORTENED.sub("", word)
        if word in ENGLISH_NOT or word.endswith("n't"):
            self._fact("not")
            if (of := _DENIED.fullmatch(word)) and (label := ENGLISH_MARKED.get(_CUT.get(of[1], of[1]))):
                self._marks.append(("name", label))
        elif self._is_capitalised(shown, place):
            self._marks.append(("name", shown))
        elif bare in WEEKDAYS or (bare in MONTHS and (bare != "may" or self._names_may)):
            self._fact(bare[:3])
        elif self._is_generic(bare, place):
            pass
        elif bare in ENGLISH_MARKED:
            self._marks.append(("name", ENGLISH_MARKED[bare]))
        elif bare in ENGLISH_LINKED:
            self._marks.append(("word", ENGLISH_LINKED[bare]))
        elif bare not in ENGLISH and bare not in AUXILIARIES and (stem := self._stem(bare)):
            is_letter = len(bare) == 1
            is_name = shown != word or self._is_chinese or is_letter
            self._marks.append(("name" if is_name else "word", shown[0] if is_letter else stem))
        if (tail := word.removeprefix(bare)) in _TAILS:
            self._marks.append(("name", _TAILS[tail]))
        return 1

    def _is_capitalised(self, shown: str, place: int) -> bool:
        """Whether a word that says little is written as a name: US, IT, WHO, or an A that opens no sentence."""
        if shown.lower() not in ENGLISH | AUXILIARIES or not shown.isupper():
            return False
        return len(shown) > 1 or (shown == "A" and bool(place or self._asked or self._marks))

    def _is_generic(self, word: str, place: int) -> bool:
        """Whether a word stands for anybody, as in `how do I`, `how can you` and `how to`."""
        before, first = self._words[place - 1] if place else "", self._words[place - 2] if place > 1 else ""
        after = self._words[place + 1] if place + 1 < len(self._words) else ""
        if word == "am":
            return "i" in (before, after)
        if word in ("to", *_GENERIC_AFTER):
            return before in ("how", "where") and word != "should"
        if word not in ("i", "we", "you") or first not in ("how", "where") or before not in _GENERIC_AFTER:
            return False
        others = FIRST_PERSON if word == "you" else SECOND_PERSON
        return not self._persons & others and (word != "you" or after not in ADDRESSED)

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
                if found.group() in CHINESE_MODALS:
                    self._marks.append(("word", CHINESE_MODALS[found.group()]))
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
            if word in CHINESE_LINKED:
                self._marks.append(("word", CHINESE_LINKED[word]))
            elif word in CHINESE_MARKED_WORDS:
                self._marks.append(("name", CHINESE_MARKED_WORDS[word]))
            elif word not in CHINESE_PLAIN and any(sign in word for sign in CHINESE_MARKED):
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
