from random import Random

import pytest

from ragray.dataprep import wording_en, wording_zh
from ragray.dataprep.augment import METHODS, Variants, make_variants, owners_of_questions
from ragray.dataprep.dedup import normalized
from ragray.schema import EvalQuestion, QARecord


def record(record_id: str, question: str, lang: str) -> QARecord:
    return QARecord(record_id, question, "The answer.", lang, "f", 1, record_id, "train")


EN = record("e", "How do I install the package on my machine?", "en")
ZH = record("z", "怎样设置检索的参数？", "zh")


@pytest.mark.parametrize("asked", [EN, ZH])
def test_variants_differ_and_are_the_same_each_time(asked: QARecord) -> None:
    first, again = Variants(), Variants()
    for into in (first, again):
        make_variants(asked, 5, owners_of_questions([EN, ZH], []), 17, into)
    assert first.records == again.records and len(first.records) == 5
    forms = {normalized(v.question) for v in first.records}
    assert len(forms) == 5 and normalized(asked.question) not in forms
    for n, variant in enumerate(first.records, 1):
        assert (variant.id, variant.parent, variant.group, variant.answer) == (
            f"{asked.id}~{n}",
            asked.id,
            asked.group,
            asked.answer,
        )
        assert set(variant.method.split("+")) <= set(METHODS)
    other = Variants()
    make_variants(asked, 5, {}, 18, other)
    assert [v.question for v in other.records] != [v.question for v in first.records]


def test_a_question_of_others_is_refused() -> None:
    free = Variants()
    make_variants(EN, 3, {}, 17, free)
    taken = free.records[0].question
    for owners, reason in (
        (owners_of_questions([EN, record("x", taken, "en")], []), "other_question"),
        (owners_of_questions([EN], [EvalQuestion("q", taken, "en")]), "held_out_question"),
    ):
        found = Variants()
        make_variants(EN, 3, owners, 17, found)
        assert found.refused[reason] == 1
        assert normalized(taken) not in {normalized(v.question) for v in found.records}


def test_other_languages_get_none() -> None:
    found = Variants()
    make_variants(record("d", "Was ist das?", "other"), 2, {}, 17, found)
    assert not found.records and found.refused == {"language": 2}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_does_something(method: str) -> None:
    questions = {
        wording_en: ("How do I install the package on my machine?",),
        wording_zh: ("怎样设置检索的参数？", "遇到错误，怎么处理？"),
    }
    for rules, asked in questions.items():
        results = {getattr(rules, method)(q, Random(seed)) for q in asked for seed in range(10)}
        assert results - set(asked), (rules, method)


def test_rules_by_example() -> None:
    assert wording_en.keywords("How do I install the package?", Random(0)) == "install package"
    assert wording_en.word_order("How do I install it on Windows?", Random(0)) == "On Windows, how do I install it?"
    assert wording_zh.word_order("遇到错误，怎么处理？", Random(0)) == "怎么处理，遇到错误？"
    assert wording_zh.keywords("怎样设置检索的参数？", Random(0)) == "设置检索 参数"
