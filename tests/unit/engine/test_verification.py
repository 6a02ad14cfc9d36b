"""Agreement of answers, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.engine.protocol import Completion
from ragray.engine.verification import agreement, prefix_share

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


def test_agreement_is_the_mean_and_is_held_against_the_bar() -> None:
    def completion(*ids: int) -> Completion:
        return Completion(ids, "", "length", 1)

    answers = [completion(1, 2, 3, 4), completion(1, 2, 9, 9)]
    expected = [completion(1, 2, 3, 4), completion(1, 2, 3, 4)]
    found = agreement(answers, expected, bar=0.75)
    assert (found.prefix_share, found.equal_answers, found.tokens, found.usable) == (0.75, 1, 8, True)
    assert not agreement(answers, expected, bar=0.76).usable
