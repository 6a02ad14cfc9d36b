"""The hybrid index: found, ranked, explained, and defined for every query."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_corpus import PASSAGES, passage  # type: ignore[import-not-found]

from ragray.config import AnalyzerConfig, Bm25Config, FusionWeights, RetrievalConfig
from ragray.errors import ArtifactError, DataError
from ragray.manifest import files_below
from ragray.retrieval.fusion import reciprocal_rank_fusion, united
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import DESCRIPTION, SEGMENT, build_index


def found(index: HybridIndex, query: str, top_k: int = 10) -> list[str]:
    return [hit.doc_id for hit in index.search(query, top_k)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("train with two gpus", "gpu"),
        ("num-gpus", "gpu"),
        ("ray.train.report", "gpu"),
        ("report", "gpu"),
        ("K8s集群怎么部署", "deploy"),
        ("2.60", "deploy"),
        ("make demo", "demo"),
        ("lora rank", "demo"),
        ("模型量化", "quantize"),
        ("stopping", "stop"),
    ],
)
def test_finds(index: HybridIndex, query: str, first: str) -> None:
    assert found(index, query)[0] == first


def test_equal_documents_stand_in_index_order(index: HybridIndex) -> None:
    hits = index.search("stop training", 10)
    assert [hit.doc_id for hit in hits[:2]] == ["stop", "stop-again"]
    assert hits[0].bm25_score == hits[1].bm25_score


def test_the_fused_score_is_the_weighted_sum_of_shares_of_the_best(index: HybridIndex) -> None:
    hits = index.search("train the model on gpus", 10)
    best_bm25, best_tfidf = max(hit.bm25_score for hit in hits), max(hit.tfidf_score for hit in hits)
    for hit in hits:
        assert hit.score == pytest.approx(0.7 * hit.bm25_score / best_bm25 + 0.3 * hit.tfidf_score / best_tfidf)


def test_the_fused_score_is_rrf_of_the_ranks_shown(tmp_path: Path) -> None:
    even = FusionWeights(bm25=1.0, tfidf=1.0)
    build_index(PASSAGES, RetrievalConfig(fusion="rrf", fusion_weights=even), tmp_path)
    index = HybridIndex.open(tmp_path)
    hits = index.search("train the model on gpus", 10)
    for hit in hits:
        assert hit.bm25_rank is not None and hit.tfidf_rank is not None
        assert hit.score == pytest.approx(1 / (60 + hit.bm25_rank) + 1 / (60 + hit.tfidf_rank))
    by_bm25 = sorted(hits, key=lambda hit: hit.bm25_rank or 0)
    by_tfidf = sorted(hits, key=lambda hit: hit.tfidf_rank or 0)
    numbers = {hit.doc_id: index.number(hit.doc_id) for hit in hits}
    lists = [(np.array([numbers[hit.doc_id] for hit in held]), np.zeros(len(held))) for held in (by_bm25, by_tfidf)]
    assert [numbers[hit.doc_id] for hit in hits] == reciprocal_rank_fusion(united(lists), 60).documents.tolist()


def test_the_fused_score_is_the_weighted_sum_of_normalized_scores(tmp_path: Path) -> None:
    settings = RetrievalConfig(
        fusion="convex", fusion_weights=FusionWeights(bm25=0.3, tfidf=0.7), bm25=Bm25Config(variant="plus")
    )
    build_index(PASSAGES, settings, tmp_path)
    opened = HybridIndex.open(tmp_path)
    query = "train the model on gpus"
    hits, least = opened.search(query, 10), opened.query_terms(query).floor  # BM25+ gives that to every passage
    assert least > 0
    best = [max(hit.bm25_score for hit in hits) - least, max(hit.tfidf_score for hit in hits)]
    for hit in hits:
        expected = 0.3 * (hit.bm25_score - least) / best[0] + 0.7 * hit.tfidf_score / best[1]
        assert hit.score == pytest.approx(expected)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_lists_of_a_stated_depth_or_whole_ones_are_fused(tmp_path: Path) -> None:
    many = [passage(f"d{n}", "", "word " * (1 + n % 5) + "filler " * (37 * n % 151)) for n in range(150)]
    found = {}
    for depth in (3, 150, "all"):
        folder = tmp_path / str(depth)
        folder.mkdir()
        build_index(many, RetrievalConfig(fusion_depth=depth), folder)  # type: ignore[arg-type]
        found[depth] = HybridIndex.open(folder).search_batch(["word filler", "word", "filler", "unknown"], 1000)
    assert found["all"] == found[150]
    assert [len(hits) for hits in found["all"]] == [150, 150, 149, 0]
    cut, whole = found[3][0], {hit.doc_id: hit for hit in found["all"][0]}
    assert 3 < len(cut) <= 6
    for hit in cut:
        ranks = (whole[hit.doc_id].bm25_rank, whole[hit.doc_id].tfidf_rank)
        assert (hit.bm25_rank, hit.tfidf_rank) == tuple(rank if rank and rank <= 3 else None for rank in ranks)


def test_a_list_of_weight_0_finds_nothing(tmp_path: Path) -> None:
    build_index(PASSAGES, RetrievalConfig(fusion_weights=FusionWeights(tfidf=0.0)), tmp_path)
    hits = HybridIndex.open(tmp_path).search("train the model on gpus", 10)
    assert [hit.bm25_rank for hit in hits] == [1, 2, 3, 4]
    assert all(hit.tfidf_rank for hit in hits)


def test_lists_are_both_rankings_that_are_fused(index: HybridIndex) -> None:
    queries = ["train the model on gpus", "zzyzx", "怎么部署训练服务"]
    lists = list(index.lists(queries, 100))
    assert len(lists) == len(queries)
    for hits, (by_bm25, by_tfidf) in zip(index.search_batch(queries, 100), lists, strict=True):
        ranked = [(hit.bm25_rank, index.number(hit.doc_id), hit.bm25_score) for hit in hits]
        assert sorted(ranked) == [(rank, *pair) for rank, pair in enumerate(zip(*by_bm25, strict=True), 1)]
        ranked = [(hit.tfidf_rank, index.number(hit.doc_id), hit.tfidf_score) for hit in hits]
        assert sorted(ranked) == [(rank, *pair) for rank, pair in enumerate(zip(*by_tfidf, strict=True), 1)]
    (((first, _), _),) = index.lists(queries[:1], 2)
    assert first.tolist() == lists[0][0][0].tolist()[:2]


def test_a_shorter_result_begins_the_longer(index: HybridIndex) -> None:
    hits = index.search("train the model", 100)
    assert all(index.search("train the model", k) == hits[:k] for k in range(8))


@pytest.mark.parametrize("query", ["", "   ", "?!…，。", "😀🎉", "how is it", "怎么", "zzyzx", "\ud800", "\x00"])
def test_queries_without_a_known_term_find_nothing(index: HybridIndex, query: str) -> None:
    assert index.search(query, 10) == []


def test_a_query_of_100_000_characters_is_cut(index: HybridIndex) -> None:
    assert found(index, "gpu train " * 10_000)[0] == "gpu"
    assert found(index, "训练" * 50_000) == found(index, "训练" * 20_000)


def test_top_k_beyond_the_corpus_gives_all_that_share_a_term(index: HybridIndex) -> None:
    assert set(found(index, "train", 10_000)) == {"gpu", "demo", "stop", "stop-again"}


def test_excluded_documents_do_not_hold_a_rank(index: HybridIndex) -> None:
    hits = index.search("stop training", 10, exclude=("stop", "never indexed"))
    assert hits[0].doc_id == "stop-again"
    assert (hits[0].bm25_rank, hits[0].tfidf_rank) == (1, 1)


def test_a_batch_equals_single_searches(index: HybridIndex) -> None:
    queries, exclude = ["train", "部署", ""], [("gpu",), (), ()]
    single = [index.search(q, 3, e) for q, e in zip(queries, exclude, strict=True)]
    assert index.search_batch(queries, 3, exclude) == single
    assert index.search_batch(queries, 3) == [index.search(q, 3) for q in queries]


def test_explanations_sum_to_the_scores(index: HybridIndex) -> None:
    for hit in index.search("train on gpus with ray.train.report", 10):
        parts = index.explain("train on gpus with ray.train.report", hit.doc_id)
        assert sum(part.bm25 for part in parts) == pytest.approx(hit.bm25_score)
        assert sum(part.tfidf for part in parts) == pytest.approx(hit.tfidf_score)
        assert parts == sorted(parts, key=lambda part: -part.bm25)


def test_passages_come_back_whole(index: HybridIndex) -> None:
    assert [index.passage(p.doc_id) for p in PASSAGES] == PASSAGES
    assert len(index) == len(PASSAGES)
    with pytest.raises(DataError, match="'absent'"):
        index.passage("absent")


def test_passages_beyond_one_row_group(tmp_path: Path) -> None:
    many = [passage(f"d{number}", "", f"w{number}") for number in range(600)]
    build_index(many, RetrievalConfig(), tmp_path)
    opened = HybridIndex.open(tmp_path)
    assert [opened.passage(f"d{n}").text for n in (0, 255, 256, 599)] == ["w0", "w255", "w256", "w599"]
    assert found(opened, "w599") == ["d599"]


def test_the_same_passages_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    build_index(PASSAGES, RetrievalConfig(), tmp_path)
    names = files_below(folder)
    assert names == files_below(tmp_path)
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_the_index_knows_its_settings(tmp_path: Path) -> None:
    settings = RetrievalConfig(
        analyzer=AnalyzerConfig(stem=False), fusion="rrf", fusion_weights=FusionWeights(bm25=1.0, tfidf=1.0), rrf_k=7
    )
    build_index(PASSAGES, settings, tmp_path)
    opened = HybridIndex.open(tmp_path)
    assert opened.settings == settings
    assert found(opened, "stopping") == []
    assert opened.search("stop", 1)[0].score == pytest.approx(2 / (7 + 1))


def test_threads_share_one_index(index: HybridIndex) -> None:
    queries = ["train gpus", "部署集群", "stop", "量化模型"] * 25
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda q: [index.passage(h.doc_id) for h in index.search(q, 3)], queries))
    assert shared == [[index.passage(h.doc_id) for h in index.search(q, 3)] for q in queries]


def test_no_passages_and_repeated_ids_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to index"):
        build_index([], RetrievalConfig(), tmp_path)
    with pytest.raises(DataError, match="'gpu'"):
        build_index([PASSAGES[0], PASSAGES[0]], RetrievalConfig(), tmp_path)


@pytest.mark.parametrize(
    "missing",
    [DESCRIPTION, "frequencies.npy", "0/norms.npy"]
    + [f"{SEGMENT}/{name}" for name in ("packed.npy", "passages.parquet", "vocabulary.bytes.npy", "digest.txt")],
)
def test_a_folder_with_a_missing_file_says_which(folder: Path, tmp_path: Path, missing: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "index")
    (broken / missing).unlink()
    with pytest.raises(ArtifactError, match=missing):
        HybridIndex.open(broken)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (DESCRIPTION, b"{"),
        (DESCRIPTION, b"[]"),
        ("0/norms.npy", b"not an array"),
        (f"{SEGMENT}/passages.parquet", b"PAR"),
    ],
)
def test_a_damaged_file_is_an_artifact_error(folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    broken = shutil.copytree(folder, tmp_path / "index")
    (broken / name).write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        HybridIndex.open(broken)
    assert caught.value.fix


def test_another_format_or_analyzer_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "index")
    description = json.loads((changed / DESCRIPTION).read_text())
    for change, message in (({"format_version": 99}, "format 99"), ({"analyzer": {"name": "x"}}, "analyzer x")):
        (changed / DESCRIPTION).write_text(json.dumps(description | change))
        with pytest.raises(ArtifactError, match=message):
            HybridIndex.open(changed)


_FIRST = """
import sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from ragray.retrieval import chunks, fusion, index, topk
from ragray.retrieval.confidence import features

def loaded():
    return {(module.__name__, name): len(value.overloads) for module in (chunks, fusion, topk)
            for name, value in vars(module).items() if isinstance(value, Dispatcher)}

assert not any(loaded().values())
opened = index.HybridIndex.open(Path(sys.argv[1]))
before = loaded()
assert any(before.values())
hits = opened.search("stop training", 5)
assert hits and opened.search_batch(["two gpus", "demo"], 3, [["gpu"], []])
assert opened.explain("stop training", hits[0].doc_id)
features(opened, "stop training", hits)
print([name for name, count in loaded().items() if count != before[name]])
"""


@pytest.mark.parametrize("changing", [False, True], ids=["built", "of segments"])
def test_opening_leaves_no_compiled_code_to_be_loaded_by_the_first_search(
    changing: bool, folder: Path, tmp_path: Path
) -> None:
    searched = folder
    if changing:
        store = IndexStore.create(tmp_path / "store", folder)
        store.update([passage("new", "", "stop training two gpus")], ["demo"])
        searched = store.root
    done = subprocess.run([sys.executable, "-c", _FIRST, str(searched)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
