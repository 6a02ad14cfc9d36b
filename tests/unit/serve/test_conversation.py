"""Follow-up questions are made whole, others are left alone: the rule by its cases, and measured on the bundled FAQ.

`dialogues.jsonl` was written by hand, about the bundled FAQ: the last turn needs the ones before it, and the FAQ entry
`answered_by` answers it. Those `held_apart` were written after the rule was settled on the others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragray.config import RetrievalConfig, ServeConfig
from ragray.config_data import CleanConfig
from ragray.config_loading import load_config
from ragray.dataprep.clean import clean_row
from ragray.dataprep.dedup import normalized
from ragray.dataprep.read import faq_files, read_rows
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index
from ragray.schema import Passage, QARecord
from ragray.serve.conversation import condense, leans, standing_alone, weigh

ROOT = Path(__file__).parents[3]
DIALOGUES = [
    json.loads(line) for line in Path(__file__).with_name("dialogues.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def faq(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    """The bundled FAQ as an index, one passage for each question."""
    sources = [
        s.model_copy(update={"path": str(ROOT / s.path)}) for s in load_config(ROOT / "configs/demo.yaml").data.faq
    ]
    rows = [clean_row(row, file.file, CleanConfig()) for file in faq_files(sources) for row in read_rows(file)]
    records = {normalized(row.question): row for row in rows if isinstance(row, QARecord)}
    passages = [Passage(r.id, r.question, r.answer, r.lang, r.source, "faq") for r in records.values()]
    folder = tmp_path_factory.mktemp("faq")
    build_index(passages, RetrievalConfig(), folder)
    return HybridIndex.open(folder)


@pytest.fixture(scope="module")
def whole(faq: HybridIndex) -> Callable[[list[str]], str]:
    return lambda turns: condense(turns, [weigh(faq, turn) for turn in turns], 2000)


def questions(index: HybridIndex) -> list[str]:
    return [index.passage_at(number).title for number in range(len(index))]


def found(index: HybridIndex, query: str, title: str) -> bool:
    hits = index.search(query, 5)
    return normalized(title) in [normalized(index.passage(hit.doc_id).title) for hit in hits]


@pytest.mark.parametrize(("held_apart", "gain"), [(False, 25), (True, 3)])
def test_follow_ups_are_found_more_often_and_none_is_lost(
    faq: HybridIndex, whole: Callable[[list[str]], str], held_apart: bool, gain: int
) -> None:
    dialogues = [d for d in DIALOGUES if d["held_apart"] == held_apart]
    assert {normalized(d["answered_by"]) for d in dialogues} <= {normalized(q) for q in questions(faq)}
    alone = [found(faq, d["turns"][-1], d["answered_by"]) for d in dialogues]
    condensed = [found(faq, whole(d["turns"]), d["answered_by"]) for d in dialogues]
    assert sum(condensed) >= sum(alone) + gain
    assert sum(before and not after for before, after in zip(alone, condensed, strict=True)) <= 1


def test_questions_that_stand_alone_are_left_alone(faq: HybridIndex, whole: Callable[[list[str]], str]) -> None:
    every = questions(faq)
    assert [q for before, q in zip(every[-1:] + every[:-1], every, strict=True) if whole([before, q]) != q] == []


def test_evaluation_questions_lean_only_where_they_have_a_pronoun(whole: Callable[[list[str]], str]) -> None:
    lines = (ROOT / "data/evaluation/questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["question"] for line in lines]
    touched = [q for before, q in zip(asked[-1:] + asked[:-1], asked, strict=True) if whole([before, q]) != q]
    assert len(asked) > 100 and len(touched) <= 2
    assert all(" it " in question for question in touched)  # "will it work on py 3.12"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (["What is MRR?"], "What is MRR?"),
        (["What is MRR?", "What is nDCG@10?"], "What is nDCG@10?"),
        (["What is MRR?", "Who won the chess championship?"], "Who won the chess championship?"),
        (["Hello", "And now?"], "And now?"),
        (["What is MRR?", "And nDCG@10?"], "MRR: And nDCG@10?"),
        (["什么是 LoRA？", "它作用在哪些层？"], "LoRA: 它作用在哪些层？"),
    ],
)
def test_only_what_leans_is_joined(whole: Callable[[list[str]], str], turns: list[str], expected: str) -> None:
    assert whole(turns) == expected


def test_a_topic_is_carried_over_several_follow_ups_and_dropped_with_the_next(
    whole: Callable[[list[str]], str],
) -> None:
    assert whole(["什么是 LoRA？", "它作用在哪些层？", "为什么呢？"]) == "LoRA 作用: 为什么呢？"
    assert "LoRA" not in whole(["什么是 LoRA？", "怎样启动服务？", "怎样停止它？"])


def test_a_result_that_is_too_long_is_not_made(faq: HybridIndex) -> None:
    turns = ["What is reciprocal rank fusion?", "Which constant does it have?"]
    words = [weigh(faq, turn) for turn in turns]
    assert condense(turns, words, 2000) == "reciprocal rank fusion: Which constant does it have?"
    assert condense(turns, words, len(turns[1]) + 5) == turns[1]


def test_words_weigh_by_how_few_passages_have_them(faq: HybridIndex) -> None:
    weights = {word.text: word for word in weigh(faq, "the ragray chess checkpoint")}
    assert weights["the"].weight == 0.0
    assert 0.0 < weights["ragray"].weight < 0.5
    assert (weights["chess"].weight, weights["chess"].known) == (1.0, False)
    assert [word.begin for word in weigh(faq, "run run 训练")] == [0, 4, 8]
    assert len(weigh(faq, "train the model " * 100)) == 48  # a long turn costs no more than that


def test_a_pronoun_with_its_noun_in_the_same_question_does_not_lean(faq: HybridIndex) -> None:
    for question in ("Does a training worker restart when it fails?", "一个配置文件坏了，它会被跳过吗？"):
        assert not leans(question, weigh(faq, question))


def test_the_rule_can_be_switched_off_and_one_turn_asks_nobody() -> None:
    class Nobody:
        async def words(self, texts: Any) -> Any:
            raise AssertionError("asked")

    off = ServeConfig(condense="none")
    assert asyncio.run(standing_alone(["What is MRR?", "Why?"], Nobody(), off)) == "Why?"
    assert asyncio.run(standing_alone(["Why?"], Nobody(), ServeConfig())) == "Why?"
