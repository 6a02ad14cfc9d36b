"""How similar two questions must be before one may get the other's answer: a threshold that keeps to an error budget.

In: questions with their answers' identity. Out: for each language a similarity from which on at most a given share of
the questions that nobody asked before would get a wrong answer. The share is not what was counted but its
one-sided 95 % upper bound, so too few questions give no threshold at all and the semantic cache stays off.

A question counts as falsely hit when the most similar question with another answer, among all of them, agrees with it
(`agreement`) and reaches the threshold. The own questions of an index lie further apart than what people ask about
them, so no threshold goes below `LEAST`, above what labelled pairs need (benchmarks/results/semantic_cache.md).

Source: the bound is that of Clopper and Pearson 1934, "The use of confidence or fiducial limits"; the choice of the
lowest threshold that passes is fixed-sequence testing, Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ragray.errors import ArtifactError
from ragray.retrieval.agreement import READING_VERSION
from ragray.retrieval.similar import PastQuestions, Wording, similarity

FORMAT_VERSION = 1
FILE = "semantic.json"
LEAST = {"en": 0.87, "zh": 0.95}  # lowest threshold that is ever used, by language
CONFIDENCE = 0.95
_FLOOR = 0.3  # pairs that are less alike are recorded as 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Similarities of one language: of each question to its nearest with another answer, and of rewordings."""

    others: tuple[float, ...]
    same: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FalseHits:
    """The measured similarities of an index's questions, by language; another reading's show no threshold."""

    languages: Mapping[str, Scores]
    format_version: int = FORMAT_VERSION
    reading: int = READING_VERSION  # of the questions that were compared

    @classmethod
    def open(cls, folder: Path) -> FalseHits | None:
        """Read `semantic.json` of a folder; None where an older ragray wrote none.

        Raises:
            ArtifactError: it is damaged or of another version.
        """
        path = Path(folder) / FILE
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format_version"] != FORMAT_VERSION:
                raise ArtifactError(f"{path}: made by another version of ragray", "run `ragray run` again")
            scores = {
                str(lang): Scores(tuple(map(float, of["others"])), tuple(map(float, of["same"])))
                for lang, of in tree["languages"].items()
            }
            return cls(scores, reading=int(tree.get("reading", 1)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: damaged: {error}", "remove its folder and run `ragray run` again") from None

    def write(self, folder: Path) -> None:
        """Write `semantic.json` into a folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), sort_keys=True) + "\n", encoding="utf-8")

    def thresholds(self, budget: float) -> dict[str, float]:
        """The threshold of each language for which the budget can be shown; the others are left out.

        Args:
            budget: highest share of questions, 0 to 1, that may get another question's answer.
        """
        if self.reading != READING_VERSION:  # questions agree otherwise than they did
            return {}
        found = {lang: threshold(scores.others, budget) for lang, scores in self.languages.items() if lang in LEAST}
        return {lang: max(value, LEAST[lang]) for lang, value in found.items() if value is not None and value <= 1.0}

    def hit_rates(self, budget: float) -> dict[str, float]:
        """The share of rewordings that are found at `thresholds(budget)`, by language."""
        return {
            lang: sum(score >= limit for score in self.languages[lang].same) / len(self.languages[lang].same)
            for lang, limit in self.thresholds(budget).items()
            if self.languages[lang].same
        }


def measure(questions: Sequence[tuple[Wording, Hashable]], rewordings: Sequence[tuple[Wording, int]]) -> Scores:
    """The similarities from which a threshold is fitted.

    Args:
        questions: of one language, each with what stands for its answer; one for each answer, or they are not
            independent and the interval is too narrow.
        rewordings: each with the place of its question.
    """
    past = PastQuestions()
    owned: dict[Hashable, set[str]] = {}
    for place, (wording, answer) in enumerate(questions):
        past.put(str(place), wording)
        owned.setdefault(answer, set()).add(str(place))
    others = (past.nearest(wording, _FLOOR, frozenset(owned[answer])) for wording, answer in questions)
    same = (similarity(wording, questions[place][0]) for wording, place in rewordings)
    return Scores(  # rounded against the cache
        tuple(math.ceil(near.similarity * 1e6) / 1e6 if near else 0.0 for near in others),
        tuple(math.floor(near * 1e6) / 1e6 for near in same),
    )


def threshold(others: Sequence[float], budget: float) -> float | None:
    """The lowest similarity that few enough of `others` reach to keep to the budget; None: there is none."""
    ordered = sorted(others, reverse=True)
    allowed = -1
    while allowed + 1 < len(ordered) and upper_bound(allowed + 1, len(ordered)) <= budget:
        allowed += 1
    if allowed < 0:
        return None
    return math.nextafter(ordered[allowed], math.inf)


def upper_bound(count: int, total: int, confidence: float = CONFIDENCE) -> float:
    """The highest share that `count` of `total` does not contradict: the one-sided Clopper-Pearson bound.

    The share at which `count` or fewer have a probability of 1 - confidence, found by bisection.
    """
    if count >= total:
        return 1.0
    low, high = count / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(count, total, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(count: int, total: int, share: float) -> float:
    """P(X <= count) of a binomial distribution."""
    if share >= 1.0:
        return 0.0
    logs = (
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        + k * math.log(share) + (total - k) * math.log1p(-share)
        for k in range(count + 1)
        if share > 0.0 or k == 0
    )  # fmt: skip
    return math.fsum(map(math.exp, logs)) if share > 0.0 else 1.0
