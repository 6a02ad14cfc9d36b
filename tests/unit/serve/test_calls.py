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
from ragray.serve.api import ApiError
from ragray.serve.calls import streaming, unary


class Response:
    """What a deployment handle returns, with a given outcome."""

    def __init__(self, *items: Any) -> None:
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


FAULTS = [(BackPressureError(num_queued_requests=1, max_queued_requests=1), 429), (RayActorError(), 503)]


async def drain(response: Any) -> list[Any]:
    return [item async for item in streaming(response)]


@pytest.mark.parametrize(("fault", "status"), FAULTS)
def test_faults_of_the_cluster_are_explained(fault: Exception, status: int) -> None:
    for run in (unary, drain):
        with pytest.raises(ApiError) as caught:
            asyncio.run(run(Response(fault)))  # type: ignore[operator]
        assert caught.value.status == status
        assert caught.value.retry_after_s is not None


def test_faults_of_the_engine_pass_through() -> None:
    with pytest.raises(EngineError):
        asyncio.run(unary(Response(EngineError("broken"))))  # type: ignore[arg-type]


def test_results_pass_through() -> None:
    assert asyncio.run(unary(Response(5))) == 5  # type: ignore[arg-type]
    assert asyncio.run(drain(Response("a", "b"))) == ["a", "b"]


def test_leaving_early_cancels() -> None:
    response: Any = Response("a", "b")

    async def leave() -> None:
        async with aclosing(streaming(response)) as items:
            assert await anext(items) == "a"

    asyncio.run(leave())
    assert response.cancelled
