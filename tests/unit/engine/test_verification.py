"""Agreement of answers, by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.artifact import folder_digest
from ragray.engine.manifest import SourceDigests
from ragray.engine.verification import BARS, Bars, Reference, bars_of, judged, make_reference, prefix_share, verify
from ragray.errors import EngineError

IDS = st.lists(st.integers(0, 3), max_size=8)


@pytest.mark.parametrize(
    ("answer", "expected", "share"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 9, 4], [1, 2, 3, 4], 0.5),
        ([1, 2], [1, 2, 3, 4], 0.5),  # stopped early
        ([1, 2, 3, 4], [1], 0.25),  # did not stop
        ([], [1], 0.0),
        ([], [], 1.0),
    ],
)
def test_prefix_share(answer: list[int], expected: list[int], share: float) -> None:
    assert prefix_share(answer, expected) == share


@given(IDS, IDS)
def test_prefix_share_is_symmetric_and_1_only_for_equal_answers(a: list[int], b: list[int]) -> None:
    assert prefix_share(a, b) == prefix_share(b, a)
    assert (prefix_share(a, b) == 1.0) == (a == b)


def test_agreement_is_the_mean_and_both_figures_are_held_against_their_bars() -> None:
    answers, expected = [(1, 2, 3, 4), (1, 2, 9, 9)], [(1, 2, 3, 4), (1, 2, 3, 4)]
    found = judged(answers, expected, 0.8, Bars(prefix_share=0.75, f1=0.8))
    assert (found.prefix_share, found.equal_answers, found.tokens, found.f1) == (0.75, 1, 8, 0.8)
    assert found.usable
    assert not judged(answers, expected, 0.8, Bars(prefix_share=0.76, f1=0.8)).usable
    assert not judged(answers, expected, 0.8, Bars(prefix_share=0.75, f1=0.81)).usable


def test_f1_is_that_of_the_answers_words(model_folder: Path) -> None:
    """Half of the words of an English answer, in order: precision 1, recall 1/2, F1 2/3; the other answer is equal."""
    from ragray.engine.tokens import load_tokenizer

    ids = load_tokenizer(model_folder)
    whole, half = ids(" install it by make")["input_ids"], ids(" install it")["input_ids"]
    source = SourceDigests("", "", "")
    reference = Reference(((1,), (1,)), ("en", "zh"), (tuple(whole), tuple(ids("运行")["input_ids"])), source)
    found = verify([half, ids("运行")["input_ids"]], reference, model_folder, "int8")
    assert found.f1 == round((2 / 3 + 1) / 2, 4)
    assert found.least_f1 == BARS["int8"].f1


def test_formats_have_the_bars_of_their_number_format_and_unknown_ones_are_refused() -> None:
    assert bars_of("int8_smoothquant") == bars_of("int8") == BARS["int8"]
    with pytest.raises(EngineError, match="no bars are known for int3"):
        bars_of("int3")


def test_a_reference_is_the_models_own_answers(model_folder: Path) -> None:
    reference = make_reference(model_folder, threads=1)
    assert reference.languages == ("en",) * 4 + ("zh",) * 4
    assert reference.source.checkpoint == folder_digest(model_folder)
    found = verify(reference.answers, reference, model_folder, "fp32")
    assert (found.prefix_share, found.f1, found.equal_answers, found.usable) == (1.0, 1.0, 8, True)
