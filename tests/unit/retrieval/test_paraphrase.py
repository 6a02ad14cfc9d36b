"""Imitated rewordings: as random as their source, and no more."""

import random

import pytest

from ragray.config import AnalyzerConfig
from ragray.retrieval.analyzer import Analyzer
from ragray.retrieval.paraphrase import HUMAN, Rewording, WordSources, content_words, imitate

ANALYZER = Analyzer(AnalyzerConfig())
QUESTION = "How do I train the model on two GPUs?"
SOURCES = WordSources("en", ["answer"], ["other"])


def reword(rewording: Rewording, seed: int = 1, question: str = QUESTION, sources: WordSources = SOURCES) -> str:
    return imitate(question, rewording, sources, ANALYZER, random.Random(seed))


def test_the_same_seed_gives_the_same_words() -> None:
    assert reword(HUMAN[1]) == reword(HUMAN[1])
    assert len({reword(HUMAN[1], seed) for seed in range(20)}) > 10


def test_all_kept_and_none_added_is_the_question() -> None:
    assert reword(Rewording(1.0, 0.0, 0.0, 0.0)) == "How do I train the model on two GPUs"


@pytest.mark.parametrize(
    ("rewording", "added"),
    [
        (Rewording(0.0, 1.0, 0.0, 0.0), "answer"),
        (Rewording(0.0, 0.0, 1.0, 0.0), "other"),
        (Rewording(0.0, 0.0, 0.0, 1.0), "qzxv"),
    ],
)
def test_each_chance_adds_from_its_source(rewording: Rewording, added: str) -> None:
    assert content_words([reword(rewording)], ANALYZER) == [added] * 4


def test_chinese_stays_without_spaces() -> None:
    sources = WordSources("zh", [], ["GPU", "集群"])
    assert reword(Rewording(1.0, 0.0, 0.0, 0.0), 1, "如何训练模型？", sources) == "如何训练模型"
    assert "龘靐" in reword(Rewording(1.0, 0.0, 1.0, 1.0), 1, "如何训练模型？", sources)


def test_a_question_without_content_stays() -> None:
    assert reword(HUMAN[3], 1, "what is it") == "what is it"


def test_content_words() -> None:
    assert content_words([QUESTION, "如何训练模型"], ANALYZER) == ["train", "model", "two", "GPUs", "训练", "模型"]
