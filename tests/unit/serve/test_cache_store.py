"""A cache of the process before a shared one: who is asked, and what happens when the shared one is away."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from ragray.retrieval.agreement import Reading
from ragray.retrieval.similar import Wording
from ragray.serve.cache import Entry, MemoryCache, Place, Similar
from ragray.serve.cache_store import REST_S, Layers, StoreError, entry_from_json, entry_to_json

WORDING = Wording("how is it?", "en", {"x": 1.0}, Reading((("fact", "#4 gb"), ("word", "x")), ("how",)))
ENTRY = Entry(Place("s", "r", "k"), '{"答": 1}'.encode(), 5.0, WORDING)


class InMemory:
    """A shared cache; while `away` it fails, while `slow` it never answers."""

    def __init__(self) -> None:
        self.cache = MemoryCache(1 << 20, 100.0, lambda: 5.0)
        self.calls: list[str] = []
        self.away = self.slow = False

    async def _asked(self, name: str) -> None:
        self.calls.append(name)
        if self.away:
            raise StoreError("it is away")
        if self.slow:
            await asyncio.sleep(3600)

    async def get(self, key: str) -> Entry | None:
        await self._asked("get")
        return self.cache.get(key)

    async def put(self, entry: Entry) -> None:
        await self._asked("put")
        self.cache.put(entry)

    async def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        await self._asked("near")
        return self.cache.near(room, asked, threshold)

    async def retire(self, scope: str) -> None:
        await self._asked("retire")
        self.cache.retire(scope)


class Process:
    """One process's layers, with a clock set by hand."""

    def __init__(self, shared: InMemory | None) -> None:
        self.now = 0.0
        self.failures = 0
        self.memory = MemoryCache(1 << 20, 100.0, lambda: 5.0)
        self.layers = Layers(self.memory, shared, self._failed, lambda: self.now)

    def _failed(self) -> None:
        self.failures += 1


def test_what_one_process_keeps_another_finds_once_from_the_shared_one() -> None:
    shared = InMemory()
    one, other = Process(shared), Process(shared)

    async def story() -> None:
        await one.layers.put(ENTRY)
        assert await one.layers.get("k") == ENTRY
        assert shared.calls == ["put"]
        assert await other.layers.get("k") == await other.layers.get("k") == ENTRY
        assert shared.calls == ["put", "get"]
        assert await Process(shared).layers.near("r", WORDING, 0.9) == Similar(ENTRY, 1.0)
        await one.layers.retire("s")
        assert (len(one.memory), len(shared.cache)) == (0, 0)
        assert await one.layers.get("k") is None

    asyncio.run(story())


def test_without_a_shared_cache_the_process_has_its_own() -> None:
    alone = Process(None)

    async def story() -> None:
        await alone.layers.put(ENTRY)
        assert await alone.layers.get("k") == ENTRY
        assert await alone.layers.near("r", WORDING, 0.9) == Similar(ENTRY, 1.0)
        await alone.layers.retire("s")
        assert await alone.layers.get("k") is None

    asyncio.run(story())
    assert alone.failures == 0


@pytest.mark.parametrize("how", ["away", "slow"])
def test_a_dead_cache_is_a_miss_that_is_counted_and_logged_once(how: str, caplog: pytest.LogCaptureFixture) -> None:
    shared = InMemory()
    process = Process(shared)
    caplog.set_level(logging.WARNING, "ray.serve")
    logging.getLogger("ray.serve").addHandler(caplog.handler)

    async def story() -> None:
        setattr(shared, how, True)
        assert await process.layers.get("k") is None
        await process.layers.put(ENTRY)  # not asked again so soon, and kept here
        assert await process.layers.near("r", WORDING, 0.9) == Similar(ENTRY, 1.0)
        assert (shared.calls, process.failures) == (["get"], 1)
        process.now += REST_S
        assert await process.layers.get("other") is None
        assert (shared.calls, process.failures) == (["get", "get"], 2)
        setattr(shared, how, False)
        process.now += REST_S
        await process.layers.put(ENTRY)
        assert len(shared.cache) == 1

    try:
        asyncio.run(story())
    finally:
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "the shared cache is away",
        "the shared cache is back",
    ]


def test_an_entry_survives_json_and_a_damaged_one_is_named() -> None:
    plain = Entry(Place("s", "r", "k"), b"1", 5.0)
    assert entry_from_json(entry_to_json(ENTRY)) == ENTRY
    assert entry_from_json(entry_to_json(plain).encode()) == plain
    tree = json.loads(entry_to_json(ENTRY))
    for damaged in ("", "[]", "{}", json.dumps({**tree, "place": ["s"]}), json.dumps({**tree, "wording": {"text": 1}})):
        with pytest.raises(StoreError, match="damaged"):
            entry_from_json(damaged)
