"""Which settings of the retriever to try, which of them is chosen, and what the choice is worth on other queries.

In: judged queries, settings to start from, and a function that measures settings. Out: a `Tuning`. The search has
steps, because both rankings depend on terms and BM25, and their fusion on neither: first analyzer, k1 and b by BM25
alone, all of their combinations; with what was chosen the weight of titles, also by BM25; with this the fusion; then,
if asked for, a learned prior or none.

A setting that was chosen on some queries looks better on them than it is. So all steps are done again without
each fold of the queries, and what they choose is measured on that fold alone: of these values are the figures of a
report. Queries with the same relevant documents, such as rewordings of one question, are in one fold.

Source: Stone 1974, "Cross-Validatory Choice and Assessment of Statistical Predictions".
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragray.config import Bm25Config, FusionWeights, RetrievalConfig
from ragray.errors import ConfigError
from ragray.evaluation.significance import Difference, Resampling
from ragray.retrieval.phrases import is_chinese
from ragray.retrieval.prior import Grouping, Prior
from ragray.schema import stable_digest

K1S = (0.6, 0.9, 1.2, 1.6, 2.0, 3.0)
BS = (0.3, 0.5, 0.75, 0.9, 1.0)
TITLE_WEIGHTS = (1, 2, 3, 5)
RRF_KS = (5, 10, 20, 60, 100)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of BM25 in the fusion; the rest is TF-IDF's

SIGNIFICANT = 0.05  # p below which tuned settings are recommended
SAMPLES, SEED = 10_000, 17  # of the test

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
Means = tuple[tuple[RetrievalConfig, float], ...]  # settings and their mean over queries
Retriever = Literal["bm25", "hybrid"]
Measure = Callable[[Sequence[RetrievalConfig], Retriever], Values]  # [settings, queries], queries in their order


@dataclass(frozen=True, slots=True)
class PriorChoice:
    """A prior to try: by what passages are grouped, and its weight."""

    group: Grouping
    weight: float


Asked = tuple[RetrievalConfig, int | None]  # settings, and the fold that is held out


@dataclass(frozen=True, slots=True)
class Priors:
    """Priors to try, and how to."""

    choices: Sequence[PriorChoice]
    measure: Callable[[Sequence[Asked], NDArray[np.int64]], Values]  # -> [asked, none and choices, queries]
    learn: Callable[[PriorChoice], Prior]  # from all judgements


@dataclass(frozen=True, slots=True)
class Fold:
    """What was chosen without some queries, and its mean over them."""

    queries: int
    chosen: RetrievalConfig
    tuned: float
    untuned: float
    prior: PriorChoice | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a search found. All values are of one metric."""

    untuned: RetrievalConfig
    chosen: RetrievalConfig  # on all queries
    chosen_mean: float  # over the queries that it was chosen on, so on the high side
    queries: tuple[str, ...]  # ids
    held_out: Values  # [queries], each by the settings that were chosen without its fold
    before: Values  # [queries], by the untuned settings
    folds: tuple[Fold, ...]
    difference: Difference  # of `held_out` and `before`
    terms: Means  # first step: each setting and its mean by BM25 alone
    titles: Means  # second step: each weight of titles and its mean by BM25 alone
    fusions: Means  # third step: the untuned settings, then those with a fusion

    without_prior: Values  # [queries], as `held_out`, by what the steps before chose
    priors: tuple[tuple[PriorChoice | None, float], ...]  # last step; each query's prior never saw its fold
    prior_choice: PriorChoice | None
    prior: Prior | None  # of that choice, learned from all queries

    @property
    def prior_difference(self) -> Difference:
        """Of what the held-out queries have with the last step, and without it."""
        return Resampling(SAMPLES, SEED).compare(self.held_out.tolist(), self.without_prior.tolist(), "prior")

    @property
    def better(self) -> bool:
        """Whether tuned settings are recommended: better on held-out queries by more than chance explains."""
        return self.difference.mean > 0.0 and self.difference.p_value < SIGNIFICANT


