"""A loop is found at the very token that completes it, whatever its block; other texts go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.engine.batching import Request
from ragray.engine.protocol import SamplingParams
from ragray.engine.repeats import LEAST_COPIES, LEAST_TOKENS, LONGEST_BLOCK, RepeatWatch


def ends_in_a_loop(tokens: list[int]) -> bool:
    """The definition, by trying each block."""
    for block in range(1, LONGEST_BLOCK + 1):
        span = max(LEAST_COPIES * block, LEAST_TOKENS)
        end = tokens[-span:]
        if len(end) == span and all(end[n] == end[n - block] for n in range(block, span)):
            return True
    return False


@given(st.lists(st.integers(0, 2), max_size=20), st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_it_agrees_with_the_definition_at_each_token(head: list[int], block: list[int]) -> None:
    tokens = (head + block * 26)[:90]
    watch = RepeatWatch()
    found = [watch.loops(tokens[: n + 1]) for n in range(len(tokens))]
    assert found == [ends_in_a_loop(tokens[: n + 1]) for n in range(len(tokens))]
    assert found[-1] or len(head + block * 26) < 90


@pytest.mark.parametrize(
    ("block", "taken"),
    [([7], 24), ([1, 2, 3], 24), (list(range(10)), 30), (list(range(64)), 192), (list(range(65)), 400)],
)
def test_an_answer_ends_where_its_loop_is_sure(block: list[int], taken: int) -> None:
    request = Request([5], SamplingParams(max_new_tokens=400, stop_repeats=True))
    told = iter(block * 400)
    while not request.ended:
        request.push(next(told), frozenset())
    assert len(request.tokens) == taken
    assert request.finish_reason == ("length" if taken == 400 else "stop")


def test_nothing_is_ended_where_that_was_not_asked_for() -> None:
    request = Request([5], SamplingParams(max_new_tokens=100))
    while not request.ended:
        request.push(7, frozenset())
    assert len(request.tokens) == 100
