"""The cache that replicas share, in an actor: one for all, gone with its maker, made again by the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import ray

from ragray.retrieval.agreement import Reading
from ragray.retrieval.similar import Wording
from ragray.serve.cache import Entry, Place, Similar
from ragray.serve.cache_actor import ActorStore
from ragray.serve.cache_store import StoreError

WORDING = Wording("how is it?", "en", {"x": 1.0}, Reading((), ("how",)))
ENTRY = Entry(Place("s", "r", "k"), '{"答": 1}'.encode(), time.time(), WORDING)
NAME = "ragray-cache-test"
DAY_S = 86_400.0  # other tests may run between the making of the entry and its use


async def of_a_new_one(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a call gives once there is a new actor: the name of the old one stays taken for a moment."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return await call()
        except StoreError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


@pytest.mark.usefixtures("ray_local")
def test_two_replicas_share_one_cache_that_comes_back_after_a_death() -> None:
    one, other = ActorStore(NAME, 1 << 20, DAY_S), ActorStore(NAME, 1 << 20, DAY_S)
    one.start()
    other.start()

    async def story() -> None:
        await one.put(ENTRY)
        assert await other.get("k") == ENTRY
        assert await other.near("r", WORDING, 0.9) == Similar(ENTRY, 1.0)
        assert await other.stats() == {"entries": 1, "bytes": ENTRY.size}
        await other.retire("s")
        assert await one.get("k") is None
        assert await one.stats() == {"entries": 0, "bytes": 0, "retired": 1}
        ray.kill(ray.get_actor(NAME))
        with pytest.raises(StoreError, match="its actor"):
            await one.get("k")
        assert await of_a_new_one(lambda: one.get("k")) is None
        with pytest.raises(StoreError, match="its actor"):
            await other.put(ENTRY)
        await of_a_new_one(lambda: other.put(ENTRY))
        assert await one.get("k") == ENTRY
        ray.kill(ray.get_actor(NAME))

    asyncio.run(story())
