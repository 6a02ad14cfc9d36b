"""Whether retriever and generator answer, for `/readyz`, which anybody may ask as often as they like.

In: the door. Out: the state of each part, and the version of an index that changes. A part that runs apart is asked
through the same queue as the requests; so it gets one question at a time from each replica of the ingress, whoever
wants to know, and one that is full of work is ready: a balancer that left it would take the others' room.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from ragray.serve.api import ApiError

if TYPE_CHECKING:
    from ragray.serve.ingress import Door
    from ragray.serve.retriever import Followed

KEPT_S = 1.0  # for which an answer is not asked for again
READY_TIMEOUT_S = 5.0  # for the first answer of a part
BUSY_TIMEOUT_S = 0.5  # for one of a part that has answered lately
PATIENCE_S = 60.0  # for which a part that has answered may work on other things

T = TypeVar("T")


class Shared(Generic[T]):
    """A question that all who ask it meanwhile wait for together.

    Args:
        ask: puts it.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[T] | None = None
        self._ended = -math.inf

    async def answer(self, timeout_s: float, kept_s: float = 0.0) -> T:
        """The answer; it is at most `kept_s` old, or to a question that runs.

        Raises:
            TimeoutError: there is none after `timeout_s`; the question runs on.
        """
        asking = self._asking
        if asking is None or asking.cancelled() or (asking.done() and time.monotonic() - self._ended >= kept_s):
            asking = self._asking = asyncio.create_task(self._asked())
        if not asking.done():
            await asyncio.wait([asking], timeout=timeout_s)
        if not asking.done():
            raise TimeoutError
        return asking.result()

    async def _asked(self) -> T:
        try:
            return await self._ask()
        finally:
            self._ended = time.monotonic()


class Probe:
    """Tells whether a part answers.

    Args:
        ready: asks it.
    """

    def __init__(self, ready: Callable[[], Awaitable[bool]]) -> None:
        self._ready = ready
        self._question = Shared(self._ask)
        self._answered = -math.inf

    async def state(self) -> bool:
        """True where it answers, or has answered lately and works on what was asked before."""
        lately = time.monotonic() - self._answered < PATIENCE_S
        try:
            return await self._question.answer(BUSY_TIMEOUT_S if lately else READY_TIMEOUT_S, KEPT_S)
        except TimeoutError:
            return lately

    async def _ask(self) -> bool:
        try:
            answers = await asyncio.wait_for(self._ready(), PATIENCE_S)
        except TimeoutError:
            answers = False
        except ApiError as error:
            if error.status == 429:  # its queue is full, which says nothing about when it answered
                return True
            answers = False
        self._answered = time.monotonic() if answers else -math.inf
        return answers


class Readiness:
    """The parts of a door."""

    def __init__(self, door: Door) -> None:
        self._probes: dict[str, Probe] = {}
        if door.parts != "generation":
            self._probes["retriever"] = Probe(lambda: door.retriever.ready())
        if door.parts != "retrieval":
            self._probes["generator"] = Probe(lambda: door.generator.ready())
        self._followed: Shared[Followed | None] = Shared(lambda: door.retriever.followed())

    async def states(self) -> dict[str, bool]:
        """Whether each part answers, by name."""
        states = await asyncio.gather(*(probe.state() for probe in self._probes.values()))
        return dict(zip(self._probes, states, strict=True))

    async def followed(self) -> Followed | None:
        """The version of an index that changes; None where the retriever is too busy to tell, too."""
        try:
            return await self._followed.answer(BUSY_TIMEOUT_S)
        except (TimeoutError, ApiError):
            return None
