"""Retrieval metrics against values computed by hand, and TREC's text formats."""

from math import log2

import numpy as np
import pytest

from ragray.evaluation.retrieval import METRICS, measure, relevant_documents, trec_qrels, trec_run
from ragray.schema import EvalQuestion, Passage


def passage(doc_id: str, text: str, kind: str = "faq") -> Passage:
    return Passage(doc_id, "title", text, "en", "file", kind)


def test_values_by_hand():
    # Ranking x a y b: the relevant a and b are second and fourth.
    values = measure({"q": ["x", "a", "y", "b"]}, {"q": {"a": 1, "b": 1}})
    assert {metric: by_query["q"] for metric, by_query in values.items()} == pytest.approx(
        {
            "recall@1": 0.0,
            "recall@3": 0.5,
            "recall@5": 1.0,
            "recall@10": 1.0,
            "precision@3": 1 / 3,
            "precision@5": 2 / 5,
            "precision@10": 2 / 10,  # of the first ten, found or not: trec_eval's P@k
            "success@1": 0.0,
            "success@5": 1.0,
            "mrr@10": 1 / 2,
            "ndcg@10": (1 / log2(3) + 1 / log2(5)) / (1 / log2(2) + 1 / log2(3)),
            "map": (1 / 2 + 2 / 4) / 2,
        }
    )


def test_a_query_that_found_nothing_scores_zero():
    values = measure({"q1": ["a"], "q3": []}, {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}})
    for metric in METRICS:
        best = 1 / int(metric.partition("@")[2]) if metric.startswith("precision") else 1.0  # one relevant of k
        assert values[metric] == pytest.approx({"q1": best, "q2": 0.0, "q3": 0.0})


def test_the_tenth_rank_is_the_last_that_counts():
    ranking = [f"d{n}" for n in range(20)]
    values = measure({"q": ranking}, {"q": {"d10": 1}})
    assert values["mrr@10"]["q"] == values["ndcg@10"]["q"] == values["recall@10"]["q"] == 0.0
    assert values["map"]["q"] == pytest.approx(1 / 11)


def test_order_is_kept_whatever_the_ids():
    # trec_eval sorts by score and breaks ties by id: both orders must be seen as they are.
    qrels = {"q": {"z": 1}}
    assert measure({"q": ["a", "z"]}, qrels)["mrr@10"]["q"] == 0.5
    assert measure({"q": ["z", "a"]}, qrels)["mrr@10"]["q"] == 1.0


def test_no_questions_with_an_answer():
    assert measure({"q": ["a"]}, {}) == {metric: {} for metric in METRICS}


def test_records_with_the_same_answer_are_relevant_too():
    passages = [
        passage("a", "Run make demo."),
        passage("b", "Run  make\ndemo."),
        passage("c", "Run make test."),
        passage("d", "Run make demo.", kind="document"),
    ]
    questions = [
        EvalQuestion("q1", "?", "en", ("a",)),
        EvalQuestion("q2", "?", "en", ()),
        EvalQuestion("q3", "?", "en", ("c", "gone")),
    ]
    assert relevant_documents(questions, passages) == {"q1": {"a": 1, "b": 1}, "q3": {"c": 1, "gone": 1}}


def test_trec_formats():
    rankings = {"q2": ["b"], "q1": ["x", "a"]}
    assert trec_run(rankings, "bm25") == ("q1 Q0 x 1 1.000000 bm25\nq1 Q0 a 2 0.500000 bm25\nq2 Q0 b 1 1.000000 bm25\n")
    assert trec_qrels({"q1": {"b": 1, "a": 1}}) == "q1 0 a 1\nq1 0 b 1\n"


def test_a_written_run_is_judged_as_the_ranking_it_was_made_from(tmp_path):
    import ir_measures

    rankings = {"q": [f"d{n:03d}" for n in range(100)]}
    qrels = {"q": {"d001": 1, "d097": 1}}
    (tmp_path / "run").write_text(trec_run(rankings, "x"), encoding="utf-8")
    (tmp_path / "qrels").write_text(trec_qrels(qrels), encoding="utf-8")
    run = ir_measures.read_trec_run(str(tmp_path / "run"))
    judged = ir_measures.read_trec_qrels(str(tmp_path / "qrels"))
    average = ir_measures.calc_aggregate([ir_measures.AP], list(judged), list(run))[ir_measures.AP]
    assert average == pytest.approx(measure(rankings, qrels)["map"]["q"]) == pytest.approx((1 / 2 + 2 / 98) / 2)


def test_figures_equal_those_of_ranx():
    """On random rankings and judgements; ranx gets falling scores, as it breaks ties in another order."""
    from ranx import Qrels, Run, evaluate

    random = np.random.default_rng(5)
    documents = [f"d{n}" for n in range(60)]
    rankings, qrels = {}, {}
    for number in range(40):
        found = random.permutation(documents)[: random.integers(1, 50)].tolist()
        relevant = random.permutation(documents)[: random.integers(1, 12)].tolist()
        rankings[f"q{number}"] = found
        qrels[f"q{number}"] = dict.fromkeys(relevant, 1)
    run = Run({q: {d: 1.0 / rank for rank, d in enumerate(found, 1)} for q, found in rankings.items()})
    names = {name: name for name in METRICS if not name.startswith("success")}
    names |= {"success@1": "hit_rate@1", "success@5": "hit_rate@5"}
    theirs = evaluate(Qrels(qrels), run, list(names.values()))
    ours = {name: np.mean(list(by_query.values())) for name, by_query in measure(rankings, qrels).items()}
    assert ours == pytest.approx({name: theirs[other] for name, other in names.items()})
    assert 0.05 < ours["map"] < 0.95
