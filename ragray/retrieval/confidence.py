"""How likely it is that the top passages answer the query: fused ranks alone cannot say.

In: an opened index, a query and its hits. Out: a probability, and the threshold below which to decline.
The model is a logistic regression over five figures that hardly depend on the corpus: the best scores as shares
of what the query could reach, how much the query is like a title, and which of its words no passage holds. It is
fitted on questions with and without an answer in the index, and kept in `confidence.json`.

Margins between the first hits and the agreement of the two lists were tried and left out: fitted on imitated
questions, they lost on real ones (AUC 0.79 with the margin, 0.81 without, on StackFAQ's rephrasings), because
several passages that answer the same make a small margin too.

Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines" (a fitted sigmoid); figures that
predict a query's success: Carmel and Yom-Tov 2010, "Estimating the Query Difficulty for Information Retrieval".
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
    "cosine",  # of the best document, counting the query's unknown words
    "bm25_share",  # best BM25 score, over the information of all the query's words
    "title_similarity",  # information shared with the most similar title, over that of both
    "missed_most",  # information of the most telling word that no passage read holds, over the highest possible
    "log_terms",  # ln(1 + known terms of the query)
)
HITS = 10  # hits that the features are made from
_READ = 3  # of them, passages that are looked into
_RIDGE = 1.0
_BINS = 10
_REMAKE = "remove its folder and run `ragray run` again"


def features(index: HybridIndex, query: str, hits: Sequence[Hit], absent: Collection[str] = ()) -> Floats:
    """The figures named in `FEATURES`, float64 [features]; zeros where nothing was found.

    Args:
        index: where `hits` were found.
        query: what was asked.
        hits: the result of `index.search`, best first; `HITS` of them are read.
        absent: ids that were excluded from the search: a term that they alone hold counts as unknown.
    """
    known, unknown = _information(index, query, absent)
    total = sum(known.values()) + unknown
    if not hits or total <= 0.0:
        return np.zeros(len(FEATURES))
    read = hits[:_READ]
    held = {number for hit in read for number in index.corpus.held(known, index.number(hit.doc_id))}
    missed = [value for number, value in known.items() if number not in held]
    highest = math.log(1.0 + len(index))
    return np.array(
        [
            max(hit.tfidf_score for hit in hits[:HITS]) * (1.0 - unknown / total),
            max(hit.bm25_score for hit in hits[:HITS]) / total,
            max(_similarity(index, known, total, hit) for hit in read),
            1.0 if unknown else max(missed, default=0.0) / highest,
            math.log1p(len(known)),
        ]
    )


def coverage(index: HybridIndex, text: str, doc_ids: Sequence[str]) -> list[float]:
    """How much of what `text` says each document holds: the share of its terms, weighted by their information."""
    known, unknown = _information(index, text)
    total = sum(known.values()) + unknown
    held = [index.corpus.held(known, index.number(doc_id)) for doc_id in doc_ids]
    return [sum(known[number] for number in numbers) / total if total > 0.0 else 0.0 for numbers in held]


def _information(index: HybridIndex, query: str, absent: Collection[str] = ()) -> tuple[dict[int, float], float]:
    """What the query's known terms say, by number, and its unknown terms together: ln((1 + N) / (1 + df))."""
    documents = len(index) - len(absent)
    numbers = [index.corpus.term(term) for term in dict.fromkeys(index.terms(query))]
    frequencies = {number: index.corpus.frequency(number) for number in numbers if number is not None}
    for doc_id in absent:
        for number in index.corpus.held(frequencies, index.number(doc_id)):
            frequencies[number] -= 1
    lost = [number for number, df in frequencies.items() if df == 0]
    unknown = (numbers.count(None) + len(lost)) * math.log(1.0 + documents)
    known = {number: math.log((1.0 + documents) / (1.0 + df)) for number, df in frequencies.items() if df}
    return known, unknown


def _similarity(index: HybridIndex, known: dict[int, float], total: float, hit: Hit) -> float:
    """What query and title share, over what both say together: Jaccard similarity weighted by information."""
    title, unknown = _information(index, index.passage(hit.doc_id).title)
    shared = sum(value for number, value in title.items() if number in known)
    together = total + sum(title.values()) + unknown - shared
    return min(1.0, shared / together) if together > 0.0 else 0.0


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
    metrics: dict[str, float]  # on held-out questions: shares declined, Brier score
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
        return float(self.probabilities(features(index, query, hits)[None, :])[0])

    def probabilities(self, rows: Floats) -> Floats:
        """The probability of each row of features, [rows]."""
        return _apply(rows, self.intercept, np.array(self.coefficients))


@dataclass(frozen=True)
class Examples:
    """Questions as features, and whether the top passages answer each.

    `rows`: float64 [questions, features]; `answered`: bool [questions]; `answerable`: bool [questions], whether
    the index holds an answer at all; `folds`: int64 [questions], parts that are held out in turn.
    """

    rows: Floats
    answered: NDArray[np.bool_]
    answerable: NDArray[np.bool_]
    folds: NDArray[np.int64]


def fit(examples: Examples, max_false_declines: float, index_digest: str = "") -> Confidence:
    """Fit the probability on all examples; threshold and figures come from each fold held out in turn.

    Raises:
        DataError: there are not both kinds of questions, in and outside every fold.
    """
    probabilities = _held_out_probabilities(examples)
    threshold = decline_threshold(probabilities[examples.answerable], max_false_declines)
    declined = probabilities < threshold
    intercept, coefficients = logistic_regression(*_found(examples.rows, examples.answered))
    return Confidence(
        intercept=intercept,
        coefficients=tuple(coefficients.tolist()),
        threshold=threshold,
        max_false_declines=max_false_declines,
        counts={
            "questions": len(examples.rows),
            "answerable": int(examples.answerable.sum()),
            "answered": int(examples.answered.sum()),
        },
        metrics={
            "declined_answerable": float(declined[examples.answerable].mean()),
            "declined_unanswerable": float(declined[~examples.answerable].mean()),
            "brier": float(((probabilities - examples.answered) ** 2).mean()),
        },
        reliability=reliability(probabilities, examples.answered),
        index_digest=index_digest,
    )


def _held_out_probabilities(examples: Examples) -> Floats:
    probabilities = np.zeros(len(examples.rows))
    for fold in np.unique(examples.folds):
        inside = examples.folds == fold
        rows, answered = _found(examples.rows[~inside], examples.answered[~inside])
        if set(answered.tolist()) != {False, True}:
            raise DataError("too few questions to learn when to decline", "give more records")
        probabilities[inside] = _apply(examples.rows[inside], *logistic_regression(rows, answered))
    return probabilities


def _found(rows: Floats, answered: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Those questions for which anything was found: only they are left to the model."""
    found = rows.any(axis=1)
    return rows[found], answered[found]


def _apply(rows: Floats, intercept: float, coefficients: Floats) -> Floats:
    """Probabilities; 0 for a row of zeros, which is a query that finds nothing."""
    return np.where(rows.any(axis=1), _sigmoid(rows @ coefficients + intercept), 0.0)


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
