"""BLEU and chrF by sacrebleu: of single answers, and of all answers in one language.

In: answers, their reference texts and a language. Out: figures from 0 to 100. The mean of the figures of single
answers is not the figure of all answers together, so the two are never mixed: `sentence_scores` are for tables by
question and for comparisons, `corpus_scores` are what papers report.

Chinese is cut by sacrebleu's `zh` (each character a token), everything else by its `13a` (mteval-v13a). Both come with
the package; no tokenizer that would have to be downloaded is used.
Source: Papineni et al. 2002, "BLEU"; Popovic 2015, "chrF"; Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TOKENIZERS = {"zh": "zh"}
_OTHERS = "13a"


@dataclass(frozen=True, slots=True)
class CorpusScores:
    """BLEU and chrF of `n` answers together, with sacrebleu's signatures, which say how they were made."""

    bleu: float
    chrf: float
    n: int
    bleu_signature: str
    chrf_signature: str


def tokenizer_of(lang: str) -> str:
    """The name of sacrebleu's tokenizer for a language."""
    return _TOKENIZERS.get(lang, _OTHERS)


def sentence_scores(text: str, references: Sequence[str], lang: str) -> tuple[float, float]:
    """BLEU and chrF of one answer against all of its references, which are not empty.

    BLEU is smoothed (`exp`), and over as many orders of n-grams as the answer has.
    """
    bleu, chrf = _sentence_metrics(tokenizer_of(lang))
    return float(bleu.sentence_score(text, list(references)).score), float(
        chrf.sentence_score(text, list(references)).score
    )


def corpus_scores(texts: Sequence[str], references: Sequence[Sequence[str]], lang: str) -> CorpusScores:
    """BLEU and chrF of all answers in one language; each has one reference or more.

    Raises:
        ValueError: there is no answer, or one without a reference.
    """
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError("corpus_scores needs answers, and references of each")
    from sacrebleu.metrics import BLEU, CHRF

    streams = [list(stream) for stream in itertools.zip_longest(*references)]  # None: this one has no more of them
    bleu, chrf = BLEU(tokenize=tokenizer_of(lang)), CHRF()
    found = [metric.corpus_score(list(texts), streams) for metric in (bleu, chrf)]
    signatures = [str(metric.get_signature()) for metric in (bleu, chrf)]
    return CorpusScores(float(found[0].score), float(found[1].score), len(texts), *signatures)


@functools.cache
def _sentence_metrics(tokenizer: str) -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(tokenize=tokenizer, effective_order=True), CHRF()
