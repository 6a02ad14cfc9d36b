"""Answers in Redis, for ingress replicas of several clusters or for caches that outlive the service.

In: the URL of a Redis. Out: a `Store`. Values are JSON, never pickle. What is kept leaves by its age; Redis itself
bounds the bytes (`maxmemory` with `maxmemory-policy allkeys-lru`). The nearest past question is looked for among those
that share a telling term of the question that is asked: each term of a room has a sorted set of keys, the newest last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ragray.errors import ConfigError
from ragray.retrieval.similar import PastQuestions, Wording, telling_terms
from ragray.serve.cache import Entry, Similar, digest
from ragray.serve.cache_store import TIMEOUT_S, StoreError, entry_from_json, entry_to_json

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
PREFIX = "ragray:1"  # the number changes with the form of the entries
USER, PASSWORD = "RAGRAY_REDIS_USER", "RAGRAY_REDIS_PASSWORD"  # environment variables
_NEWEST = 200  # past questions examined for each telling term
_BATCH = 500  # keys removed by one command


class RedisStore:
    """A `Store` in Redis.

    Args:
        url: redis:// or rediss://, without secrets.
        ttl_s: seconds that an entry is kept.

    Raises:
        ConfigError: the package redis is not installed, or the URL is wrong.
    """

    def __init__(self, url: str, ttl_s: float) -> None:
        try:
            from redis.asyncio import Redis
        except ImportError:
            raise ConfigError(
                "serve.cache.redis_url: the package redis is not installed", "pip install 'ragray[redis]'"
            ) from None
        self._ttl_s = ttl_s
        try:
            self._redis: Redis = Redis.from_url(
                url, username=os.environ.get(USER), password=os.environ.get(PASSWORD), socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"serve.cache.redis_url: {error}", "write redis://HOST:PORT/DB") from None

    async def get(self, key: str) -> Entry | None:
        """What is kept under `key`."""
        found = await self._called(lambda: self._redis.get(_answer(key)))
        return next(iter(self._read([found])), None)

    async def put(self, entry: Entry) -> None:
        """Keep an entry until it is too old."""
        left_ms = int((self._ttl_s - (time.time() - entry.stored)) * 1000)
        if left_ms > 0:
            await self._called(lambda: self._put(entry, left_ms))

    async def _put(self, entry: Entry, left_ms: int) -> None:
        place, scope = entry.place, _scope(entry.place.scope)
        terms = [] if entry.wording is None else [_term(place.room, term) for term in entry.wording.weights]
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(_answer(place.key), entry_to_json(entry), px=left_ms)
            for name in terms:
                pipe.zadd(name, {place.key: entry.stored})
                pipe.zremrangebyscore(name, "-inf", time.time() - self._ttl_s)
                pipe.pexpire(name, left_ms)
            pipe.sadd(scope, _answer(place.key), *terms)
            pipe.pexpire(scope, left_ms)
            await pipe.execute()

    async def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        """The nearest past question's entry, of the newest that share a telling term."""
        terms = telling_terms(asked.weights, threshold)
        entries = await self._called(lambda: self._sharing(room, terms)) if terms else []
        past, by_key = PastQuestions(), dict[str, Entry]()
        for entry in entries:
            if entry.wording is not None and entry.place.room == room:
                past.put(entry.place.key, entry.wording)
                by_key[entry.place.key] = entry
        nearest = past.nearest(asked, threshold)
        return None if nearest is None else Similar(by_key[nearest.key], nearest.similarity)

    async def _sharing(self, room: str, terms: list[str]) -> list[Entry]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for term in terms:
                pipe.zrange(_term(room, term), 0, _NEWEST - 1, desc=True)
            listed = await pipe.execute()
        keys = sorted({key.decode() for found in listed for key in found})
        return self._read(await self._redis.mget([_answer(key) for key in keys])) if keys else []

    async def retire(self, scope: str) -> None:
        """Free what a lineage left."""
        await self._called(lambda: self._retire(_scope(scope)))

    async def _retire(self, scope: str) -> None:
        names = list(await self._redis.smembers(scope))
        for begin in range(0, len(names), _BATCH):
            await self._redis.unlink(*names[begin : begin + _BATCH])
        await self._redis.unlink(scope)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _read(self, texts: list[bytes | None]) -> list[Entry]:
        entries = []
        for text in texts:
            try:
                entries += [entry_from_json(text)] if text else []
            except StoreError:  # another program's, or cut: as good as not there
                continue
        return entries

    async def _called(self, call: Callable[[], Awaitable[T]]) -> T:
        from redis.exceptions import RedisError

        try:
            return await call()
        except (RedisError, OSError) as error:
            raise StoreError(f"redis: {type(error).__name__}") from None  # its text may hold the address


def _answer(key: str) -> str:
    return f"{PREFIX}:answer:{key}"


def _scope(scope: str) -> str:
    return f"{PREFIX}:scope:{scope}"


def _term(room: str, term: str) -> str:
    return f"{PREFIX}:term:{room}:{digest({'term': term})[:24]}"