def tune(
    qrels: Mapping[str, Mapping[str, int]],
    queries: Mapping[str, str],
    untuned: RetrievalConfig,
    folds: int,
    measure: Measure,
    priors: Priors | None = None,
) -> Tuning:
    """Search settings on judged queries.

    Args:
        qrels: query -> document -> grade.
        queries: id -> text of the judged queries; their order is that of all values.
        untuned: what to start from; fields that are not searched stay as they are.
        folds: how many parts the queries are cut into, at least 2.
        measure: the metric of each setting for each query.
        priors: what the last step tries; by default there is none.

    Raises:
        ConfigError: there are fewer groups of queries than folds, or the settings have a prior or feedback.
    """
    check_start(untuned)
    fold_of = assign_folds(qrels, list(queries), folds)
    training = [fold_of != fold for fold in range(folds)] + [np.ones(len(queries), np.bool_)]
    terms, titles, ranked = _choose_lists(untuned, queries.values(), training, measure)
    fused = _choose_fusions(untuned, ranked, training, measure)
    choices, with_priors = _with_priors(fused, priors, fold_of)
    taken = [prior_of_best(values, of) for values, of in zip(with_priors, training, strict=True)]
    each, before = np.arange(len(queries)), fused.values[0]
    held_out = with_priors[fold_of, np.array(taken)[fold_of], each]
    choice = choices[taken[-1]]
    return Tuning(
        untuned=untuned,
        chosen=fused.chosen[-1],
        chosen_mean=float(with_priors[-1, taken[-1]].mean()),
        queries=tuple(queries),
        held_out=held_out,
        before=before,
        folds=tuple(
            Fold(int(of.sum()), chosen, float(held_out[of].mean()), float(before[of].mean()), choices[place])
            for chosen, place, of in zip(fused.chosen, taken, (fold_of == fold for fold in range(folds)), strict=False)
        ),
        difference=Resampling(SAMPLES, SEED).compare(held_out.tolist(), before.tolist(), "tune"),
        terms=terms,
        titles=titles,
        fusions=fused.tried,
        without_prior=fused.values[np.array(fused.rows)[fold_of], each],
        priors=tuple(zip(choices, with_priors[-1].mean(axis=1).tolist(), strict=True)),
        prior_choice=choice,
        prior=None if choice is None or priors is None else priors.learn(choice),
    )


def _choose_lists(
    untuned: RetrievalConfig, queries: Iterable[str], training: Sequence[Flags], measure: Measure
) -> tuple[Means, Means, list[RetrievalConfig]]:
    """The first two steps: terms and weights of titles tried, by all queries, and what each part of them chooses."""
    terms = term_settings(untuned, queries)
    by_bm25 = measure(terms, "bm25")
    titled = [title_settings(terms[best_of(by_bm25, of)]) for of in training]
    weighed = list(dict.fromkeys(itertools.chain.from_iterable(titled)))
    by_weight = dict(zip(weighed, measure(weighed, "bm25"), strict=True))
    of_titles = [np.array([by_weight[one] for one in some]) for some in titled]
    chosen = [some[best_of(values, of)] for some, values, of in zip(titled, of_titles, training, strict=True)]
    return _with_means(terms, by_bm25), _with_means(titled[-1], of_titles[-1]), chosen


class _Fused(NamedTuple):
    """The third step."""

    asked: list[RetrievalConfig]  # the untuned settings, then those with a fusion
    values: Values  # [asked, queries]
    rows: list[int]  # of those that each part of the queries chooses
    tried: Means  # by all queries

    @property
    def chosen(self) -> list[RetrievalConfig]:
        """What each part of the queries chooses."""
        return [self.asked[row] for row in self.rows]


def _choose_fusions(
    untuned: RetrievalConfig, ranked: Sequence[RetrievalConfig], training: Sequence[Flags], measure: Measure
) -> _Fused:
    """Try fusions of what each part of the queries chose before."""
    fused = {first: fusion_settings(first) for first in dict.fromkeys(ranked)}
    asked = [untuned, *itertools.chain.from_iterable(fused.values())]
    values = measure(asked, "hybrid")
    rows_of, start = {}, 1
    for first, settings in fused.items():  # the untuned settings stand before each, so that ties keep them
        rows_of[first] = np.array([0, *range(start, start + len(settings))])
        start += len(settings)
    rows = [
        int(rows_of[first][best_of(values[rows_of[first]], of)]) for first, of in zip(ranked, training, strict=True)
    ]
    last = rows_of[ranked[-1]]
    return _Fused(asked, values, rows, _with_means([asked[row] for row in last], values[last]))


def _with_priors(
    fused: _Fused, priors: Priors | None, fold_of: NDArray[np.int64]
) -> tuple[list[PriorChoice | None], Values]:
    """None and the priors to try, and what they give, [parts of the queries, none and choices, queries]."""
    if priors is None or not priors.choices:
        return [None], fused.values[np.array(fused.rows)][:, None]
    held: list[int | None] = [*range(len(fused.rows) - 1), None]
    return [None, *priors.choices], priors.measure(list(zip(fused.chosen, held, strict=True)), fold_of)


def check_start(settings: RetrievalConfig) -> None:
    """See that a search can start from these settings: without feedback, which is not measured, and without a prior.

    Raises:
        ConfigError: they have one of them.
    """
    if settings.feedback is not None:
        raise ConfigError(
            "retrieval.feedback: the search measures settings without feedback", "add --set retrieval.feedback=null"
        )
    if settings.prior is not None:
        raise ConfigError(
            "retrieval.prior: a prior may have learned from these judgements, and would look better than it is",
            "add --set retrieval.prior=null; a prior is learned anew",
        )


