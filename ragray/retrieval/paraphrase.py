"""Questions as strangers ask them: fewer of the original's words, and other words in between.

In: a question whose answer is known. Out: a text that shares only some words with it. Rewording by rule stays
too close to the original to teach when a passage does not answer. In 1,249 human rephrasings (StackFAQ) a
title holds 0.40 of what the question says and its passage 0.59; imitated questions reach 0.38 and 0.60.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ragray.retrieval.analyzer import Analyzer, words_of
from ragray.retrieval.phrases import is_chinese

_UNKNOWN = {"zh": "龘靐"}  # words that no corpus holds
_UNKNOWN_LATIN = "qzxv"


@dataclass(frozen=True, slots=True)
class Rewording:
    """How strongly a question is changed: chances for each of its content words."""

    kept: float  # to stay
    from_answer: float  # that a word of the answer is added
    from_others: float  # that a word of other questions is added
    unknown: float  # that a word is added which the index has never seen


HUMAN = (
    Rewording(0.7, 0.2, 0.2, 0.1),
    Rewording(0.5, 0.3, 0.3, 0.1),
    Rewording(0.4, 0.4, 0.3, 0.15),
    Rewording(0.4, 0.2, 0.6, 0.15),
)  # between them: StackFAQ's human rephrasings
UNRELATED = Rewording(0.0, 0.0, 0.6, 0.5)  # words without their question: nothing answers them


@dataclass(frozen=True, slots=True)
class WordSources:
    """Content words that may be added, in the language of the question."""

    lang: str
    answer: Sequence[str]
    others: Sequence[str]


def imitate(
    question: str, rewording: Rewording, sources: WordSources, analyzer: Analyzer, chance: random.Random
) -> str:
    """`question` with some of its content words left out and others added at random places.

    The result depends on the arguments and on the state of `chance` alone. A question without content
    words stays as it is.
    """
    words = words_of(question)
    content = [number for number, word in enumerate(words) if analyzer.terms(word)]
    left_out = {number for number in content if chance.random() >= rewording.kept}
    shown = [word for number, word in enumerate(words) if number not in left_out]
    unknown = [_UNKNOWN.get(sources.lang, _UNKNOWN_LATIN)]
    additions = (
        (rewording.from_answer, sources.answer),
        (rewording.from_others, sources.others),
        (rewording.unknown, unknown),
    )
    for _ in content:
        for share, source in additions:
            if chance.random() < share and source:
                shown.insert(chance.randrange(len(shown) + 1), chance.choice(source))
    return _joined(shown)


def content_words(texts: Sequence[str], analyzer: Analyzer) -> list[str]:
    """All words of `texts` that the analyzer makes terms of, repeated as they occur."""
    return [word for text in texts for word in words_of(text) if analyzer.terms(word)]


def _joined(words: Sequence[str]) -> str:
    """Words with spaces between them, but not between Chinese ones."""
    text = ""
    for word in words:
        apart = text and not (is_chinese(text[-1]) and is_chinese(word[0]))
        text += f" {word}" if apart else word
    return text
