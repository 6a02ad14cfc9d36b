"""Pseudo-relevance feedback: a query takes in terms of the documents that it finds first, and is asked again (RM3).

In: a query's terms, and its first documents with their scores. Out: the terms of the second query, each with a count
that may be a fraction; `reweighted` weighs them as the index weighs terms. It finds documents that say it in other
words, and drifts where the first documents are wrong.

    expansion(term) = sum over documents of share(document) * count of the term in it / its length
    count(term)     = (1 - weight) * count in the query + weight * length of the query * expansion(term)

`share` is the document's fused score above the last of the list, of the same of all feedback documents; the expansion
keeps its greatest terms and is scaled to the sum 1.

Sources: Lavrenko and Croft 2001, "Relevance-Based Language Models"; Abdul-Jaleel et al. 2004, "UMass at TREC 2004:
Novelty and HARD" (RM3, the mixture with the query).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ragray.config import FeedbackConfig
from ragray.retrieval import bm25, tfidf
from ragray.retrieval.found import found_each
from ragray.retrieval.fusion import Floats, Fused, fuse
from ragray.retrieval.postings import Queries, QueryTerms, Ranked

if TYPE_CHECKING:
    from ragray.retrieval.index import HybridIndex


def shares_of(fused: Fused, documents: int) -> Floats:
    """How much each of the first documents counts, float64 [documents at most]; their sum is 1.

    Where no score is above the list's last, all count the same.
    """
    if not len(fused.scores):
        return fused.scores
    above = fused.scores[:documents] - fused.scores[-1]
    total = float(above.sum())
    return above / total if total > 0.0 else np.full(len(above), 1.0 / len(above))


def counts_of(title: Sequence[str], text: Sequence[str], title_weight: int) -> Counter[str]:
    """How often a passage holds each term, as the index counts: a title's terms count `title_weight` times."""
    counts = Counter(text)
    for term in title:
        counts[term] += title_weight
    return +counts


def expanded(
    query: Sequence[str], found: Sequence[tuple[float, Mapping[str, int]]], settings: FeedbackConfig
) -> dict[str, float]:
    """The terms of the second query and their counts, above 0; first those of the query, in its order.

    Args:
        query: its terms.
        found: of each feedback document its share and its terms' counts.
        settings: how many terms, and how much they count.
    """
    model: Counter[str] = Counter()
    for share, counts in found:
        length = sum(counts.values())
        for term, count in counts.items():
            model[term] += share * count / length  # type: ignore[assignment]
    best = sorted(model.items(), key=lambda item: (-item[1], item[0]))[: settings.terms]
    total, asked = sum(weight for _, weight in best), Counter(query)
    if not total > 0.0:  # the query alone, at its full weight
        return {term: float(count) for term, count in asked.items()}
    mixed = {term: (1.0 - settings.weight) * count for term, count in asked.items()}
    for term, weight in best:
        mixed[term] = mixed.get(term, 0.0) + settings.weight * len(query) * weight / total
    return {term: count for term, count in mixed.items() if count > 0.0}


def expansions(
    index: HybridIndex, queries: Sequence[Sequence[str]], lists: Sequence[tuple[Ranked, Ranked]], asked: Queries
) -> list[dict[str, float]]:
    """`expanded` for each query of an index with feedback.

    Args:
        index: whose passages are read.
        queries: the terms of each.
        lists: what each found, by BM25 and by cosine.
        asked: the queries, weighted.
    """
    settings, found = index.settings.feedback or FeedbackConfig(), []
    for terms, of_query in zip(queries, found_each(index.corpus, asked, lists), strict=True):
        fused = fuse(index.settings, of_query)
        shares = shares_of(fused, settings.documents).tolist()
        passages = [index.passage_at(number) for number in fused.documents[: settings.documents].tolist()]
        counted = [
            counts_of(index.analyzer.terms(one.title), index.analyzer.terms(one.text), index.settings.title_weight)
            for one in passages
        ]
        found.append(expanded(terms, list(zip(shares, counted, strict=True)), settings))
    return found


def terms_of(index: HybridIndex, query: str) -> dict[str, float]:
    """The terms that a query is asked again with, and their counts; its own where there is no feedback."""
    terms = index.terms(query)
    if index.settings.feedback is None:
        return {term: float(count) for term, count in Counter(terms).items()}
    asked = index.corpus.queries([terms])
    lists = list(index.corpus.search_each(asked, index.fused_depth))
    return expansions(index, [terms], lists, asked)[0]


def reweighted(queries: Queries, counts: Sequence[Mapping[str, float]], index: HybridIndex) -> Queries:
    """Queries in which each term was once, with counts that may be fractions.

    With `sublinear_tf` a count above 1 counts 1 + ln(count) for the cosine, a fraction as it is.

    Args:
        queries: each term once.
        counts: of each query: term -> its count.
        index: that they are asked of.
    """
    settings, terms = index.settings, queries.terms
    of_places = [{index.corpus.term(term): count for term, count in of.items()} for of in counts]
    owners = np.repeat(np.arange(len(queries)), np.diff(queries.starts))
    often = np.array([of_places[q][place] for q, place in zip(owners.tolist(), terms.places.tolist(), strict=True)])
    often = often.astype(np.float64)
    floors = np.bincount(owners, bm25.floor(settings.bm25, terms.bm25) * often, len(queries))
    tf = np.where(often > 1.0, tfidf.tf_weights(np.maximum(often, 1.0), settings.sublinear_tf), often)
    raw = tf * terms.idf
    weights = raw / tfidf.norms(raw, owners, len(queries))[owners]
    return Queries(
        QueryTerms(terms.places, terms.bm25 * often, weights, terms.idf, 0.0), queries.starts, floors.astype(np.float64)
    )
