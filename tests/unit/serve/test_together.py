"""Questions of one turn share a call, each gets its own answer or fault, and nobody waits for who left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ragray.serve.together import Together


class Doubler:
    """Doubles numbers, many at a time; 13 is a fault."""

    def __init__(self, most: int = 8) -> None:
        self.calls: list[list[int]] = []
        self.double: Together[int, int] = Together(self.all, most)

    async def all(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        await asyncio.sleep(0)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def run(doubler: Doubler, *numbers: int) -> list[Any]:
    async def ask() -> list[Any]:
        return await asyncio.gather(*map(doubler.double, numbers), return_exceptions=True)

    return asyncio.run(ask())


def test_questions_of_one_turn_share_calls_of_at_most_so_many() -> None:
    doubler = Doubler(most=8)
    assert run(doubler, *range(20, 40)) == [2 * number for number in range(20, 40)]
    assert [len(call) for call in doubler.calls] == [8, 8, 4]
    assert run(doubler, 41) == [82] and doubler.calls[-1] == [41]


def test_a_question_at_fault_fails_alone() -> None:
    doubler = Doubler()
    first, fault, last = run(doubler, 1, 13, 3)
    assert (first, last) == (2, 6)
    assert isinstance(fault, ValueError)
    assert doubler.calls == [[1, 13, 3], [1], [13], [3]]


def test_who_went_away_is_not_asked_for_and_hurts_nobody() -> None:
    doubler = Doubler()

    async def leave() -> None:
        waiting = [asyncio.create_task(doubler.double(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)  # they have asked
        waiting[1].cancel()
        assert await waiting[0] == 2 and await waiting[2] == 6
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]
        late = asyncio.create_task(doubler.double(4))
        while doubler.calls[-1] != [4]:
            await asyncio.sleep(0)
        late.cancel()  # its call runs
        assert await doubler.double(5) == 10

    asyncio.run(leave())
    assert doubler.calls == [[1, 3], [4], [5]]
