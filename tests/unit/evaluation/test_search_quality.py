"""Search measured on a tiny collection: against values by hand, against ir-measures, and for the right retriever."""

from math import log2

import pytest

from ragray.config import AnalyzerConfig, RetrievalConfig
from ragray.errors import WorkError
from ragray.evaluation import search_quality
from ragray.evaluation.collections import read_collection
from ragray.evaluation.retrieval import measure, trec_qrels, trec_run
from ragray.evaluation.search_quality import METRICS, RETRIEVERS, evaluate_search, quality_tree
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index


def test_grades_are_gains():
    # x a b: the documents of grade 3 and 1 are second and third, that of grade 2 is not found
    values = measure({"q": ["x", "a", "b"]}, {"q": {"a": 3, "b": 1, "c": 2, "x": 0, "y": -1}}, METRICS)
    assert {metric: by_query["q"] for metric, by_query in values.items()} == pytest.approx(
        {
            "ndcg@10": (3 / log2(3) + 1 / log2(4)) / (3 / log2(2) + 2 / log2(3) + 1 / log2(4)),
            "recall@10": 2 / 3,
            "recall@100": 2 / 3,
            "mrr@10": 1 / 2,
            "map": (1 / 2 + 2 / 3) / 3,
        }
    )


def test_values_by_hand(beir):
    quality = evaluate_search(read_collection(beir), RetrievalConfig())
    # zebras: a (1), b (2); c (1) is not found and z (1) not there. lion: d (0), b (1).
    zebras = (1 / log2(2) + 2 / log2(3)) / (2 / log2(2) + 1 / log2(3) + 1 / log2(4) + 1 / log2(5))
    assert quality.rankings["hybrid"] == {"q2": ["a", "b"], "q1": ["d", "b"]}
    assert quality.metrics["hybrid"] == pytest.approx(
        {
            "ndcg@10": (zebras + 1 / log2(3)) / 2,
            "recall@10": (2 / 4 + 1) / 2,
            "recall@100": (2 / 4 + 1) / 2,
            "mrr@10": (1 + 1 / 2) / 2,
            "map": ((1 + 1) / 4 + 1 / 2) / 2,
        }
    )


def test_the_written_run_and_judgements_give_the_same_values(beir, tmp_path):
    import ir_measures

    collection = read_collection(beir)
    quality = evaluate_search(collection, RetrievalConfig())
    (tmp_path / "qrels").write_text(trec_qrels(collection.qrels), encoding="utf-8")
    judged = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
    for retriever in RETRIEVERS:
        (tmp_path / "run").write_text(trec_run(quality.rankings[retriever], "x"), encoding="utf-8")
        run = list(ir_measures.read_trec_run(str(tmp_path / "run")))
        values = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in METRICS.values()], judged, run)
        by_name = {str(measured): value for measured, value in values.items()}
        assert quality.metrics[retriever] == pytest.approx({m: by_name[name] for m, name in METRICS.items()})


def test_each_ranking_is_that_of_its_retriever(beir, tmp_path):
    (beir / "corpus.jsonl").write_text(
        '{"id": "long", "text": "zebra lion one two three four five six seven eight nine ten eleven twelve"}\n'
        '{"id": "twice", "text": "zebra zebra zebra zebra"}\n'
        '{"id": "other", "text": "tiger"}\n'
    )
    (beir / "queries.jsonl").write_text('{"id": "q", "text": "zebra lion"}\n')
    (beir / "qrels" / "test.tsv").write_text("q\tlong\t1\n")
    collection = read_collection(beir)
    rankings = evaluate_search(collection, RetrievalConfig()).rankings
    folder = tmp_path / "index"
    folder.mkdir()
    build_index(collection.documents, RetrievalConfig(), folder)
    hits = HybridIndex.open(folder).search("zebra lion", 10)
    assert rankings["hybrid"]["q"] == [hit.doc_id for hit in hits]
    assert rankings["bm25"]["q"] == [hit.doc_id for hit in sorted(hits, key=lambda hit: hit.bm25_rank or 0)]
    assert rankings["tfidf"]["q"] == [hit.doc_id for hit in sorted(hits, key=lambda hit: hit.tfidf_rank or 0)]
    assert rankings["bm25"] != rankings["tfidf"]


def test_more_queries_than_are_asked_at_once(beir, monkeypatch):
    collection = read_collection(beir)
    whole = evaluate_search(collection, RetrievalConfig()).rankings
    monkeypatch.setattr(search_quality, "_AT_ONCE", 1)
    assert evaluate_search(collection, RetrievalConfig()).rankings == whole


def test_rankings_end_at_the_depth(beir):
    documents = "".join(f'{{"id": "d{n}", "text": "zebra {n}"}}\n' for n in range(300))
    (beir / "corpus.jsonl").write_text(documents)
    (beir / "qrels" / "test.tsv").write_text("q2\td1\t1\n")
    rankings = evaluate_search(read_collection(beir), RetrievalConfig(fusion_depth=300)).rankings
    assert {name: len(set(ranking["q2"])) for name, ranking in rankings.items()} == dict.fromkeys(RETRIEVERS, 100)


def test_settings_are_heeded(beir):
    unstemmed = RetrievalConfig(analyzer=AnalyzerConfig(stem=False))
    assert evaluate_search(read_collection(beir), unstemmed).rankings["hybrid"]["q2"] == []


def test_speeds_are_of_the_queries_and_reports_name_the_work(beir):
    lines = []
    quality = evaluate_search(read_collection(beir), RetrievalConfig(), lines.append)
    assert lines == ["indexing 4 documents", "searching for 2 queries"]
    for speed in (quality.lists, quality.hybrid):
        assert 0 < speed.p50_ms <= speed.p99_ms
        assert speed.queries_per_s > 0
    assert quality.index_seconds > 0


def test_the_tree_counts_what_took_part(beir):
    collection = read_collection(beir)
    tree = quality_tree(collection, RetrievalConfig(), evaluate_search(collection, RetrievalConfig()))
    counts = {key: tree[key] for key in tree if key.startswith(("queries", "judge", "documents")) and "file" not in key}
    assert counts == {
        "documents": 4,
        "queries": 3,
        "judged_queries": 2,
        "judged_queries_without_relevant": 0,
        "judgements": 7,
        "judgements_of_unknown_queries": 1,
        "judgements_of_unknown_documents": 1,
    }


def test_without_ir_measures_nothing_is_begun(beir, monkeypatch):
    monkeypatch.setattr(search_quality.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkError, match="ir-measures is not installed") as caught:
        evaluate_search(read_collection(beir), RetrievalConfig(), lambda line: pytest.fail(line))
    assert "ragray[evaluate]" in caught.value.fix