def term_settings(untuned: RetrievalConfig, queries: Iterable[str]) -> list[RetrievalConfig]:
    """The untuned settings, then all others of analyzer, k1 and b; options that no query is touched by stay.

    Args:
        untuned: what to start from.
        queries: their texts.
    """
    texts = list(queries)
    chinese = any(is_chinese(character) for text in texts for character in text)
    latin = any(character.isascii() and character.isalpha() for text in texts for character in text)
    kept = untuned.analyzer
    analyzers = [
        kept.model_copy(update={"chinese": way, "stem": stem, "stop_words": stop_words})
        for way in (("both", "bigrams", "words") if chinese else (kept.chinese,))
        for stem in ((True, False) if latin else (kept.stem,))
        for stop_words in (True, False)
    ]
    k1s, bs = sorted({*K1S, untuned.bm25.k1}), sorted({*BS, untuned.bm25.b})
    found = [
        untuned.model_copy(update={"analyzer": a, "bm25": Bm25Config(variant=untuned.bm25.variant, k1=k1, b=b)})
        for a, k1, b in itertools.product(analyzers, k1s, bs)
    ]
    return [untuned, *(one for one in found if one != untuned)]


def title_settings(settings: RetrievalConfig) -> list[RetrievalConfig]:
    """The settings, then themselves with every other weight of titles."""
    others = (settings.model_copy(update={"title_weight": weight}) for weight in TITLE_WEIGHTS)
    return [settings, *(one for one in others if one != settings)]


def fusion_settings(settings: RetrievalConfig) -> list[RetrievalConfig]:
    """The settings, then themselves with every other fusion: by ranks, by scores, and of one list alone."""
    kept = settings.fusion_weights
    found = [{"fusion": "rrf", "rrf_k": k, "fusion_weights": _weights(kept, share)} for k in RRF_KS for share in SHARES]
    found += [
        {"fusion": "convex", "fusion_normalization": normalization, "fusion_weights": _weights(kept, share)}
        for normalization in ("theoretical", "min-max", "z-score")
        for share in SHARES
    ]
    found += [{"fusion": "rrf", "fusion_weights": _weights(kept, share)} for share in (1.0, 0.0)]
    others = [settings.model_copy(update=changed) for changed in found]
    return [settings, *(one for one in others if one != settings)]


def assign_folds(qrels: Mapping[str, Mapping[str, int]], queries: Sequence[str], folds: int) -> NDArray[np.int64]:
    """The fold of each query, int64 [queries]; those with the same relevant documents share one.

    Groups go to the fold with the fewest queries, the largest first; those of one size in the order of the digest of
    their first query's id.

    Raises:
        ConfigError: there are fewer groups than folds.
    """
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, query in enumerate(queries):
        relevant = tuple(sorted(document for document, grade in qrels[query].items() if grade > 0))
        groups[relevant or (f"none of {query}",)].append(place)
    if len(groups) < folds:
        raise ConfigError(
            f"{len(groups)} groups of queries with the same relevant documents cannot be cut into {folds} folds",
            f"write --folds {len(groups)}" if len(groups) > 1 else "judge more queries",
        )
    ordered = sorted(groups.values(), key=lambda of: (-len(of), stable_digest(SEED, "fold", queries[of[0]])))
    sizes, fold_of = [0] * folds, np.zeros(len(queries), np.int64)
    for places in ordered:
        fold = min(range(folds), key=sizes.__getitem__)
        fold_of[places] = fold
        sizes[fold] += len(places)
    return fold_of


def best_of(values: Values, of: Flags) -> int:
    """The row with the highest mean over some queries; of equal ones the first.

    Args:
        values: float64 [settings, queries].
        of: bool [queries], those that count.
    """
    means = values[:, of].mean(axis=1)
    return int(np.flatnonzero(means >= means.max() - 1e-12)[0])


def prior_of_best(values: Values, of: Flags) -> int:
    """`best_of`, but the first row, that without a prior, where the best gains no more than one standard error.

    A prior costs generality, and should be worth it.

    Source: the one-standard-error rule of Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression
    Trees", 3.4.3; here of paired differences.
    """
    best = best_of(values, of)
    gains = values[best, of] - values[0, of]
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
    return best if gains.mean() > error else 0


def _weights(kept: FusionWeights, share: float) -> FusionWeights:
    """Weights of BM25 and TF-IDF; those of lists that are not searched stay."""
    return kept.model_copy(update={"bm25": share, "tfidf": round(1.0 - share, 10)})


def _with_means(settings: Sequence[RetrievalConfig], values: Values) -> Means:
    return tuple(zip(settings, values.mean(axis=1).tolist(), strict=True))
