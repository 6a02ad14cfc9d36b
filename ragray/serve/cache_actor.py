"""One cache for all ingress replicas of an application: a named actor of Ray.

In: calls from replicas. Out: entries, as `cache.MemoryCache` keeps them. The actor belongs to the replica that made it
and ends with it; the next call of any replica makes another. Its name holds the digest of what the application answers
from, so that a new model starts with an empty cache and the old one is freed with its replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from ragray.retrieval.similar import Wording
from ragray.serve.cache import Entry, MemoryCache, Similar
from ragray.serve.cache_store import StoreError

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_CALLS_AT_ONCE = 1000


class CacheHolder:
    """The actor's class: a `MemoryCache` that is called from other processes."""

    def __init__(self, capacity: int, ttl_s: float) -> None:
        self._cache = MemoryCache(capacity, ttl_s)

    async def get(self, key: str) -> Entry | None:
        """What is kept under `key`."""
        return self._cache.get(key)

    async def put(self, entry: Entry) -> None:
        """Keep an entry."""
        self._cache.put(entry)

    async def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        """The nearest past question's entry."""
        return self._cache.near(room, asked, threshold)

    async def retire(self, scope: str) -> None:
        """Free what a lineage left."""
        self._cache.retire(scope)

    async def stats(self) -> dict[str, int]:
        """Entries, their bytes, and how many left for which reason."""
        return {"entries": len(self._cache), "bytes": self._cache.size, **self._cache.counts}


class ActorStore:
    """A `Store` in a named actor, which is made when it is not there.

    Args:
        name: of the actor.
        capacity: bytes.
        ttl_s: seconds.
    """

    def __init__(self, name: str, capacity: int, ttl_s: float) -> None:
        self._name, self._capacity, self._ttl_s = name, capacity, ttl_s
        self._actor: ActorHandle[Any] | None = None

    def start(self) -> None:
        """Wait until the actor answers, so that the first question need not.

        Raises:
            RayError: it cannot be started.
        """
        import ray

        self._actor = self._made()
        ray.get(self._actor.stats.remote())

    async def get(self, key: str) -> Entry | None:
        """What is kept under `key`."""
        found: Entry | None = await self._call(lambda actor: actor.get.remote(key))
        return found

    async def put(self, entry: Entry) -> None:
        """Keep an entry."""
        await self._call(lambda actor: actor.put.remote(entry))

    async def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        """The nearest past question's entry."""
        found: Similar | None = await self._call(lambda actor: actor.near.remote(room, asked, threshold))
        return found

    async def retire(self, scope: str) -> None:
        """Free what a lineage left."""
        await self._call(lambda actor: actor.retire.remote(scope))

    async def stats(self) -> dict[str, int]:
        """Entries, their bytes, and how many left for which reason."""
        found: dict[str, int] = await self._call(lambda actor: actor.stats.remote())
        return found

    async def _call(self, call: Callable[[Any], Any]) -> Any:
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(self._made)
            return await call(self._actor)
        except (RayError, ValueError) as error:  # ValueError: another replica's actor ended while it was looked up
            self._actor = None
            raise StoreError(f"its actor: {type(error).__name__}") from None

    def _made(self) -> ActorHandle[Any]:
        import ray

        options = {"name": self._name, "get_if_exists": True, "num_cpus": 0, "max_concurrency": _CALLS_AT_ONCE}
        holder: Any = ray.remote(CacheHolder)
        made: ActorHandle[Any] = holder.options(**options).remote(self._capacity, self._ttl_s)
        return made
