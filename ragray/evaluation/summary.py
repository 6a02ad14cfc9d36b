"""From predictions and rankings to figures: what `metrics.json` holds and the report shows.

In: one `Prediction` for each question and cell, and each retriever's values for each query. Out: a
`Summary` of intervals, paired comparisons, who declined, and where answers were lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ragray.evaluation import answers
from ragray.evaluation.answers import column, strip_citations
from ragray.evaluation.judge import Verdicts
from ragray.evaluation.ngrams import CorpusScores, corpus_scores
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.robustness import Robustness
from ragray.evaluation.significance import Difference, Interval, Resampling

GOOD_F1 = 0.5  # from here on an answer counts as found when losses are explained

# cell -> how the report names it
CELLS = {
    "base_closed_book": "Base model, without retrieval",
    "base_retrieval": "Base model, with retrieval",
    "tuned_closed_book": "Tuned model, without retrieval",
    "tuned_retrieval": "Tuned model, with retrieval",
    "engine_retrieval": "Built engine, with retrieval",
}
MAIN_CELL = "tuned_retrieval"
SERVED_CELL = "engine_retrieval"  # what users get: asked reworded questions too
_CELL_PAIRS = (
    ("tuned_retrieval", "base_retrieval"),
    ("tuned_retrieval", "tuned_closed_book"),
    ("tuned_closed_book", "base_closed_book"),
    ("engine_retrieval", "tuned_retrieval"),
)
_RETRIEVER_PAIRS = (("hybrid", "bm25"), ("hybrid", "tfidf"))
_RETRIEVER_PAIR_METRICS = ("recall@5", "ndcg@10")

# outcome of an answerable question -> how the report names it; the first that applies is the one
OUTCOMES = {
    "good": f"answered, token F1 at least {GOOD_F1}",
    "not_retrieved": "the right passage was not among those shown",
    "declined_by_retrieval": "the right passage was shown, the confidence gate declined",
    "declined_by_model": "the right passage was shown, the model declined",
    "wrong_passage": "the right passage was shown, another one was cited",
    "different_answer": "the right passage was cited or none was, the text differs",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """`first` against `second` on one metric and the same questions."""

    metric: str
    first: str
    second: str
    difference: Difference


@dataclass(frozen=True)
class Summary:
    """Everything that the report says in figures."""

    answerable: int
    unanswerable: int
    cells: dict[str, dict[str, Interval]]  # cell -> metric
    languages: dict[str, dict[str, Interval]]  # cell -> language -> token F1
    corpus: dict[str, dict[str, CorpusScores]]  # cell -> language -> BLEU and chrF of all answers together
    declines: dict[str, dict[str, int]]  # cell -> "<answerable|unanswerable>_by_<retrieval|model>"
    outcomes: dict[str, int]  # outcome -> questions of the main cell
    retrieval: dict[str, dict[str, Interval]]  # retriever -> metric
    comparisons: tuple[Comparison, ...]
    robustness: tuple[Robustness, ...] = ()
    judge: Verdicts | None = None

    def tree(self) -> dict[str, Any]:
        """The summary as plain JSON types."""
        return asdict(self)


def summarize(
    predictions: Sequence[Prediction],
    retrieval: Mapping[str, Mapping[str, Mapping[str, float]]],
    resampling: Resampling,
    robustness: Sequence[Robustness] = (),
    judge: Verdicts | None = None,
) -> Summary:
    """All figures of one evaluation.

    Args:
        predictions: for every question and cell, in any order.
        retrieval: retriever -> metric -> query -> value.
        resampling: of the bootstrap.
        robustness: what each kind of rewording cost.
        judge: what a judging model said, where one is set.
    """
    cells = {name: _of_cell(predictions, name) for name in CELLS if _of_cell(predictions, name)}
    some = next(iter(cells.values()), [])
    answerable = sum(p.answerable for p in some)
    return Summary(
        answerable=answerable,
        unanswerable=len(some) - answerable,
        cells={name: _answer_metrics(name, rows, resampling) for name, rows in cells.items()},
        languages={name: _f1_by_language(name, rows, resampling) for name, rows in cells.items()},
        corpus={name: _corpus_by_language(rows) for name, rows in cells.items()},
        declines={name: _declines(rows) for name, rows in cells.items()},
        outcomes=_outcomes(cells.get(MAIN_CELL, [])),
        retrieval={
            name: {m: resampling.interval(list(v.values()), f"{name}.{m}") for m, v in by_metric.items()}
            for name, by_metric in retrieval.items()
        },
        comparisons=(*_compare_cells(cells, resampling), *_compare_retrievers(retrieval, resampling)),
        robustness=tuple(robustness),
        judge=judge,
    )


def outcome(prediction: Prediction) -> str:
    """Which of `OUTCOMES` an answerable question of a cell with retrieval had."""
    if (prediction.scores.f1 or 0.0) >= GOOD_F1:
        return "good"
    if not set(prediction.right) & set(prediction.shown):
        return "not_retrieved"
    if prediction.declined_by:
        return f"declined_by_{prediction.declined_by}"
    if prediction.cited and not set(prediction.right) & set(prediction.cited):
        return "wrong_passage"
    return "different_answer"


def worst(predictions: Sequence[Prediction], cell: str, count: int) -> list[Prediction]:
    """The answers of a cell to look at first: lowest token F1, then answers where nothing answers.

    At most a third are unanswerable questions, as long as there are enough of the others.
    """
    rows = _of_cell(predictions, cell)
    wrong = sorted((p for p in rows if p.answerable and not p.scores.exact_match), key=_badness)
    invented = [p for p in rows if not p.answerable and not p.declined_by]
    kept = invented[: max(count // 3, count - len(wrong))]
    return [*wrong[: count - len(kept)], *kept]


def _badness(prediction: Prediction) -> tuple[float, str]:
    return prediction.scores.f1 or 0.0, prediction.query_id


def _of_cell(predictions: Sequence[Prediction], cell: str) -> list[Prediction]:
    return sorted((p for p in predictions if p.cell == cell), key=lambda p: p.query_id)


def _answer_metrics(name: str, rows: Sequence[Prediction], resampling: Resampling) -> dict[str, Interval]:
    scores = [p.scores for p in rows]
    return {m: resampling.interval(column(scores, m), f"{name}.{m}") for m in answers.METRICS}


def _f1_by_language(name: str, rows: Sequence[Prediction], resampling: Resampling) -> dict[str, Interval]:
    f1 = {lang: column([p.scores for p in rows if p.lang == lang], "f1") for lang in {p.lang for p in rows}}
    return {lang: resampling.interval(f1[lang], f"{name}.f1.{lang}") for lang in sorted(f1)}


def _corpus_by_language(rows: Sequence[Prediction]) -> dict[str, CorpusScores]:
    """Over the answerable questions with a reference; a declined one counts as an empty answer."""
    stated = [(p, [text for text in p.references if text.strip()]) for p in rows if p.answerable]
    counted = [(p, references) for p, references in stated if references]
    found = {}
    for lang in sorted({p.lang for p, _ in counted}):
        some = [(p, references) for p, references in counted if p.lang == lang]
        texts = ["" if p.declined_by else strip_citations(p.text).strip() for p, _ in some]
        found[lang] = corpus_scores(texts, [references for _, references in some], lang)
    return found


def _declines(rows: Sequence[Prediction]) -> dict[str, int]:
    counted = Counter((p.answerable, p.declined_by) for p in rows)
    return {
        f"{which}_by_{who}": counted[which == "answerable", who]
        for which in ("answerable", "unanswerable")
        for who in ("retrieval", "model")
    }


def _outcomes(rows: Sequence[Prediction]) -> dict[str, int]:
    counted = Counter(outcome(p) for p in rows if p.answerable)
    return {name: counted[name] for name in OUTCOMES}


def _compare_cells(cells: Mapping[str, Sequence[Prediction]], resampling: Resampling) -> list[Comparison]:
    f1 = {name: column([p.scores for p in rows], "f1") for name, rows in cells.items()}
    return [
        Comparison("f1", one, two, resampling.compare(f1[one], f1[two], f"{one}-{two}.f1"))
        for one, two in _CELL_PAIRS
        if f1.get(one) and f1.get(two)
    ]


def _compare_retrievers(
    retrieval: Mapping[str, Mapping[str, Mapping[str, float]]], resampling: Resampling
) -> list[Comparison]:
    found = []
    for one, two in _RETRIEVER_PAIRS:
        for metric in _RETRIEVER_PAIR_METRICS:
            first, second = (retrieval.get(name, {}).get(metric, {}) for name in (one, two))
            queries = sorted(first.keys() & second.keys())
            if queries:
                gap = resampling.compare(
                    [first[q] for q in queries], [second[q] for q in queries], f"{one}-{two}.{metric}"
                )
                found.append(Comparison(metric, one, two, gap))
    return found
