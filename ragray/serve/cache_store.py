"""Where answers are kept: in the process, and behind it where several processes share them.

In: entries and keys. Out: entries. `Store` is what a shared cache must offer; an actor (`cache_actor`) and Redis
(`cache_redis`) offer it. `Layers` asks the process first. A shared cache that is away, slow or damaged never fails an
answer: it is a miss, counted, logged once an outage, and not asked again for a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from ragray.retrieval.similar import Wording
from ragray.serve.cache import Entry, MemoryCache, Place, Similar

T = TypeVar("T")
TIMEOUT_S = 0.5  # an answer waits no longer for a shared cache
REST_S = 5.0  # after a failure

logger = logging.getLogger("ray.serve")


class Store(Protocol):
    """A cache that several processes share."""

    async def get(self, key: str) -> Entry | None:
        """What is kept under `key`."""

    async def put(self, entry: Entry) -> None:
        """Keep an entry."""

    async def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        """The entry of the nearest past question that asks for the same."""

    async def retire(self, scope: str) -> None:
        """Free what a lineage left that answers no more."""


class StoreError(Exception):
    """A shared cache could not be asked."""


class Layers:
    """The cache of one process, and a shared one behind it if there is one.

    Args:
        near_by: of this process.
        shared: of all processes.
        failed: told of each failed call.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        near_by: MemoryCache,
        shared: Store | None = None,
        failed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._near_by, self._shared, self._failed, self._clock = near_by, shared, failed, clock
        self._asks_again = float("-inf")
        self._is_down = False

    async def get(self, key: str) -> Entry | None:
        """What is kept under `key`, here or by others."""
        entry = self._near_by.get(key)
        if entry is not None or self._shared is None:
            return entry
        entry = await self._tried(lambda shared: shared.get(key))
        if entry is not None:
            self._near_by.put(entry)
        return entry

    async def put(self, entry: Entry) -> None:
        """Keep an entry, here and for others."""
        self._near_by.put(entry)
        await self._tried(lambda shared: shared.put(entry))

    async def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        """The nearest past question's entry; of what was asked here, while nobody else can be asked."""
        if self._shared is not None and not self._rests():
            return await self._tried(lambda shared: shared.near(room, asked, threshold))
        return self._near_by.near(room, asked, threshold)

    async def retire(self, scope: str) -> None:
        """Free what a lineage left."""
        self._near_by.retire(scope)
        await self._tried(lambda shared: shared.retire(scope))

    def _rests(self) -> bool:
        return self._clock() < self._asks_again

    async def _tried(self, call: Callable[[Store], Awaitable[T]]) -> T | None:
        if self._shared is None or self._rests():
            return None
        try:
            result = await asyncio.wait_for(call(self._shared), TIMEOUT_S)
        except (StoreError, TimeoutError) as error:
            self._failed()
            self._asks_again = self._clock() + REST_S
            if not self._is_down:
                logger.warning("the shared cache is away; answering without it: %s", error or "it did not answer")
            self._is_down = True
            return None
        if self._is_down:
            logger.warning("the shared cache is back")
            self._is_down = False
        return result


def entry_to_json(entry: Entry) -> str:
    """An entry as text, for caches outside of Python."""
    wording = None if entry.wording is None else entry.wording.to_json()
    tree = {"place": list(entry.place), "value": entry.value.decode(), "stored": entry.stored, "wording": wording}
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


def entry_from_json(text: str | bytes) -> Entry:
    """What `entry_to_json` wrote.

    Raises:
        StoreError: it is something else.
    """
    try:
        tree: dict[str, Any] = json.loads(text)
        scope, room, key = map(str, tree["place"])
        wording = None if tree["wording"] is None else Wording.from_json(tree["wording"])
        return Entry(Place(scope, room, key), str(tree["value"]).encode(), float(tree["stored"]), wording)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"a damaged entry: {type(error).__name__}") from None
