"""Imitated rewordings: as random as their source, and no more."""

import random

from ragray.config import AnalyzerConfig
from ragray.retrieval.analyzer import Analyzer
from ragray.retrieval.paraphrase import content_words, imitate

ANALYZER = Analyzer(AnalyzerConfig())
QUESTION = "How do I train the model on two GPUs?"


def reword(kept: float, added: float, seed: int = 1, others: tuple[str, ...] = ("disk",)) -> list[str]:
    return imitate(QUESTION, ANALYZER, others, random.Random(seed), kept, added).split()


def test_the_same_seed_gives_the_same_words() -> None:
    assert reword(0.5, 0.5) == reword(0.5, 0.5)
    assert len({" ".join(reword(0.5, 0.5, seed)) for seed in range(20)}) > 10


def test_all_kept_and_none_added_is_the_question() -> None:
    assert reword(1.0, 0.0) == ["How", "do", "I", "train", "the", "model", "on", "two", "GPUs"]


def test_one_content_word_stays_whatever_is_dropped() -> None:
    assert all(len(content_words([" ".join(reword(0.0, 0.0, seed))], ANALYZER)) == 1 for seed in range(10))


def test_words_are_added_from_the_others() -> None:
    assert reword(1.0, 1.0, others=()).count("disk") == 0
    assert sum(reword(1.0, 1.0, seed).count("disk") for seed in range(10)) > 20


def test_a_question_without_content_stays() -> None:
    assert imitate("what is it?", ANALYZER, ["disk"], random.Random(1), 0.1, 1.0) == "what is it?"


def test_content_words() -> None:
    assert content_words([QUESTION, "如何训练模型"], ANALYZER) == ["train", "model", "two", "GPUs", "训练", "模型"]
