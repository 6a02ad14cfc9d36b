"""How good answers are: exact match, token F1, CMRC's F1, ROUGE-L, declines and citations.

In: what an engine answered, with the reference texts and the ids of the passages that hold them.
Out: `Scores` per question, where None means "this metric does not count this question". Chinese is
compared by character, everything else by word, so one number serves mixed text. What needs more than
the core packages, or the text of the passages, is added by `scoring`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

METRICS = (
    "exact_match",
    "f1",
    "cmrc_f1",
    "rouge_l",
    "bleu",
    "chrf",
    "declined_unanswerable",
    "declined_answerable",
    "decline_precision",
    "citation_precision",
    "citation_recall",
    "groundedness",
    "support_precision",
    "support_recall",
)
LOWER_IS_BETTER = frozenset({"declined_answerable"})
BY_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han and kana

CITATION = re.compile(r"(?<![A-Za-z0-9_\])])(?:\[\d{1,2}\])+")  # marks, not an index such as names[0]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TOKEN = re.compile(rf"[{BY_CHARACTER}]|[^\s{BY_CHARACTER}]+")
_CMRC_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_HAN = "\u4e00-\u9fa5"  # what CMRC's script takes for Chinese
_CMRC_MARK = (  # what NLTK's tokenizer parts off: marks, the last point, and the ends of "one's" and "don't"
    r"""[;@#$%&?!()\[\]{}<>"«»„–—]|\.{2,}|,(?!\d)|\.(?=[\])}>"' ]*(?:$|[""" + _HAN + "]))"
    r"|(?<=[^'\s])(?:'(?:s|m|d|ll|re|ve)|n't)(?!\w)"
)
_CMRC_SEGMENT = re.compile(rf"[{_HAN}]|{_CMRC_MARK}|(?:(?!{_CMRC_MARK})[^\s{_HAN}])+")


@dataclass(frozen=True, slots=True)
class Given:
    """What came back for one question."""

    text: str
    declined: bool
    cited: tuple[str, ...] = ()  # ids of the passages that the answer cites
    closed_book: bool = False  # without retrieval there is nothing to cite


@dataclass(frozen=True, slots=True)
class Scores:
    """One question's share in every metric; None where the metric does not count it."""

    exact_match: float | None
    f1: float | None
    cmrc_f1: float | None
    rouge_l: float | None
    declined_unanswerable: float | None
    declined_answerable: float | None
    decline_precision: float | None
    citation_precision: float | None
    citation_recall: float | None
    bleu: float | None = None  # 0 to 100, as chrf
    chrf: float | None = None
    groundedness: float | None = None
    support_precision: float | None = None
    support_recall: float | None = None


def strip_citations(text: str) -> str:
    """`text` without its citation marks such as ` [2]`."""
    return CITATION.sub(" ", text)


def normalize(text: str, lang: str) -> str:
    """The form in which answers are compared.

    Unicode NFKC (full-width forms become ASCII), lower case, punctuation and symbols of any script
    deleted, white space joined, and for `lang == "en"` the articles a, an, the left out. For ASCII
    text in English this is the SQuAD script's `normalize_answer`.
    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1 and its evaluation script v1.1.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(c for c in text if unicodedata.category(c)[0] not in "PS")
    if lang == "en":
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def tokens(text: str, lang: str) -> list[str]:
    """The normalized text's tokens: one for each Han or kana character, one for each other word or number."""
    return _TOKEN.findall(normalize(text, lang))


def exact_match(prediction: str, references: Sequence[str], lang: str) -> float:
    """1.0 if the tokens equal those of any reference, else 0.0."""
    return _best(lambda given, wanted: float(given == wanted), prediction, references, lang)


def token_f1(prediction: str, references: Sequence[str], lang: str) -> float:
    """Harmonic mean of precision and recall over shared tokens, counted with multiplicity; best reference.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1.
    """
    return _best(_overlap_f1, prediction, references, lang)


def cmrc_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the longest run of segments in common; best reference.

    A segment is a Chinese character, what stands between white space, or a mark that NLTK's tokenizer parts off; lower
    case, and without the marks that CMRC's script removes. With a model that it would download, NLTK takes the point
    off at the end of each sentence; here it goes at the end of the last alone.
    Source: Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension", section 4.1,
    and its evaluation script, version 4.
    """
    given = _cmrc_segments(prediction)
    return max((_run_f1(given, _cmrc_segments(reference)) for reference in references), default=0.0)


def rouge_l(prediction: str, references: Sequence[str], lang: str) -> float:
    """F measure (beta = 1) of the longest common subsequence of tokens; best reference.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1, eq. 2-4.
    """
    return _best(_subsequence_f1, prediction, references, lang)


def score(given: Given, references: Sequence[str], right: Collection[str], lang: str) -> Scores:
    """The metrics of one answer that need nothing but its text and the ids of passages; the others are None.

    Args:
        given: the answer.
        references: texts that are correct; none for a question that nothing answers.
        right: ids of the passages that hold the answer; none for a question that nothing answers.
        lang: the question's language.
    """
    precision = float(not right) if given.declined else None
    if not right:
        return Scores(None, None, None, None, float(given.declined), None, precision, None, None)
    if given.declined:
        return Scores(0.0, 0.0, 0.0, 0.0, None, 1.0, precision, None, None)
    text = strip_citations(given.text)
    hits = [float(doc_id in right) for doc_id in given.cited]
    return Scores(
        exact_match=exact_match(text, references, lang),
        f1=token_f1(text, references, lang),
        cmrc_f1=cmrc_f1(text, references),
        rouge_l=rouge_l(text, references, lang),
        declined_unanswerable=None,
        declined_answerable=0.0,
        decline_precision=None,
        citation_precision=sum(hits) / len(hits) if hits else None,
        citation_recall=None if given.closed_book else max(hits, default=0.0),
    )


def column(scores: Sequence[Scores], metric: str) -> list[float]:
    """The values of one metric over the questions that it counts."""
    return [value for row in scores if (value := getattr(row, metric)) is not None]


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by one machine addition for each token of `second` instead of a table row.

    Source: Hyyro 2004, "Bit-parallel LCS-length Computation Revisited", figure 2.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    mask = (1 << len(first)) - 1
    unmatched = mask
    for token in second:
        matches = unmatched & places.get(token, 0)
        unmatched = ((unmatched + matches) | (unmatched - matches)) & mask
    return len(first) - unmatched.bit_count()


def _best(
    measure: Callable[[list[str], list[str]], float], prediction: str, references: Sequence[str], lang: str
) -> float:
    given = tokens(prediction, lang)
    return max((measure(given, tokens(reference, lang)) for reference in references), default=0.0)


def _overlap_f1(given: list[str], wanted: list[str]) -> float:
    return _f1((Counter(given) & Counter(wanted)).total(), len(given), len(wanted))


def _subsequence_f1(given: list[str], wanted: list[str]) -> float:
    return _f1(longest_common_subsequence(given, wanted), len(given), len(wanted))


def _cmrc_segments(text: str) -> list[str]:
    return _CMRC_SEGMENT.findall("".join(c for c in text.lower() if c not in _CMRC_MARKS))


def _run_f1(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return 0.0  # as the script has it, also for two empty texts
    matcher = SequenceMatcher(None, given, wanted, autojunk=False)
    return _f1(matcher.find_longest_match().size, len(given), len(wanted))


def _f1(shared: int, given: int, wanted: int) -> float:
    """2PR/(P+R) for P = shared/given and R = shared/wanted; 1.0 for two empty texts."""
    return 2.0 * shared / (given + wanted) if given + wanted else 1.0
