from collections.abc import Sequence
from random import Random

import pytest

from ragray.config_data import METHODS
from ragray.dataprep import wording_en, wording_zh
from ragray.dataprep.augment import (
    Asked,
    Checks,
    Variants,
    form,
    make_variants,
    owners_of_questions,
    rule_candidates,
)
from ragray.dataprep.dedup import normalized
from ragray.dataprep.methods import REWORDINGS, RULES, SLIPS
from ragray.schema import EvalQuestion, QARecord


def record(record_id: str, question: str, lang: str) -> QARecord:
    return QARecord(record_id, question, "The answer.", lang, "f", 1, record_id, "train")


EN = record("e", "How do I install the package on my machine?", "en")
ZH = record("z", "我应该怎样设置检索的参数？", "zh")


def by_rules(asked: QARecord, count: int, seed: int = 17, methods: Sequence[str] = METHODS) -> Asked:
    return Asked(asked, count, rule_candidates(asked, methods, seed))


def made(asked: QARecord, count: int, checks: Checks | None = None, seed: int = 17) -> Variants:
    return make_variants([by_rules(asked, count, seed)], checks or Checks())


@pytest.mark.parametrize("asked", [EN, ZH])
def test_variants_differ_and_are_the_same_each_time(asked: QARecord) -> None:
    checks = Checks(owners_of_questions([EN, ZH], []))
    first, again = made(asked, 5, checks), made(asked, 5, checks)
    assert first.records == again.records and len(first.records) == 5
    forms = {form(v.question) for v in first.records}
    assert len(forms) == 5 and form(asked.question) not in forms
    for n, variant in enumerate(first.records, 1):
        assert (variant.id, variant.parent, variant.group, variant.answer, variant.split) == (
            f"{asked.id}~{n}",
            asked.id,
            asked.group,
            asked.answer,
            asked.split,
        )
        assert set(variant.method.split("+")) <= set(METHODS)
    assert [v.question for v in made(asked, 5, seed=18).records] != [v.question for v in first.records]


def test_others_beside_it_change_nothing() -> None:
    alone = made(EN, 3).records
    together = make_variants([by_rules(ZH, 3), by_rules(EN, 3)], Checks()).records
    assert together[3:] == alone and together[:3] == made(ZH, 3).records


def test_a_question_of_others_is_refused() -> None:
    taken = made(EN, 3).records[0].question
    for owners, reason in (
        (owners_of_questions([EN, record("x", taken, "en")], []), "other_question"),
        (owners_of_questions([EN], [EvalQuestion("q", taken, "en")]), "held_out_question"),
    ):
        found = made(EN, 3, Checks(owners))
        assert found.refused[reason] == 1
        assert [r.question for r in found.listed if r.reason == reason] == [taken]
        assert normalized(taken) not in {normalized(v.question) for v in found.records}


def test_what_a_check_refuses_is_replaced_by_the_next() -> None:
    rounds: list[list[str]] = []

    def short(variants: Sequence[QARecord]) -> list[bool]:
        rounds.append([v.question for v in variants])
        return [len(v.question) < len(EN.question) for v in variants]

    found = make_variants([by_rules(EN, 4), by_rules(ZH, 2)], Checks(together={"too_long": short}))
    of_en = [v for v in found.records if v.parent == "e"]
    assert [v.id for v in of_en] == ["e~1", "e~2", "e~3", "e~4"]
    assert all(len(v.question) < len(EN.question) for v in found.records)
    assert len(rounds) > 1 and len(rounds[0]) == 6  # all records at once, then those that still lack some
    assert found.refused["too_long"] == sum(map(len, rounds)) - len(found.records)
    assert found.refused["too_long"] == sum(r.reason == "too_long" for r in found.listed)


def test_every_candidate_is_kept_or_counted() -> None:
    candidates = [
        ("ABC d!", "m"),  # unchanged but for case and mark
        ("abd d", "m"),  # one of five characters differs: 0.2
        ("", "m"),
        ("something else", "m"),
        ("Something  ELSE.", "m"),
        ("another", "m"),
    ]
    asked = Asked(record("r", "abc d", "en"), 9, iter(candidates))
    found = make_variants([asked], Checks(min_edit_distance=0.21))
    assert [v.question for v in found.records] == ["something else", "another"]
    assert found.refused == {"unchanged": 2, "too_similar": 1, "repeated": 1}
    assert [r.reason for r in found.listed] == ["too_similar", "repeated"]
    allowed = make_variants([Asked(record("r", "abc d", "en"), 9, iter(candidates))], Checks(min_edit_distance=0.2))
    assert len(allowed.records) == 3


def test_other_languages_get_none() -> None:
    found = made(record("d", "Was ist das?", "other"), 2)
    assert not found.records and found.refused == {"language": 2}


def test_methods_choose() -> None:
    for asked in (EN, ZH):
        for methods in (("keywords",), ("typo", "width"), ("speech", "politeness")):
            found = make_variants([by_rules(asked, 9, methods=methods)], Checks())
            assert found.records and {m for v in found.records for m in v.method.split("+")} <= set(methods)
    assert not make_variants([by_rules(EN, 3, methods=())], Checks()).records


def test_a_round_tries_all_rewordings_and_one_slip() -> None:
    for n in range(20):
        order = [method.split("+")[0] for _, method in rule_candidates(record(f"r{n}", EN.question, "en"), METHODS, 17)]
        assert order[0] == "pattern" and len(order) == 3 * len(METHODS)
        first = order[: len(REWORDINGS)]  # "pattern" was moved here from the first round or a later one
        assert sum(method in SLIPS for method in first) <= 1
        assert all(order.count(method) == 3 for method in METHODS)


def test_config_and_rules_name_the_same_methods() -> None:
    assert set(RULES) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_method_does_something(method: str, lang: str) -> None:
    questions = {
        "en": ("How do I install the package on my machine?", "What is the right weight of a model in GB?"),
        "zh": ("我应该怎样设置检索的参数？", "遇到错误，怎么处理？", "怎么用GPU训练？"),
    }[lang]
    results = {RULES[method][lang](q, Random(seed)) for q in questions for seed in range(10)}
    assert (method == "keyboard" and lang == "zh") or results - set(questions)


def test_rules_by_example() -> None:
    assert wording_en.keywords("How do I install the package?", Random(0)) == "install package"
    assert wording_en.word_order("How do I install it on Windows?", Random(0)) == "On Windows, how do I install it?"
    assert wording_en.omitted_subject("How do I install it?", Random(0)) == "How to install it?"
    assert wording_en.omitted_subject("Does it support Windows?", Random(0)) == "Support Windows?"
    assert wording_zh.word_order("遇到错误，怎么处理？", Random(0)) == "怎么处理，遇到错误？"
    assert wording_zh.keywords("怎样设置检索的参数？", Random(0)) == "设置检索 参数"
    assert wording_zh.omitted_subject("我应该怎么安装？", Random(0)) == "怎么安装？"
    assert wording_zh.omitted_subject("怎么安装？", Random(0)) == "怎么安装？"


@pytest.mark.parametrize("seed", range(20))
def test_dropping_words_does_not_turn_the_question_round(seed: int) -> None:
    assert "会不会" in wording_zh.dropped_words("训练的时候会不会报错？", Random(seed))
    assert "申请" in wording_zh.dropped_words("请问怎么申请了解一下？", Random(seed))
