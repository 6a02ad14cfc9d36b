"""Questions that need the conversation, made whole before retrieval: "And on Windows?" says nothing by itself.

In: the user's turns, their words weighed by the index. Out: the question to search and to answer: the last turn alone
where it stands alone, else behind the content words of the turns that it goes on from. A fixed rule, no model: it
looks for a pronoun without an antecedent in the same question, for an opening that goes on from something, and for
too few content words. Only what the user wrote is carried, never the text of an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ragray.retrieval.analyzer import words_of

if TYPE_CHECKING:
    from ragray.config import ServeConfig
    from ragray.retrieval.index import HybridIndex

_MOST_TURNS = 6  # the last ones, the question included
_MOST_CARRIED = 5  # words
_MOST_WEIGHED = 48  # words of a turn; what follows changes nothing that the rule looks at
_SHORT = 3  # content words: with more, an opening such as "and" does not make a question lean on another
_WEAK = 0.5  # weight up to which a single content word is not enough

_END = r"(?=\s*(?:[?.!,;]|$))"
_PRONOUN = re.compile(
    r"\b(?:(?<!is )(?:it|its)|is it(?! (?:safe|possible|ok|okay|necessary|true|enough|better|worth|required)\b)|"
    r"they|them|their|these|those|this|(?:the|that|this) one|which ones?|the (?:former|latter)|"
    rf"the (?:same|other){_END}|"
    r"that(?=\s*(?:[?.!,;]|$|is|was|will|would|work|mean|happen|take|cost|do|does|change|help|off|on)))\b|"
    r"它们?|这个|那个|这些|那些|(?<![\u4e00-\u9fff])这样的|这样(?!的)|那样|这种|那种|这里|那里|前者|后者|上述|刚才|"
    r"^里面|其中|(?<![因如彼])此(?!外)|(?<!应)该(?!怎)|(?<!尤)其(?![他它余中次实])",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"\s*(?:(?:and|but|or|then|instead|otherwise|what about|how about|what if|why not|what else)\b|"
    rf"how (?:many|much) \w+{_END}|how (?:long|large|big|often|fast|many|much){_END}|"
    r"那(?!个|些|样|种|里)|还有|另外|以及|此外|然后|接着|如果是|要是|换成|改成|或者|但是?)",
    re.IGNORECASE,
)
_FRAGMENT = re.compile(r"\s*(?:on|in|for|with|without|from|by|to|under|at|after|before|per|only|just)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\b(?:how|what|which|where|when|who|why|do|does|did|can|could|is|are|was|will|would|should|must|may)\b",
    re.IGNORECASE,
)
_DEFINES = re.compile(r"\bwhat (?:is|are|does)\b(?! the\b)|什么是|是什么|什么叫|是谁", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it stands, with its weight: 0 a function word, 1 a word of one passage, or one of none."""

    text: str
    begin: int  # characters from the beginning of the question
    weight: float
    known: bool  # the index has it


class Weighing(Protocol):
    """What knows how much the words of a text say."""

    async def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of some texts, weighed by the index."""


async def standing_alone(turns: Sequence[str], retriever: Weighing, limits: ServeConfig) -> str:
    """The user's last turn as a question that stands alone; the retriever is asked only if there are others.

    Raises:
        ApiError: the retriever is busy or away.
    """
    turns = turns[-_MOST_TURNS:]
    if limits.condense == "none" or len(turns) == 1:
        return turns[-1]
    return condense(turns, await retriever.words(turns), limits.max_question_chars)


def weigh(index: HybridIndex, text: str) -> list[Word]:
    """The first words of a text with their weights: idf, so scaled that a term of all passages has 0, of one passage 1.

    Source: inverse document frequency, Spärck Jones 1972; in the form of the index's TF-IDF, ln((1 + N) / (1 + df)).
    """
    most = math.log((1 + len(index)) / 2) or 1.0
    words: list[Word] = []
    at = 0
    for word in words_of(text)[:_MOST_WEIGHED]:
        at = text.index(word, at)
        terms = index.terms(word)
        idf = [float(value) - 1 for value in index.query_terms(word).idf] if terms else []
        weight = min(max(*idf, 0.01) / most, 1.0) if idf else float(bool(terms))
        words.append(Word(word, at, weight, bool(idf)))
        at += len(word)
    return words


def leans(question: str, words: Sequence[Word]) -> bool:
    """Whether a question can be understood only from what was said before."""
    content = [word for word in words if word.weight > 0]
    for found in _PRONOUN.finditer(question):
        if sum(word.begin < found.start() for word in content) <= 1:
            return True
    few = len(content) <= _SHORT
    if few and (_GOES_ON.match(question) or question.rstrip("？?。 \n").endswith("呢")):
        return True
    if few and _FRAGMENT.match(question) and not _ASKS.search(question):
        return True
    telling = [word for word in content if len(word.text) > 1 or word.text.isascii()]  # 改 in 怎么改 tells little
    if _DEFINES.search(question):
        return not content
    return not telling or (len(content) == 1 and content[0].weight <= _WEAK)


def condense(turns: Sequence[str], words: Sequence[Sequence[Word]], max_chars: int) -> str:
    """The last of the user's turns as a question that stands alone.

    Args:
        turns: what the user said, in order; the last is the question.
        words: those of each turn.
        max_chars: longest result, characters; the last turn is never cut.
    """
    carried: list[Word] = []
    for turn, of_turn in zip(turns[:-1], words[:-1], strict=True):
        own = [word for word in of_turn if word.weight > 0 and word.known]
        carried = _strongest(_joined(carried, own) if leans(turn, of_turn) else own)
    question = turns[-1]
    if not carried or not leans(question, words[-1]):
        return question
    said = {word.text.lower() for word in words[-1]}
    topic = " ".join(word.text for word in carried if word.text.lower() not in said)
    condensed = f"{topic}: {question}" if topic else question
    return condensed if len(condensed) <= max_chars else question


def _joined(first: Sequence[Word], then: Sequence[Word]) -> list[Word]:
    said = {word.text.lower() for word in then}
    return [*(word for word in first if word.text.lower() not in said), *then]


def _strongest(words: Sequence[Word]) -> list[Word]:
    """The heaviest words, each once, in the order in which they stand."""
    once = list({word.text.lower(): word for word in words}.values())
    kept = sorted(once, key=lambda word: -word.weight)[:_MOST_CARRIED]
    return [word for word in once if word in kept]
