"""Search results carry their ranks in each list; retrieval decides by the calibrated threshold."""

import asyncio
from dataclasses import asdict

import pytest

from ragray.engine.assistant import retrieve
from ragray.retrieval.index import HybridIndex
from ragray.serve.ingress import Door


def test_hits_come_with_their_passages(door: Door, index: HybridIndex) -> None:
    answer = asyncio.run(door.retriever.search("怎样训练模型", 3))
    found = answer.hits
    hits = index.search("怎样训练模型", 3)
    assert [one.hit for one in found] == hits
    assert [one.passage for one in found] == [index.passage(hit.doc_id) for hit in hits]
    assert (found[0].passage.title, found[0].passage.lang) == ("怎样训练模型？", "zh")
    assert (answer.lineage, asyncio.run(door.retriever.followed())) == ({}, None)  # this index never changes


def test_a_hit_says_all_that_the_index_says_and_the_query_is_analyzed_once(
    door: Door, index: HybridIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "How do I install ragray 怎样训练模型"
    expected = [
        asdict(index.passage(hit.doc_id)) | asdict(hit) | {"terms": index.explain(query, hit.doc_id)}
        for hit in index.search(query, 3)
    ]
    analyzed = []
    terms = HybridIndex.terms
    monkeypatch.setattr(HybridIndex, "terms", lambda self, text: analyzed.append(text) or terms(self, text))
    found = asyncio.run(door.retriever.search(query, 3, explain=True)).hits
    assert [one.to_json() for one in found] == [
        {**one, "terms": [asdict(part) for part in one["terms"]]} for one in expected
    ]
    assert len(found) > 1 and analyzed == [query, query]  # for the search, and for what it explains


def test_the_question_is_retrieved_as_in_evaluation(door: Door, index: HybridIndex) -> None:
    got = asyncio.run(door.retriever.retrieve("How do I install ragray?"))
    assert got.answerable
    assert got.citations == retrieve(index, None, "How do I install ragray?").citations
    assert not asyncio.run(door.retriever.retrieve("zzzz")).answerable


def test_an_open_index_is_ready(door: Door) -> None:
    assert asyncio.run(door.retriever.ready())
