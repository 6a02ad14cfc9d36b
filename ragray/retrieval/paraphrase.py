"""Questions as strangers ask them: fewer of the original's words, and other words in between.

In: a question whose answer is known. Out: a text that shares only some words with it. Rewording by rule stays
too close to the original to teach when a passage does not answer; people keep about half of the words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ragray.retrieval.analyzer import Analyzer, words_of

_UNKNOWN = "qzxv"  # no corpus holds it: a word that the index has never seen


def imitate(
    question: str, analyzer: Analyzer, others: Sequence[str], chance: random.Random, kept: float, added: float
) -> str:
    """`question` with each content word kept with chance `kept`, and others added.

    Args:
        question: the original.
        analyzer: tells content words, which it makes terms of, from the rest.
        others: content words of other questions, to add.
        chance: the source of randomness; the result depends on its state alone.
        kept: chance of each content word to stay; at least one stays.
        added: expected number of added words for each content word of the original.
    """
    words = words_of(question)
    content = [number for number, word in enumerate(words) if analyzer.terms(word)]
    if not content:
        return question
    left_out = {number for number in content if chance.random() >= kept}
    if len(left_out) == len(content):
        left_out.discard(chance.choice(content))
    shown = [word for number, word in enumerate(words) if number not in left_out]
    for _ in content:
        if chance.random() < added:
            shown.append(chance.choice(others) if others and chance.random() < 0.9 else _UNKNOWN)
    return " ".join(shown)


def content_words(questions: Sequence[str], analyzer: Analyzer) -> list[str]:
    """All words of `questions` that the analyzer makes terms of, repeated as they occur."""
    return [word for question in questions for word in words_of(question) if analyzer.terms(word)]
