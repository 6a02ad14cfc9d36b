"""How likely it is that the top passages answer the query: fused ranks alone cannot say.

In: an opened index, a query and its hits. Out: a probability, and the threshold below which to decline.
The model is a logistic regression over a dozen figures that do not depend on the corpus's size: how much
of what the query says the best passages hold, how close they are, and whether the two lists agree. It is
fitted on questions with and without an answer in the index, and kept in `confidence.json`.

Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines" (fitting by regularized maximum
likelihood); query performance prediction by coverage and margin: Carmel and Yom-Tov 2010.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragray.errors import ArtifactError, DataError
from ragray.retrieval.index import Hit, HybridIndex

Floats = NDArray[np.float64]

FORMAT_VERSION = 1
FILE = "confidence.json"
FEATURES = (
    "coverage_first", "coverage_best", "coverage_title", "title_similarity", "rarest_covered", "cosine",
    "bm25_share", "bm25_margin", "cosine_margin", "agreement", "unknown_share", "log_terms",
)  # fmt: skip
_READ = 3  # passages that are looked into
_RIDGE = 1.0
_BINS = 10
_REMAKE = "remove its folder and run `ragray run` again"


def features(index: HybridIndex, query: str, hits: Sequence[Hit], absent: Collection[str] = ()) -> Floats:
    """The figures named in `FEATURES`, float64 [features]; zeros where nothing was found.

    Args:
        index: where `hits` were found.
        query: what was asked.
        hits: the result of `index.search`, best first; ten are enough.
        absent: ids that were excluded from the search: a term that they alone hold counts as unknown.
    """
    known, unknown = _information(index, query, absent)
    total = sum(known.values()) + unknown
    if not hits or total <= 0.0:
        return np.zeros(len(FEATURES))
    held = [_held(index, known, hit) for hit in hits[:_READ]]
    covered = [sum(known[number] for number in numbers) / total for numbers in held]
    titles = [_title_match(index, known, total, hit) for hit in hits[:_READ]]
    cosines = sorted((hit.tfidf_score for hit in hits), reverse=True)
    bm25 = sorted((hit.bm25_score for hit in hits), reverse=True)
    rarest = max(known, key=lambda number: (known[number], number))
    return np.array(
        [
            covered[0],
            max(covered),
            max(share for share, _ in titles),
            max(similarity for _, similarity in titles),
            float(any(rarest in numbers for numbers in held)) * (known[rarest] / total),
            cosines[0] * (1.0 - unknown / total),
            bm25[0] / total,
            _margin(bm25),
            _margin(cosines),
            (_reciprocal(hits[0].bm25_rank) + _reciprocal(hits[0].tfidf_rank)) / 2,
            unknown / total,
            np.log1p(len(known)),
        ]
    )


def coverage(index: HybridIndex, text: str, doc_id: str) -> float:
    """How much of what `text` says a document holds: the share of its terms, weighted by their information."""
    known, unknown = _information(index, text)
    total = sum(known.values()) + unknown
    numbers = index.postings.held(known, index.number(doc_id))
    return sum(known[number] for number in numbers) / total if total > 0.0 else 0.0


def _information(
    index: HybridIndex, query: str, absent: Collection[str] = ()
) -> tuple[dict[int, float], float]:
    """What the query's known terms say, by number, and its unknown terms together: ln((1 + N) / (1 + df))."""
    documents = len(index) - len(absent)
    numbers = [index.postings.vocabulary.find(term) for term in dict.fromkeys(index.terms(query))]
    frequencies = {number: index.postings.frequency(number) for number in numbers if number is not None}
    for doc_id in absent:
        for number in index.postings.held(frequencies, index.number(doc_id)):
            frequencies[number] -= 1
    lost = [number for number, df in frequencies.items() if df == 0]
    unknown = (numbers.count(None) + len(lost)) * math.log(1.0 + documents)
    known = {number: math.log((1.0 + documents) / (1.0 + df)) for number, df in frequencies.items() if df}
    return known, unknown


def _held(index: HybridIndex, known: dict[int, float], hit: Hit) -> list[int]:
    return index.postings.held(known, index.number(hit.doc_id))


def _title_match(index: HybridIndex, known: dict[int, float], total: float, hit: Hit) -> tuple[float, float]:
    """The share of the query that the title holds, and their similarity: shared / (query + title - shared)."""
    title, unknown = _information(index, index.passage(hit.doc_id).title)
    shared = sum(value for number, value in title.items() if number in known)
    return shared / total, shared / (total + sum(title.values()) + unknown - shared)


def _margin(scores: Sequence[float]) -> float:
    """How far the best is above the second, as a share of the best."""
    if scores[0] <= 0.0:
        return 0.0
    return 1.0 - (scores[1] / scores[0] if len(scores) > 1 else 0.0)


