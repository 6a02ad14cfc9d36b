"""Feedback: the second query by hand, its weights, and what the index finds with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_corpus import passage  # type: ignore[import-not-found]

from ragray.config import FeedbackConfig, RetrievalConfig
from ragray.retrieval import feedback
from ragray.retrieval.fusion import Fused
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index
from ragray.terminal import search_lines

PASSAGES = [
    passage("right", "zebra", "zebra stripes savanna savanna grass"),
    passage("other words", "savanna", "savanna grass animals"),
    passage("far", "engine", "engine oil pump"),
    passage("again", "zebra zebra", "zebra crossing road"),
    passage("empty", "", ""),
]
QUERIES = ["zebra", "zebra zebra road", "unknown", "", "pump oil savanna"]


def opened(folder: Path, **fields: object) -> HybridIndex:
    folder.mkdir()
    build_index(PASSAGES, RetrievalConfig.model_validate(fields), folder)
    return HybridIndex.open(folder)


def test_the_second_query_by_hand():
    found = [(0.75, {"a": 2, "b": 2}), (0.25, {"b": 1, "c": 4})]
    # expansion: a .375, b .375 + .05, c .2; the best two are b and a, together .8
    settings = FeedbackConfig(documents=2, terms=2, weight=0.4)
    expected = {"a": 0.6 * 2 + 0.4 * 3 * 0.375 / 0.8, "q": 0.6, "b": 0.4 * 3 * 0.425 / 0.8}
    assert feedback.expanded(["a", "q", "a"], found, settings) == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(3)
    assert feedback.expanded(["a", "q", "a"], [], settings) == {"a": 2.0, "q": 1.0}
    assert feedback.expanded(["a", "q", "a"], found, FeedbackConfig(weight=0.0)) == {"a": 2.0, "q": 1.0}
    assert set(feedback.expanded(["q"], found, FeedbackConfig(weight=1.0, terms=1))) == {"b"}


def test_documents_count_by_their_score_above_the_last():
    def fused(*scores: float) -> Fused:
        return Fused(np.arange(len(scores)), np.array(scores), *np.ones((2, 2, len(scores)), np.int64))

    assert feedback.shares_of(fused(0.9, 0.5, 0.1), 2) == pytest.approx([2 / 3, 1 / 3])
    assert feedback.shares_of(fused(-1.0, -2.0, -4.0), 1) == pytest.approx([1.0])
    assert feedback.shares_of(fused(0.5, 0.5), 5) == pytest.approx([0.5, 0.5])
    assert feedback.shares_of(fused(), 5).shape == (0,)
    assert feedback.counts_of(["a"], ["a", "b"], 3) == {"a": 4, "b": 1}


@pytest.mark.parametrize("sublinear", [True, False])
@pytest.mark.parametrize("variant", ["lucene", "plus"])
def test_whole_counts_are_weighed_as_the_index_weighs_them(tmp_path, sublinear, variant):
    index = opened(tmp_path / "index", sublinear_tf=sublinear, bm25={"variant": variant})
    counts = [{"zebra": 2.0, "road": 1.0, "absent": 3.0}, {}, {"oil": 1.0}]
    queries = [["zebra", "zebra", "road", "absent"], [], ["oil"]]
    found = feedback.reweighted(index.corpus.queries([list(of) for of in counts]), counts, index)
    expected = index.corpus.queries(queries)
    for name in ("places", "bm25", "tfidf", "idf"):
        assert getattr(found.terms, name) == pytest.approx(getattr(expected.terms, name)), name
    assert found.floors == pytest.approx(expected.floors) and np.array_equal(found.starts, expected.starts)


def test_weight_0_is_the_search_without_feedback(tmp_path):
    plain, fed = opened(tmp_path / "plain"), opened(tmp_path / "fed", feedback={"weight": 0.0})
    for query in QUERIES:
        before, after = plain.search(query, 9), fed.search(query, 9)
        assert [replace(hit, score=0.0) for hit in after] == [replace(hit, score=0.0) for hit in before]
        assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before])


def test_feedback_finds_what_says_it_in_other_words(tmp_path):
    plain, fed = opened(tmp_path / "plain"), opened(tmp_path / "fed", feedback={"documents": 1, "terms": 4})
    assert "other words" not in {hit.doc_id for hit in plain.search("zebra stripes", 9)}
    hits = {hit.doc_id: hit for hit in fed.search("zebra stripes", 9)}
    assert hits["other words"].bm25_rank and hits["other words"].tfidf_rank and "far" not in hits
    assert hits["other words"].bm25_score == 0.0  # of the query as it was asked
    terms = feedback.terms_of(fed, "zebra stripes")
    assert list(terms)[:2] == fed.terms("zebra stripes") and {"savanna", "grass"} & set(terms)
    assert sum(terms.values()) == pytest.approx(2)
    assert feedback.terms_of(plain, "zebra zebra") == {"zebra": 2.0}


def test_queries_together_are_queries_alone_and_absent_documents_feed_nothing(tmp_path):
    fed = opened(tmp_path / "fed", feedback={"documents": 1, "terms": 4}, bm25={"variant": "okapi"})
    assert fed.search_batch(QUERIES, 9) == [fed.search(query, 9) for query in QUERIES]
    without = [hit.doc_id for hit in fed.search("zebra", 9, ["right", "again"])]
    assert without == []
    assert "other words" not in {hit.doc_id for hit in fed.search("zebra stripes", 9, ["right"])}


def test_people_and_programs_see_the_second_query(tmp_path):
    fed = opened(tmp_path / "fed", feedback={"documents": 1, "terms": 4})
    hits = fed.search("zebra", 2)
    assert search_lines(fed, "zebra", hits, explain=True, as_json=False)[0].startswith("asked again with: zebra 0.")
    (tree, _) = json.loads(search_lines(fed, "zebra", hits, explain=True, as_json=True)[0])
    assert tree["asked_again"] == feedback.terms_of(fed, "zebra")
    assert search_lines(fed, "pear", [], explain=True, as_json=False) == [
        "asked again with: pear 1.00",
        "nothing found",
    ]
    plain = opened(tmp_path / "plain")
    assert "asked" not in "".join(search_lines(plain, "zebra", hits, explain=True, as_json=False))
