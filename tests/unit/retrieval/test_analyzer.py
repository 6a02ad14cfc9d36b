"""What is written in a question meets what is written in a passage."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.config import AnalyzerConfig
from ragray.errors import ArtifactError
from ragray.retrieval.analyzer import Analyzer, check_analyzer, words_of

PLAIN = AnalyzerConfig(chinese="bigrams", stem=False, stop_words=False)


def terms(text: str, **options: object) -> list[str]:
    return Analyzer(PLAIN.model_copy(update=options)).terms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ray Train", ["ray", "train"]),
        ("ray.train.report", ["ray.train.report", "ray", "train", "report"]),
        ("--num-gpus 2", ["numgpus", "num", "gpus", "2"]),
        ("train.lora.rank=8", ["train.lora.rank", "train", "lora", "rank", "8"]),
        ("run `make demo`.", ["run", "make", "demo"]),
        ("max_length", ["maxlength", "max", "length"]),
        ("configs/demo.yaml", ["configs/demo.yaml", "configs", "demo", "yaml"]),
        ("TorchTrainer and LoRA", ["torchtrainer", "torch", "trainer", "and", "lora"]),
        ("v2.60.1", ["2.60.1", "2.60"]),
        ("1,234 rows", ["1234", "rows"]),
        ("C++ or C#", ["c++", "or", "c#"]),
        ("K8s集群部署", ["k8s", "8", "集群", "群部", "部署"]),
        ("IL-6 or IL6", ["il6", "il", "6", "or", "il6", "il", "6"]),
        ("S100A9", ["s100a9", "100", "9"]),
        ("GPT-4o x-ray", ["gpt4o", "gpt", "4", "xray", "ray"]),
        ("a-b", ["ab"]),
        ("a3f9c2d7e1 a3f9-c2", ["a3f9c2d7e1", "a3f9c2", "3", "9", "2"]),
        ("用ＧＰＵ训练", ["用", "gpu", "训练"]),
        ("Straße für Über", ["straße", "für", "über"]),
        ("", []),
        ("!?…—😀🎉 ___", []),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_each_option_changes_what_it_says() -> None:
    assert terms("Training clusters", stem=True) == ["train", "cluster"]
    assert terms("how do I train it", stop_words=True) == ["train"]
    assert terms("如何训练", stop_words=True, chinese="words") == ["训练"]
    assert terms("如何训练", chinese="words") == ["如何", "训练"]
    assert terms("北京大学", chinese="both") == ["北京", "京大", "大学", "北京大学"]
    assert terms("训练", chinese="both") == ["训练", "训练"]
    assert terms("GPUs and a TPU", stem=True, stop_words=True) == ["gpu", "tpu"]


def test_questions_of_function_words_alone_have_no_terms() -> None:
    assert terms("what is it?", stop_words=True) == []
    assert terms("怎么", stop_words=True) == []


@given(st.text(max_size=60))
def test_any_text_has_lower_case_terms_and_case_does_not_matter(text: str) -> None:
    found = terms(text, stem=True, stop_words=True, chinese="both")
    assert all(term and term == term.lower() for term in found)


def test_threads_get_the_same_terms() -> None:
    analyzer = Analyzer(AnalyzerConfig())
    texts = [f"Training clusters {number} 如何部署集群" for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(analyzer.terms, texts)) == [analyzer.terms(text) for text in texts]


def test_an_index_of_the_same_analyzer_is_accepted() -> None:
    recorded = json.loads(json.dumps(Analyzer(PLAIN).describe()))
    assert check_analyzer(recorded, "here").settings == PLAIN


@pytest.mark.parametrize("change", [{"version": 99}, {"name": "other"}, {"options": {"stemmer": "porter"}}])
def test_another_analyzer_is_an_error_with_a_fix(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="analyzer") as caught:
        check_analyzer(Analyzer(PLAIN).describe() | change, "the/index")
    assert "the/index" in caught.value.message
    assert "ragray index" in caught.value.fix


def test_words_keep_their_form() -> None:
    assert words_of("How to use GPUs训练模型?") == ["How", "to", "use", "GPUs", "训练", "模型"]
