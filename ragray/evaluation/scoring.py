"""All metrics of an answer: those of `answers`, BLEU and chrF, and how far the cited passages support it.

In: the answer, its references, and the passages that the model was shown. Out: `Scores` with every field that counts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ragray.evaluation.answers import Given, Scores, score, strip_citations
from ragray.evaluation.grounding import support
from ragray.evaluation.ngrams import sentence_scores


def score_fully(
    given: Given, references: Sequence[str], right: Collection[str], lang: str, passages: Sequence[str]
) -> Scores:
    """`answers.score` with the fields that it leaves out.

    Support counts every question that was answered with retrieval, also those that nothing answers: there it shows
    what was invented. BLEU and chrF count answerable questions with a reference, and 0 where one was declined.

    Args:
        given: the answer.
        references: texts that are correct; none for a question that nothing answers.
        right: ids of the passages that hold the answer; none for a question that nothing answers.
        lang: the question's language.
        passages: title and text of what was shown, passage 1 first; none without retrieval.
    """
    scores = score(given, references, right, lang)
    stated = [reference for reference in references if reference.strip()]
    if right and stated:
        text = "" if given.declined else strip_citations(given.text).strip()
        bleu, chrf = sentence_scores(text, stated, lang)
        scores = replace(scores, bleu=bleu, chrf=chrf)
    if given.declined or given.closed_book:
        return scores
    found = support(given.text, passages)
    return replace(
        scores, groundedness=found.groundedness, support_precision=found.precision, support_recall=found.recall
    )
