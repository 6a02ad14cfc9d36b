"""The figures of a small evaluation, by hand."""

import dataclasses
import json

import pyarrow.compute as pc
import pytest

from ragray.evaluation.predictions import PREDICTIONS, predictions_table
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import OUTCOMES, outcome, summarize, worst

RESAMPLING = Resampling(200, 17)


def test_cells_by_hand(predictions, retrieval_values):
    summary = summarize(predictions, retrieval_values, RESAMPLING)
    main = {metric: (i.mean, i.n) for metric, i in summary.cells["tuned_retrieval"].items()}
    # q1 exact; q2 declined: 0; q3 "in folder" against "run make test": 0; q4 "run make test": 0
    assert (summary.answerable, summary.unanswerable) == (4, 2)
    assert main["exact_match"] == main["f1"] == main["rouge_l"] == (0.25, 4)
    assert main["declined_answerable"] == (0.25, 4)
    assert main["declined_unanswerable"] == (0.5, 2)
    assert main["decline_precision"] == (0.5, 2)
    assert main["citation_precision"] == (pytest.approx(1 / 3), 3)
    assert main["citation_recall"] == (pytest.approx(1 / 3), 3)
    assert summary.cells["base_closed_book"]["citation_precision"].n == 0


def test_languages_split_the_f1(predictions, retrieval_values):
    by_lang = summarize(predictions, retrieval_values, RESAMPLING).languages["tuned_retrieval"]
    assert {lang: (i.mean, i.n) for lang, i in by_lang.items()} == {"en": (0.0, 2), "zh": (0.5, 2)}


def test_who_declined(predictions, retrieval_values):
    declines = summarize(predictions, retrieval_values, RESAMPLING).declines
    assert declines["tuned_retrieval"] == {
        "answerable_by_retrieval": 0,
        "answerable_by_model": 1,
        "unanswerable_by_retrieval": 1,
        "unanswerable_by_model": 0,
    }
    assert set(declines["base_retrieval"].values()) == {0}


def test_each_answerable_question_has_one_outcome(predictions, retrieval_values):
    outcomes = summarize(predictions, retrieval_values, RESAMPLING).outcomes
    assert list(outcomes) == list(OUTCOMES)
    assert outcomes == {
        "good": 1,
        "not_retrieved": 1,
        "declined_by_retrieval": 0,
        "declined_by_model": 1,
        "wrong_passage": 1,
        "different_answer": 0,
    }


def test_outcomes_that_the_small_evaluation_lacks(predictions):
    q2 = next(p for p in predictions if (p.query_id, p.cell) == ("q2", "tuned_retrieval"))
    assert outcome(dataclasses.replace(q2, declined_by="retrieval")) == "declined_by_retrieval"
    assert outcome(dataclasses.replace(q2, declined_by="", text="?", cited=())) == "different_answer"
    assert outcome(dataclasses.replace(q2, declined_by="", cited=("zh-1", "zh-2"))) == "different_answer"


def test_comparisons_are_paired_by_question(predictions, retrieval_values):
    summary = summarize(predictions, retrieval_values, RESAMPLING)
    found = {(c.first, c.second, c.metric): c.difference for c in summary.comparisons}
    assert found["tuned_retrieval", "base_retrieval", "f1"].mean == pytest.approx(0.25)
    assert found["engine_retrieval", "tuned_retrieval", "f1"].mean == 0.0
    assert found["hybrid", "tfidf", "ndcg@10"].p_value == 1.0
    # BM25 has the right passage second in three of four rankings: 1/log2(3) instead of 1.
    gap = found["hybrid", "bm25", "ndcg@10"]
    assert gap.mean == pytest.approx(3 * (1 - 0.6309297535714574) / 4)
    assert (gap.n, len(found)) == (4, 8)


def test_the_order_of_predictions_does_not_matter(predictions, retrieval_values):
    one = summarize(predictions, retrieval_values, RESAMPLING)
    other = summarize(sorted(predictions, key=lambda p: p.query_id), retrieval_values, RESAMPLING)
    assert one == other


def test_without_unanswerable_questions_the_decline_figure_is_null(predictions, retrieval_values):
    answerable = [p for p in predictions if p.answerable]
    tree = summarize(answerable, retrieval_values, RESAMPLING).tree()
    figure = json.loads(json.dumps(tree))["cells"]["tuned_retrieval"]["declined_unanswerable"]
    assert figure == {"mean": None, "low": None, "high": None, "n": 0}


def test_without_answerable_questions_nothing_is_compared(predictions):
    summary = summarize([p for p in predictions if not p.answerable], {"hybrid": {"map": {}}}, RESAMPLING)
    assert summary.cells["tuned_retrieval"]["f1"].mean is None
    assert summary.retrieval["hybrid"]["map"].mean is None
    assert summary.comparisons == ()


def test_the_worst_come_first_and_invented_answers_are_among_them(predictions):
    ids = [p.query_id for p in worst(predictions, "tuned_retrieval", 3)]
    assert ids == ["q2", "q3", "q6"]
    assert [p.query_id for p in worst(predictions, "tuned_retrieval", 99)] == ["q2", "q3", "q4", "q6"]


def test_the_table_holds_what_the_figures_are_made_from(predictions):
    table = predictions_table(predictions)
    assert table.schema == PREDICTIONS
    keys = list(zip(table["query_id"].to_pylist(), table["cell"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert len(keys) == len(predictions) == 30
    main = table.filter(pc.equal(table["cell"], "tuned_retrieval"))
    assert pc.mean(main["f1"]).as_py() == 0.25
    assert main["citations"].to_pylist()[0] == ["zh-1"]
    assert main["answer"].to_pylist()[0] == "运行 make demo 即可安装。 [1]"
