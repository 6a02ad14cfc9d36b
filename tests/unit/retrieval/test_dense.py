"""Embeddings as a third list: exact, of the recorded model, and of nothing that could run code of its own."""

import asyncio
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError
from small_corpus import PASSAGES, passage  # type: ignore[import-not-found]
from tiny_encoder import make_encoder, make_reranker, spoil  # type: ignore[import-not-found]

from ragray.config import RetrievalConfig, RunConfig
from ragray.distributed.index import STAGE
from ragray.distributed.shards import open_sharded
from ragray.errors import ArtifactError, ConfigError, EngineError
from ragray.retrieval.confidence import Confidence
from ragray.retrieval.current import CurrentIndex, version_of
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.reranker import Reranker
from ragray.retrieval.store import IndexStore
from ragray.retrieval.vectors import encoder_of
from ragray.retrieval.writing import build_index
from ragray.serve.retriever import Retriever
from ragray.terminal import search_lines

pytest.importorskip("sentence_transformers", reason="the extra dense is not installed")

QUERIES = ["how do I stop training", "量化模型", "zzzz", "two gpus make demo"]
SMALLEST = {"name": "t", "output": "out", "data": {"faq": [{"path": "a"}]}, "train": {"base_model": "m"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    return Path(make_encoder(folder))


def with_dense(model: Path, **more: Any) -> RetrievalConfig:
    dense = {"model": str(model), **more.pop("dense", {})}
    return RetrievalConfig.model_validate({"dense": dense, "fusion": "rrf", **more})


def built(folder: Path, settings: RetrievalConfig, passages: Any = PASSAGES) -> HybridIndex:
    folder.mkdir()
    build_index(passages, settings, folder)
    return HybridIndex.open(folder)


def cosines(model: Path, query: str) -> dict[str, float]:
    """By the model itself, one text at a time, without ragray."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(model), device="cpu")
    asked, norm, found = loaded.encode([query])[0], np.linalg.norm, {}
    for p in PASSAGES:
        text = f"{p.title}\n{p.text}".strip()
        vector = loaded.encode([text])[0] if text else np.zeros(16)
        found[p.doc_id] = float(asked @ vector / norm(asked) / max(float(norm(vector)), 1e-9))
    return found


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("float16", 2e-3)])
def test_the_list_is_that_of_the_model_s_cosines(precision: str, near: float, model: Path, tmp_path: Path) -> None:
    settings = with_dense(model, dense={"precision": precision}, fusion_weights={"bm25": 0, "tfidf": 0})
    index = built(tmp_path / "index", settings)
    for query in QUERIES:
        expected = cosines(model, query)
        hits = index.search(query, 20)
        assert len(hits) == len(PASSAGES)  # also for a query of unknown words
        assert [hit.dense_rank for hit in hits] == list(range(1, len(hits) + 1))
        for hit in hits:
            assert hit.dense_score == pytest.approx(expected[hit.doc_id], abs=near)
            assert hit.score == pytest.approx(1 / (60 + hit.rank))
        best = [expected[hit.doc_id] for hit in hits]
        assert all(a >= b - near for a, b in itertools.pairwise(best))


def test_a_blank_query_in_a_batch_finds_nothing_and_changes_no_other(model: Path, tmp_path: Path) -> None:
    index = built(tmp_path / "index", with_dense(model))
    first, *found, last = index.search_batch(["  ", *QUERIES, ""], 20)
    assert first == last == []
    for hits, query in zip(found, QUERIES, strict=True):
        alone = index.search(query, 20)
        assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in alone]
        assert [hit.dense_score for hit in hits] == pytest.approx([hit.dense_score for hit in alone], abs=1e-6)


def test_three_lists_are_fused_by_their_ranks(model: Path, tmp_path: Path) -> None:
    index = built(tmp_path / "index", with_dense(model, fusion_weights={"bm25": 1.0, "tfidf": 1.0, "dense": 0.5}))
    plain = built(tmp_path / "plain", RetrievalConfig())
    for query in QUERIES:
        sparse = {hit.doc_id: hit for hit in plain.search(query, 20)}
        hits = index.search(query, 20)
        for hit in hits:
            other = sparse.get(hit.doc_id)
            assert (hit.bm25_rank, hit.tfidf_rank) == ((other.bm25_rank, other.tfidf_rank) if other else (None, None))
            assert hit.dense_rank is not None
            ranks = [(1.0, hit.bm25_rank), (1.0, hit.tfidf_rank), (0.5, hit.dense_rank)]
            assert hit.score == pytest.approx(math.fsum(weight / (60 + rank) for weight, rank in ranks if rank))
        assert index.search_batch(QUERIES, 20)[QUERIES.index(query)][0].doc_id == hits[0].doc_id
    assert index.search(" \n", 5) == []
    assert all(hit.dense_score is None for hit in plain.search("stop training", 5))


def test_lists_of_no_weight_add_nothing_to_it(model: Path, tmp_path: Path) -> None:
    alone = with_dense(model, fusion="convex", fusion_depth=2, fusion_weights={"bm25": 0, "tfidf": 0})
    index = built(tmp_path / "index", alone)
    assert [[hit.dense_rank for hit in index.search(query, 20)] for query in QUERIES] == [[1, 2]] * len(QUERIES)


@pytest.mark.parametrize("depth", [2, 100])
def test_all_scores_count_for_all_documents_that_a_list_holds(depth: int, model: Path, tmp_path: Path) -> None:
    settings = with_dense(model, fusion="convex", fusion_depth=depth, fusion_weights={"dense": 2.0})
    index, cut = built(tmp_path / "index", settings), 0
    for query in QUERIES:
        (words, cosine), expected = next(index.lists([query], depth)), cosines(model, query)
        nearest = sorted(expected, key=lambda doc_id: -expected[doc_id])
        known = {index.corpus.doc_id(n) for n in (*words[0].tolist(), *cosine[0].tolist())} | set(nearest[:depth])
        hits = index.search(query, 20)
        assert {hit.doc_id for hit in hits} == known
        for hit in hits:
            near = (expected[hit.doc_id] + 1) / (expected[nearest[0]] + 1)
            best = [float(of_list[0]) if len(of_list) else 1.0 for _, of_list in (words, cosine)]
            of_words = 0.7 * hit.bm25_score / best[0] + 0.3 * hit.tfidf_score / best[1]
            assert hit.score == pytest.approx(of_words + 2.0 * near, abs=1e-5)
            known_scores = [float(of[index.number(hit.doc_id)]) for of in index.corpus.score(index.query_terms(query))]
            assert (hit.bm25_score, hit.tfidf_score) == pytest.approx(tuple(known_scores))
            assert hit.dense_rank == (nearest.index(hit.doc_id) + 1 if hit.doc_id in nearest[:depth] else None)
            cut += hit.dense_rank is None
    assert bool(cut) == (depth == 2)  # else it compares little


def test_an_index_without_embeddings_records_nothing_of_them(tmp_path: Path) -> None:
    index = built(tmp_path / "index", RetrievalConfig())
    text = (tmp_path / "index" / "index.json").read_text()
    assert not any(word in text for word in ("dense", "rerank", "vectors"))
    assert not [*(tmp_path / "index").rglob("vectors*")]
    assert "dense" not in json.dumps(STAGE.settings(RunConfig.model_validate(SMALLEST)))
    assert index.settings == RetrievalConfig() and not index.runs_models
    assert index.settings.model_dump()["fusion_weights"] == {"bm25": 0.7, "tfidf": 0.3}


def test_a_set_weight_is_recorded(model: Path, tmp_path: Path) -> None:
    settings = with_dense(model, fusion_weights={"dense": 0.0})
    assert built(tmp_path / "index", settings).settings == settings
    with pytest.raises(ValidationError, match="at least one must be above 0"):
        RetrievalConfig.model_validate({"fusion_weights": {"bm25": 0, "tfidf": 0, "dense": 1.0}})


def test_shards_refuse_embeddings(model: Path, tmp_path: Path) -> None:
    built(tmp_path / "index", with_dense(model))
    with pytest.raises(ConfigError, match="has embeddings, which shards do not search") as refused:
        open_sharded(tmp_path / "index", 2)
    assert refused.value.exit_code == 2


def test_the_command_line_and_the_service_show_cosines(model: Path, tmp_path: Path) -> None:
    index = built(tmp_path / "index", with_dense(model))
    hits = index.search("stop training", 3)
    lines = search_lines(index, "stop training", [replace(hits[0], dense_score=0.0), *hits[1:]], False, False)
    assert "embeddings rank " in lines[0] and "cosine 0.000" in lines[0] and len(lines) == 3
    found = asyncio.run(Retriever(index, cast(Confidence, None)).search("stop training", 3, explain=True))
    assert [one.hit.dense_score for one in found.hits] == [hit.dense_score for hit in hits]
    shown = found.hits[0].to_json()
    assert sum(term["bm25"] for term in shown["terms"]) == pytest.approx(hits[0].bm25_score)


def test_documents_that_are_excluded_or_gone_are_not_near(model: Path, tmp_path: Path) -> None:
    built(tmp_path / "built", with_dense(model))
    store = IndexStore.create(tmp_path / "store", tmp_path / "built")
    assert {h.doc_id for h in store.open().search("zzzz", 20, ["gpu", "demo"])} == {
        p.doc_id for p in PASSAGES
    } - {"gpu", "demo"}  # fmt: skip
    current = CurrentIndex(store.root, look_every_s=0)
    store.update([passage("new", "stop training", "now"), passage("gpu", "two gpus", "again")], ["demo"])
    live = [p for p in PASSAGES if p.doc_id not in ("demo", "gpu")]
    live += [passage("new", "stop training", "now"), passage("gpu", "two gpus", "again")]
    rebuilt = built(tmp_path / "rebuilt", with_dense(model), live)
    for number in range(2):
        opened = current.now()
        assert version_of(opened) == 2 + number
        for query in QUERIES:
            hits, expected = opened.search(query, 20), rebuilt.search(query, 20)
            assert [h.doc_id for h in hits] == [h.doc_id for h in expected]
            assert [h.dense_score for h in hits] == pytest.approx([h.dense_score for h in expected], abs=1e-6)
        store.compact(all_segments=True)


def test_another_model_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make_encoder(folder)
    index = built(tmp_path / "index", with_dense(folder))
    assert index.search("stop", 1)
    (tmp_path / "other").mkdir()
    make_encoder(tmp_path / "other", seed=1)
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    encoder_of.cache_clear()  # as a new process
    with pytest.raises(ArtifactError, match="not the model that the index was made with"):
        HybridIndex.open(tmp_path / "index").search("stop", 1)
    store = IndexStore.create(tmp_path / "store", tmp_path / "index")
    with pytest.raises(ArtifactError, match="not the model"):
        store.update([passage("new", "", "text")])


def test_the_reranker_orders_the_first_hits_by_what_it_says(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = tmp_path / "reranker"
    folder.mkdir()
    make_reranker(folder)
    plain = built(tmp_path / "plain", RetrievalConfig())
    settings = RetrievalConfig.model_validate({"reranker": {"model": str(folder), "depth": 3}})
    index = built(tmp_path / "index", settings)
    judge = CrossEncoder(str(folder), device="cpu")
    query = "how do I train on two gpus, make demo, stop the checkpoint"
    before = plain.search(query, 10)
    assert len(before) > 3
    said = {
        hit.doc_id: float(judge.predict([(query, f"{p.title}\n{p.text}")])[0])
        for hit in before[:3]
        for p in [plain.passage(hit.doc_id)]
    }
    expected = sorted(said, key=lambda doc_id: -said[doc_id])
    assert expected != [hit.doc_id for hit in before[:3]], "the test would see nothing"
    hits = index.search(query, 10)
    assert [hit.doc_id for hit in hits] == expected + [hit.doc_id for hit in before[3:]]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit.rerank_score for hit in hits[:3]] == pytest.approx([said[doc_id] for doc_id in expected], abs=1e-5)
    assert all(hit.rerank_score is None for hit in hits[3:])
    assert {hit.doc_id: (hit.score, hit.bm25_rank) for hit in hits} == {
        hit.doc_id: (hit.score, hit.bm25_rank) for hit in before
    }
    assert index.search(query, 1) == hits[:1]  # it reads as many for fewer hits
    assert (index.search("zzzz", 5), index.search(query, 0)) == ([], [])


def test_another_reranker_and_those_of_no_single_score_are_refused(tmp_path: Path) -> None:
    folder, other, classes, headless = (tmp_path / name for name in ("model", "other", "classes", "headless"))
    for place in (folder, other, classes, headless):
        place.mkdir()
    make_reranker(folder)
    make_reranker(other, seed=1)
    index = built(tmp_path / "index", RetrievalConfig.model_validate({"reranker": {"model": str(folder)}}))
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="not the reranker that the index was made with"):
        index.search("stop", 1)
    store = IndexStore.create(tmp_path / "store", tmp_path / "index")
    store.update([passage("new", "", "stop")])
    assert store.open().reranker == index.reranker  # what a store was created with, not what lies there now
    with pytest.raises(ArtifactError, match="not the reranker that the index was made with"):
        store.open().search("stop", 1)
    with pytest.raises(ConfigError, match="3 classes"):
        Reranker(make_reranker(classes, classes=3))
    with pytest.raises(ConfigError, match="BertModel is no cross-encoder"):  # its head would have random weights
        Reranker(make_encoder(headless))
    spoil(other)
    with pytest.raises(EngineError, match="no numbers"):
        Reranker(other).scores("stop", PASSAGES[:1])
