"""How much of an answer stands in the passages that it cites: groundedness, and support of each statement.

In: an answer with citation marks such as ` [2]`, and the passages that the model was shown. Out: `Support`. The test is
lexical: a word, a number or a pair of Chinese characters is supported where it stands in a cited passage. It sees
invented names, numbers and subjects. It does not see a "not" that is missing, numbers that changed places, or words
that say the same: a faithful answer in other words scores low, a false one in the passage's own words high.

Statements are sentences. A statement rests on the marks in or right behind it; marks at the end of the whole answer
count for every statement without marks of its own, since the assistant puts the answer's leading mark there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ragray.evaluation.answers import BY_CHARACTER, CITATION
from ragray.retrieval.stopwords import ENGLISH

SUPPORTED = 0.75  # least share of a statement's units that must stand in the cited passages

_NUMBER = re.compile(r"\d{1,2}")
_STATEMENT = re.compile(
    rf".+?(?:(?:[。！？!?；;]|\.(?=[\s\[]|$))+(?:\s*{CITATION.pattern})*|\n|$)", re.DOTALL
)  # up to its last mark, with the citations behind it
_RUN = re.compile(rf"[{BY_CHARACTER}]+|\d+(?:[.,:]\d+)*|[^\W\d_{BY_CHARACTER}]+")


@dataclass(frozen=True, slots=True)
class Support:
    """What the cited passages hold of one answer; None where there is nothing to measure.

    `groundedness` counts units, `recall` statements and `precision` citations; each is from 0 to 1.
    """

    groundedness: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of an answer: its units, and the numbers of the passages that it cites."""

    units: tuple[str, ...]
    cited: tuple[int, ...]


def support(answer: str, passages: Sequence[str]) -> Support:
    """How far the cited passages support an answer.

    `groundedness` is the share of the answer's units, repetitions counted, that stand in a passage which their
    statement cites. `recall` is the share of statements that cite anything and have at least `SUPPORTED` of their units
    in the passages cited, together. `precision` is the share of citations whose statement is supported so, and which
    support it alone or are needed for it.
    Source: Gao et al. 2023, "Enabling Large Language Models to Generate Text with Citations" (ALCE), section 4, with
    lexical support in place of a model of entailment, so the figures are not ALCE's.

    Args:
        answer: with marks; a mark of a number that was not shown counts as a citation of nothing.
        passages: what was shown, passage 1 first.
    """
    stated = statements(answer)
    shown = [frozenset(units(passage)) for passage in passages]
    total = sum(len(statement.units) for statement in stated)
    if not total:
        return Support(None, None, None)
    grounded = sum(_found(statement.units, _of(shown, statement.cited)) for statement in stated)
    supported = [_supports(statement.units, shown, statement.cited) for statement in stated]
    precise = [
        ok and _needed(statement, number, shown)
        for statement, ok in zip(stated, supported, strict=True)
        for number in statement.cited
    ]
    return Support(
        groundedness=grounded / total,
        precision=sum(precise) / len(precise) if precise else None,
        recall=sum(supported) / len(supported),
    )


def statements(answer: str) -> list[Statement]:
    """The sentences of an answer that say anything, each with what it cites."""
    parts = [part for part in _STATEMENT.findall(answer) if part.strip()]
    found = [Statement(tuple(units(CITATION.sub(" ", part))), _cited(part)) for part in parts]
    trailing = _cited(answer[_last_words_end(answer) :])
    covered = [replace(one, cited=trailing) if not one.cited else one for one in found]
    return [one for one in covered if one.units]


def units(text: str) -> list[str]:
    """What support is counted in: words and numbers, less English function words, and pairs of Chinese characters.

    NFKC and lower case; a Chinese character that stands alone is a unit, and marks part words.
    """
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if not re.match(f"[{BY_CHARACTER}]", run):
            found += [run] if run not in ENGLISH else []
        elif len(run) == 1:
            found.append(run)
        else:
            found += [run[n : n + 2] for n in range(len(run) - 1)]
    return found


def _cited(text: str) -> tuple[int, ...]:
    marks = CITATION.findall(text)
    return tuple(dict.fromkeys(int(number) for mark in marks for number in _NUMBER.findall(mark)))


def _last_words_end(answer: str) -> int:
    """Where the last unit, or anything that is no citation mark, ends."""
    without = CITATION.sub(lambda mark: " " * len(mark[0]), answer)
    return len(without.rstrip())


def _of(shown: Sequence[frozenset[str]], cited: Iterable[int]) -> frozenset[str]:
    """The units of the cited passages together."""
    return frozenset().union(*(shown[number - 1] for number in cited if 1 <= number <= len(shown)))


def _found(wanted: Sequence[str], there: Collection[str]) -> int:
    return sum(unit in there for unit in wanted)


def _supports(wanted: Sequence[str], shown: Sequence[frozenset[str]], cited: Sequence[int]) -> bool:
    return bool(cited) and _found(wanted, _of(shown, cited)) >= SUPPORTED * len(wanted)


def _needed(statement: Statement, number: int, shown: Sequence[frozenset[str]]) -> bool:
    """Whether a citation supports its statement alone, or the others do not without it."""
    rest = [other for other in statement.cited if other != number]
    return _supports(statement.units, shown, [number]) or not _supports(statement.units, shown, rest)
