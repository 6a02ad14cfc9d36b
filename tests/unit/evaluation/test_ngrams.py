"""BLEU and chrF against sacrebleu's published example, and the laws that keep single answers and all answers apart."""

import math

import pytest

from ragray.evaluation.ngrams import corpus_scores, sentence_scores, tokenizer_of

# The example of sacrebleu's README (version 2): BLEU = 48.53 82.4/50.0/45.5/37.5, BP 0.943; chrF2 = 59.73.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ("The dog bit the man.", "The dog had bit the man."),
    ("It was not unexpected.", "No one was surprised."),
    ("The man bit him first.", "The man had bitten the dog."),
]


def test_the_published_example():
    found = corpus_scores(SYSTEM, REFERENCES, "en")
    assert round(found.bleu, 2) == 48.53
    assert round(found.chrf, 2) == 59.73
    assert found.n == 3
    assert found.bleu_signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_chinese_is_cut_by_character():
    # "运行命令" against "运行这个命令": 4 of 4 characters, 2 of 3 pairs; without cutting nothing would be shared.
    found = corpus_scores(["运行命令"], [("运行这个命令",)], "zh")
    assert "tok:zh" in found.bleu_signature
    precisions = (1.0, 2 / 3, 1 / (2 * 2), 1 / (4 * 1))  # no triple, no quadruple: smoothed by 1/2 and 1/4
    expected = 100 * math.exp(1 - 6 / 4) * math.prod(precisions) ** 0.25
    assert found.bleu == pytest.approx(expected)
    assert (tokenizer_of("zh"), tokenizer_of("en"), tokenizer_of("other")) == ("zh", "13a", "13a")


def test_all_answers_together_are_not_the_mean_of_single_ones():
    single = [sentence_scores(text, references, "en") for text, references in zip(SYSTEM, REFERENCES, strict=True)]
    mean = sum(bleu for bleu, _ in single) / 3
    assert abs(mean - corpus_scores(SYSTEM, REFERENCES, "en").bleu) > 0.5


@pytest.mark.parametrize(("text", "lang"), [("运行 make demo 即可。", "zh"), ("Run it.", "en"), ("好", "zh")])
def test_the_reference_itself_has_the_highest_score(text, lang):
    assert sentence_scores(text, [text], lang) == pytest.approx((100.0, 100.0))
    assert sentence_scores(text, ["XYZ 无关", text], lang) == pytest.approx((100.0, 100.0))


def test_an_empty_answer_scores_nothing():
    assert sentence_scores("", ["Run it."], "en") == (0.0, 0.0)
    assert corpus_scores([""], [("Run it.",)], "en").bleu == 0.0


def test_answers_may_have_different_numbers_of_references():
    found = corpus_scores(["Run it now.", "Stop it now."], [("Run it now.",), ("Halt.", "Stop it now.")], "en")
    assert (found.bleu, found.chrf) == pytest.approx((100.0, 100.0))


@pytest.mark.parametrize(("texts", "references"), [([], []), (["a"], [()]), (["a"], [("a",), ("b",)])])
def test_nothing_to_compare_is_refused(texts, references):
    with pytest.raises(ValueError, match="references of each"):
        corpus_scores(texts, references, "en")
