"""Faults of the cluster become answers that say when to try again; a call that nobody waits for is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from ragray.errors import EngineError
from ragray.serve import calls
from ragray.serve.api import ApiError
from ragray.serve.calls import streaming, unary


class Response:
    """What a deployment handle returns, with a given outcome."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self._given(self.items[0])

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.items:
            yield self._given(item)

    @staticmethod
    def _given(item: Any) -> Any:
        if isinstance(item, Exception):
            raise item
        return item


class Method:
    """A handle's method whose calls end in turn as given, the last again and again."""

    def __init__(self, *outcomes: tuple[Any, ...]) -> None:
        self._outcomes = outcomes
        self.responses: list[Response] = []

    def remote(self, *args: Any) -> Any:
        assert args == ("a question",)
        self.responses.append(Response(self._outcomes[min(len(self.responses), len(self._outcomes) - 1)]))
        return self.responses[-1]


LOST = RayActorError()
FULL = BackPressureError(num_queued_requests=1, max_queued_requests=1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_AGAIN_AFTER_S", (0.0, 0.0))


async def once(method: Method) -> Any:
    return await unary(method.remote, "a question")


async def drain(method: Method) -> list[Any]:
    return [item async for item in streaming(method.remote, "a question")]


@pytest.mark.parametrize(("fault", "status", "times"), [(FULL, 429, 1), (LOST, 503, 3)])
def test_faults_of_the_cluster_are_explained(fault: Exception, status: int, times: int) -> None:
    for run in (once, drain):
        method = Method((fault,))
        with pytest.raises(ApiError) as caught:
            asyncio.run(run(method))  # type: ignore[operator]
        assert caught.value.status == status
        assert caught.value.retry_after_s is not None
        assert len(method.responses) == times


def test_a_call_whose_replica_was_lost_is_made_again() -> None:
    assert asyncio.run(once(Method((LOST,), (5,)))) == 5
    assert asyncio.run(drain(Method((LOST,), (LOST,), ("a", "b")))) == ["a", "b"]


def test_a_stream_is_not_begun_again_once_something_of_it_was_given() -> None:
    method = Method(("a", LOST), ("a", "b"))
    seen = []

    async def read() -> None:
        async for item in streaming(method.remote, "a question"):
            seen.append(item)

    with pytest.raises(ApiError) as caught:
        asyncio.run(read())
    assert (seen, caught.value.code, len(method.responses)) == (["a"], "restarting", 1)


def test_faults_of_the_engine_pass_through() -> None:
    method = Method((EngineError("broken"),))
    with pytest.raises(EngineError):
        asyncio.run(once(method))
    assert len(method.responses) == 1


def test_results_pass_through() -> None:
    assert asyncio.run(once(Method((5,)))) == 5
    assert asyncio.run(drain(Method(("a", "b")))) == ["a", "b"]


def test_leaving_early_cancels() -> None:
    method = Method(("a", "b"))

    async def leave() -> None:
        async with aclosing(streaming(method.remote, "a question")) as items:
            assert await anext(items) == "a"

    asyncio.run(leave())
    assert method.responses[0].cancelled
