"""Reworded questions: deterministic, kept apart from training's where that can be, and their cost by hand."""

import dataclasses

import pyarrow.compute as pc
import pytest

from ragray.config_data import METHODS
from ragray.config_evaluate import REWORDING_KINDS
from ragray.dataprep.methods import RULES
from ragray.evaluation.robustness import (
    ANSWER_METRICS,
    KIND_NAMES,
    KINDS,
    RETRIEVAL_METRICS,
    ROBUSTNESS,
    measure_robustness,
    reword,
    robustness_table,
)
from ragray.evaluation.significance import Resampling
from ragray.schema import EvalQuestion

ASKED = [
    EvalQuestion("q1", "How do I install the training package on my machine?", "en", ("a",), ("Run make.",)),
    EvalQuestion("q2", "怎么把训练数据放到集群里？", "zh", ("b",), ("放到共享文件夹。",)),
    EvalQuestion("q3", "Wie installiere ich das Paket?", "other", ("c",), ("make",)),
]


def test_the_kinds_are_those_of_the_configuration_and_their_methods_exist():
    assert tuple(KINDS) == tuple(KIND_NAMES) == REWORDING_KINDS
    assert all(method in RULES for methods in KINDS.values() for method in methods)


@pytest.mark.parametrize("kind", KINDS)
def test_a_questions_form_depends_on_seed_kind_and_id_alone(kind):
    found = reword(ASKED, kind, (), 17)
    assert found == reword(ASKED, kind, (), 17)
    backwards = reword(ASKED[::-1], kind, (), 17)
    assert sorted(backwards.questions, key=lambda q: q.query_id) == list(found.questions)
    changed = {q.query_id: q.question for q in found.questions}
    assert set(changed) == {"q1", "q2"} == set(found.methods)  # no rule knows German
    assert found.unchanged == 1
    for question in ASKED[:2]:
        assert changed[question.query_id] != question.question
    others = {reword(ASKED, kind, (), seed).questions for seed in range(6)}
    assert len(others) > 1


def test_only_the_words_of_a_question_change():
    for question in reword(ASKED, "speech", (), 17).questions:
        (before,) = (q for q in ASKED if q.query_id == question.query_id)
        assert dataclasses.replace(question, question=before.question) == before


def test_methods_that_training_uses_are_left_out_where_others_remain():
    questions = [EvalQuestion(f"q{n}", f"How do I restart worker {n} of the cluster?", "en") for n in range(40)]
    apart = reword(questions, "typos", ("typo", "homophones"), 17)
    assert set(apart.methods.values()) == {"keyboard"}
    assert not apart.shared
    every = reword(questions, "typos", METHODS, 17)
    assert every.shared
    assert len(set(every.methods.values())) > 1
    assert not reword(questions, "speech", (), 17).shared
    assert reword(questions, "speech", METHODS, 17).shared


def test_the_cost_by_hand(predictions):
    before = [p for p in predictions if p.cell == "engine_retrieval"]  # q1 right; q2 declined; q5 declined; q6 not
    questions = [EvalQuestion(p.query_id, p.question, p.lang) for p in before]
    reworded = dataclasses.replace(
        reword(questions, "speech", (), 17), methods=dict.fromkeys(("q1", "q3", "q5"), "speech"), unchanged=3
    )
    after = [dataclasses.replace(p, cell="speech") for p in before if p.query_id in reworded.methods]
    (q1,) = (p for p in after if p.query_id == "q1")
    after.remove(q1)
    after.append(dataclasses.replace(q1, scores=dataclasses.replace(q1.scores, f1=0.5)))
    values = (
        {m: {"q1": 1.0, "q3": 0.0} for m in RETRIEVAL_METRICS},
        {m: {"q1": 0.0, "q3": 0.0} for m in RETRIEVAL_METRICS},
    )
    found = measure_robustness(reworded, before, after, values, Resampling(100, 1))
    drops = {drop.metric: drop for drop in found.drops}
    assert (found.changed, found.unchanged) == (3, 3)
    assert set(drops) == {*ANSWER_METRICS, *RETRIEVAL_METRICS}
    f1 = drops["f1"]
    assert (f1.written.mean, f1.reworded.mean, f1.difference.mean) == (0.5, 0.25, -0.25)  # of q1 and q3
    assert (f1.written.n, f1.difference.n) == (2, 2)
    assert drops["recall@5"].difference.mean == -0.5
    assert drops["declined_unanswerable"].difference.mean == 0.0  # q5 alone
    assert found.tree()["drops"][0]["metric"] == RETRIEVAL_METRICS[0]


def test_a_metric_that_no_question_counts_for_has_no_difference(predictions):
    before = [p for p in predictions if p.cell == "engine_retrieval"]
    reworded = dataclasses.replace(reword([], "speech", (), 17), methods={"q5": "speech"})
    after = [dataclasses.replace(p, cell="speech") for p in before if p.query_id == "q5"]
    found = measure_robustness(reworded, before, after, ({m: {} for m in RETRIEVAL_METRICS},) * 2, Resampling(100, 1))
    drops = {drop.metric: drop for drop in found.drops}
    assert drops["f1"].difference is None and drops["f1"].written.mean is None
    assert drops["declined_unanswerable"].difference is not None


def test_the_table_names_kind_and_method(predictions):
    rows = [dataclasses.replace(p, cell="typos") for p in predictions if p.cell == "engine_retrieval"]
    table = robustness_table(rows, {(p.query_id, "typos"): f"m-{p.query_id}" for p in rows})
    assert table.schema == ROBUSTNESS
    assert pc.all(pc.equal(table["cell"], "typos")).as_py()
    assert table["method"].to_pylist() == [f"m-{q}" for q in table["query_id"].to_pylist()]
    assert robustness_table([], {}).schema == ROBUSTNESS
