"""Scores equal those of rank-bm25 and scikit-learn: they define what is right."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25L, BM25Okapi, BM25Plus
from sklearn.feature_extraction.text import TfidfVectorizer
from small_corpus import corpus_of  # type: ignore[import-not-found]

from ragray.config import Bm25Config, RetrievalConfig
from ragray.retrieval.corpus import Corpus, ranked

TERMS = ["ray", "train", "gpu", "集群", "2.60", "a-b"]
Terms = list[list[str]]

corpora = st.lists(st.lists(st.sampled_from(TERMS), max_size=12), min_size=1, max_size=9).filter(any)
queries = st.lists(st.sampled_from([*TERMS, "unknown"]), max_size=8)
parameters = st.tuples(st.sampled_from([0.5, 1.2, 2.0]), st.sampled_from([0.0, 0.4, 0.75, 0.95]))


def postings_of(corpus: Terms, config: RetrievalConfig) -> Corpus:
    with tempfile.TemporaryDirectory() as folder:
        opened: Corpus = corpus_of(corpus, config, Path(folder))
        return opened  # the mapped files stay open after they are removed


def bm25_config(variant: str, k1: float, b: float) -> RetrievalConfig:
    return RetrievalConfig(bm25=Bm25Config.model_validate({"variant": variant, "k1": k1, "b": b}))


@pytest.mark.parametrize(("variant", "reference"), [("okapi", BM25Okapi), ("plus", BM25Plus), ("l", BM25L)])
@settings(max_examples=60, deadline=None)
@given(corpus=corpora, query=queries, k1_b=parameters)
def test_bm25_equals_rank_bm25(variant: str, reference: type, corpus: Terms, query: list[str], k1_b: tuple) -> None:
    k1, b = k1_b
    postings = postings_of(corpus, bm25_config(variant, k1, b))
    scores, _ = postings.score(postings.query(query))
    np.testing.assert_allclose(scores, reference(corpus, k1=k1, b=b).get_scores(query), rtol=1e-6, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(corpus=corpora, query=queries, k1_b=parameters)
def test_lucene_equals_its_formula(corpus: Terms, query: list[str], k1_b: tuple) -> None:
    k1, b = k1_b
    postings = postings_of(corpus, bm25_config("lucene", k1, b))
    mean = sum(map(len, corpus)) / len(corpus)
    expected = []
    for document in corpus:
        score = 0.0
        for term in query:
            df = sum(term in other for other in corpus)
            idf = math.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))
            tf = document.count(term)
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        expected.append(score)
    np.testing.assert_allclose(postings.score(postings.query(query))[0], expected, atol=1e-5)


@pytest.mark.parametrize("sublinear", [True, False])
@settings(max_examples=60, deadline=None)
@given(corpus=corpora, query=queries)
def test_cosine_equals_sklearn(sublinear: bool, corpus: Terms, query: list[str]) -> None:
    postings = postings_of(corpus, RetrievalConfig(sublinear_tf=sublinear))
    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=sublinear)
    matrix = vectorizer.fit_transform(corpus)
    expected = (matrix @ vectorizer.transform([query]).T).toarray()[:, 0]
    np.testing.assert_allclose(postings.score(postings.query(query))[1], expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(corpus=corpora, query=queries, variant=st.sampled_from(["okapi", "lucene", "plus", "l"]))
def test_contributions_sum_to_the_scores(corpus: Terms, query: list[str], variant: str) -> None:
    postings = postings_of(corpus, bm25_config(variant, 1.2, 0.75))
    terms = postings.query(query)
    bm25_scores, cosines = postings.score(terms)
    for document in range(len(corpus)):
        parts = postings.contributions(terms, document)
        assert sum(bm25 for _, bm25, _ in parts) == pytest.approx(bm25_scores[document], abs=1e-9)
        assert sum(tfidf for _, _, tfidf in parts) == pytest.approx(cosines[document], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(corpus=corpora, query=queries)
def test_a_cosine_above_zero_means_a_shared_term(corpus: Terms, query: list[str]) -> None:
    postings = postings_of(corpus, RetrievalConfig())
    _, cosines = postings.score(postings.query(query))
    assert [bool(c > 0) for c in cosines] == [bool(set(document) & set(query)) for document in corpus]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=30), st.integers(1, 35))
def test_ranked_is_a_stable_sort_cut(scores: list[float], depth: int) -> None:
    expected = sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:depth]
    assert ranked(np.array(scores), np.arange(len(scores)), depth).tolist() == expected


def test_documents_that_are_all_empty_score_nothing() -> None:
    postings = postings_of([[], []], RetrievalConfig())
    assert [part.tolist() for part in postings.score(postings.query(["ray"]))] == [[0.0, 0.0], [0.0, 0.0]]
