"""Calls that meet in an event loop, answered by one call for all of them.

In: single questions from many requests. Out: each one's answer. Nothing waits for a clock: what is asked in one turn of
the loop is answered in the next, so a lone question pays no delay, and under load, when many requests are read in one
turn, a batch forms by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """A function of one question over a function of many.

    Args:
        answer_all: answers questions in their order, each as it would answer it alone.
        most: questions of one call.
    """

    def __init__(self, answer_all: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], most: int) -> None:
        self._answer_all = answer_all
        self._most = most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._running: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    async def __call__(self, question: Q) -> A:
        """The answer; raises what the question alone raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        asked = [pair for pair in self._waiting if not pair[1].done()]  # not of those who went away
        self._waiting.clear()
        for first in range(0, len(asked), self._most):
            task = asyncio.get_running_loop().create_task(self._answer(asked[first : first + self._most]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._answer_all([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 - goes to whoever asked for it
            if len(asked) == 1:
                _fail(asked[0][1], error)
                return
            for pair in asked:  # one question of them may be at fault
                await self._answer([pair])
            return
        for (_, future), answer in zip(asked, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _fail(future: asyncio.Future[A], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
