"""`/readyz`: one question to each part for all who want to know, and a part that is busy is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ragray.serve import readiness
from ragray.serve.api import ApiError, busy
from ragray.serve.ingress import Door, http_api
from ragray.serve.readiness import Probe


class Part:
    """A part that answers as it is told, and counts how often it is asked."""

    def __init__(self, says: bool | ApiError = True) -> None:
        self.says = says
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()

    async def ready(self) -> bool:
        self.asked += 1
        await self.free.wait()
        if isinstance(self.says, ApiError):
            raise self.says
        return self.says


def test_however_many_ask_a_part_is_asked_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crowd() -> tuple[set[int], int]:
        part = Part()
        part.free.clear()
        monkeypatch.setattr(door.generator, "ready", part.ready)
        transport = httpx.ASGITransport(http_api(door))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asking = [asyncio.create_task(client.get("/readyz")) for _ in range(20)]
            while not part.asked:
                await asyncio.sleep(0.001)
            asking[0].cancel()  # the one that asked first does not wait for the answer
            await asyncio.wait(asking[:1])
            part.free.set()
            answers = await asyncio.gather(*asking[1:])
            return {answer.status_code for answer in [*answers, await client.get("/readyz")]}, part.asked

    assert asyncio.run(crowd()) == ({200}, 1)


def test_an_answer_is_kept_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def twice() -> int:
        part = Part()
        probe = Probe(part.ready)
        await probe.state()
        await asyncio.sleep(0.02)
        await probe.state()
        return part.asked

    assert asyncio.run(twice()) == 1
    monkeypatch.setattr(readiness, "KEPT_S", 0.01)
    assert asyncio.run(twice()) == 2


@pytest.mark.parametrize(
    ("says", "is_ready"),
    [(True, True), (False, False), (busy(), True), (ApiError(503, "restarting", code="restarting"), False)],
    ids=["ready", "not ready", "full", "away"],
)
def test_a_part_with_a_full_queue_is_ready_and_a_lost_one_is_not(says: bool | ApiError, is_ready: bool) -> None:
    assert asyncio.run(told(lambda part: setattr(part, "says", says))) is is_ready


def stop(part: Part) -> None:
    part.free.clear()


async def told(first: Callable[[Part], None], then: Callable[[Part], None] | None = None) -> Any:
    """What a probe says of a part that was prepared, and of what became of it."""
    part = Part()
    probe = Probe(part.ready)
    first(part)
    state = await probe.state()
    if then is None:
        return state
    then(part)
    return state, await probe.state()


def test_a_part_that_answered_lately_is_ready_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "KEPT_S", 0.0)
    monkeypatch.setattr(readiness, "READY_TIMEOUT_S", 0.05)
    assert asyncio.run(told(stop)) is False  # it never answered
    assert asyncio.run(told(lambda part: None, stop)) == (True, True)

    def stop_for_long(part: Part) -> None:
        stop(part)
        monkeypatch.setattr(readiness, "PATIENCE_S", 0.01)

    assert asyncio.run(told(lambda part: None, stop_for_long)) == (True, False)