def _reciprocal(rank: int | None) -> float:
    return 0.0 if rank is None else 1.0 / rank


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of the reliability diagram: queries whose probability lies in [low, high)."""

    low: float
    high: float
    count: int
    mean_probability: float
    share_answered: float


@dataclass(frozen=True)
class Confidence:
    """A fitted model. Decline where `probability` is below `threshold`."""

    intercept: float
    coefficients: tuple[float, ...]
    threshold: float
    max_false_declines: float
    counts: dict[str, int]
    metrics: dict[str, float]  # on validation questions: shares declined, Brier score
    reliability: tuple[Bin, ...]
    index_digest: str = ""
    features: tuple[str, ...] = FEATURES
    format_version: int = FORMAT_VERSION

    @classmethod
    def open(cls, folder: Path) -> Confidence:
        """Read `confidence.json` of a folder.

        Raises:
            ArtifactError: it is missing, damaged or of another version.
        """
        path = Path(folder) / FILE
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format_version"] != FORMAT_VERSION or tuple(tree["features"]) != FEATURES:
                raise ArtifactError(f"{path}: made by another version of ragray", _REMAKE)
            tree["reliability"] = tuple(Bin(**item) for item in tree["reliability"])
            tree["features"], tree["coefficients"] = FEATURES, tuple(map(float, tree["coefficients"]))
            return cls(**tree)
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such file", "run `ragray run`, which makes it") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: damaged: {error}", _REMAKE) from None

    def write(self, folder: Path) -> None:
        """Write `confidence.json` into a folder."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def probability(self, index: HybridIndex, query: str, hits: Sequence[Hit]) -> float:
        """P(the top passages answer the query); 0 where nothing was found."""
        if not hits:
            return 0.0
        return float(self.probabilities(features(index, query, hits)[None, :])[0])

    def probabilities(self, rows: Floats) -> Floats:
        """The probability of each row of features, [rows]."""
        return _sigmoid(rows @ np.array(self.coefficients) + self.intercept)


@dataclass(frozen=True)
class Examples:
    """Questions as features, and whether the top passages answer each.

    `rows`: float64 [questions, features]; `answered`: bool [questions]; `answerable`: bool [questions], whether
    the index holds an answer at all; `validation`: bool [questions], held out to choose the threshold.
    """

    rows: Floats
    answered: NDArray[np.bool_]
    answerable: NDArray[np.bool_]
    validation: NDArray[np.bool_]


def fit(examples: Examples, max_false_declines: float, index_digest: str = "") -> Confidence:
    """Fit the probability on the examples that are not held out, and the threshold on those that are.

    Raises:
        DataError: there are not both kinds of questions to fit on, or no answerable one to hold out.
    """
    train = ~examples.validation
    held_out = examples.validation & examples.answerable
    kinds = set(examples.answered[train].tolist())
    if kinds != {False, True} or not held_out.any():
        raise DataError("too few questions to learn when to decline", "give more records, or a larger data.split.valid")
    intercept, coefficients = logistic_regression(examples.rows[train], examples.answered[train])
    probabilities = _sigmoid(examples.rows @ coefficients + intercept)
    threshold = decline_threshold(probabilities[held_out], max_false_declines)
    declined = probabilities < threshold
    errors = (probabilities - examples.answered)[examples.validation]
    return Confidence(
        intercept=intercept,
        coefficients=tuple(coefficients.tolist()),
        threshold=threshold,
        max_false_declines=max_false_declines,
        counts={
            "train": int(train.sum()),
            "validation": int(examples.validation.sum()),
            "validation_answerable": int(held_out.sum()),
        },
        metrics={
            "declined_answerable": float(declined[held_out].mean()),
            "declined_unanswerable": float(declined[examples.validation & ~examples.answerable].mean()),
            "brier": float((errors**2).mean()),
        },
        reliability=reliability(probabilities[~train], examples.answered[~train]),
        index_digest=index_digest,
    )


def logistic_regression(rows: Floats, labels: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Intercept and coefficients by Newton's method, with an L2 penalty on the standardized coefficients."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread == 0.0] = 1.0
    design = np.column_stack([np.ones(len(rows)), (rows - mean) / spread])
    penalty = np.full(design.shape[1], _RIDGE)
    penalty[0] = 1e-6
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (labels - p) - penalty * beta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        beta += step
        if np.abs(step).max() < 1e-10:
            break
    coefficients = beta[1:] / spread
    return float(beta[0] - coefficients @ mean), coefficients


def decline_threshold(probabilities: Floats, max_false_declines: float) -> float:
    """The highest threshold that refuses at most this share of answerable questions, given theirs."""
    allowed = int(np.floor(max_false_declines * len(probabilities) + 1e-9))
    return float(np.sort(probabilities)[min(allowed, len(probabilities) - 1)])


def reliability(probabilities: Floats, answered: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Bars of equal width over [0, 1] that hold at least one query."""
    bins = []
    place = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    for number in range(_BINS):
        inside = place == number
        if inside.any():
            mean, share = float(probabilities[inside].mean()), float(answered[inside].mean())
            bins.append(Bin(number / _BINS, (number + 1) / _BINS, int(inside.sum()), mean, share))
    return tuple(bins)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
