"""The shared cache in a real Redis, started for these tests; they are skipped where there is no redis-server."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ragray.errors import ConfigError
from ragray.retrieval.agreement import Reading
from ragray.retrieval.similar import Wording
from ragray.serve import cache_redis
from ragray.serve.cache import Entry, MemoryCache, Place
from ragray.serve.cache_redis import PREFIX, RedisStore
from ragray.serve.cache_store import Layers, StoreError

pytest.importorskip("redis", reason="the package redis is not installed: pip install 'ragray[redis]'")
SERVER = shutil.which("redis-server")
needs_server = pytest.mark.skipif(SERVER is None, reason="no redis-server: apt-get install redis-server")
PASSWORD = "a pass word"


def wording(*terms: str) -> Wording:
    return Wording(" ".join(terms), "en", dict.fromkeys(terms, len(terms) ** -0.5), Reading((), ("how",)))


def entry(key: str, *terms: str, scope: str = "s", age_s: float = 0.0) -> Entry:
    kept = wording(*terms) if terms else None
    return Entry(Place(scope, f"room of {scope}", key), f'{{"答": "{key}"}}'.encode(), time.time() - age_s, kept)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[int]:
    """A Redis on a free port of loopback, which it gives; with a certificate it speaks TLS there."""
    assert SERVER is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listens = ["--port", "0", "--tls-port"] if "--tls-cert-file" in options else ["--port"]
    fixed = [*listens, str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), "--requirepass", PASSWORD]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([SERVER, *fixed, *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while "Ready to accept" not in (folder / "log").read_text():
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGRAY_REDIS_PASSWORD", PASSWORD)


def with_store(url: str, story: Callable[[RedisStore], Awaitable[None]], ttl_s: float = 60.0) -> None:
    async def told() -> None:
        store = RedisStore(url, ttl_s)
        await store._redis.flushdb()
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(told())


@needs_server
@pytest.mark.usefixtures("secret")
def test_what_was_put_is_found_as_json(url: str) -> None:
    async def story(store: RedisStore) -> None:
        one = entry("k", "x")
        assert await store.get("k") is None
        await store.put(one)
        assert await store.get("k") == one
        raw = await store._redis.get(f"{PREFIX}:answer:k")
        assert raw is not None and raw.startswith(b'{"place":["s"')
        await store._redis.set(f"{PREFIX}:answer:k", b"\x80\x04not json")
        assert await store.get("k") is None

    with_store(url, story)


@needs_server
@pytest.mark.usefixtures("secret")
def test_the_nearest_past_question_is_found_in_its_room(url: str) -> None:
    async def story(store: RedisStore) -> None:
        for one in (entry("far", "x", "z"), entry("near", "x", "y"), entry("other", "x", "y", scope="other")):
            await store.put(one)
        found = await store.near("room of s", wording("x", "y"), 0.9)
        assert found is not None and (found.entry.place.key, round(found.similarity, 9)) == ("near", 1.0)
        assert await store.near("room of s", wording("q"), 0.1) is None
        assert await store.near("room of s", replace(wording("x", "y"), weights={}), 0.9) is None
        why = replace(wording("x", "y"), reading=Reading((), ("why",)))
        assert await store.near("room of s", why, 0.9) is None

    with_store(url, story)


@needs_server
@pytest.mark.usefixtures("secret")
def test_a_retired_lineage_leaves_nothing_behind(url: str) -> None:
    async def story(store: RedisStore) -> None:
        await store.put(entry("a", "x", "y"))
        await store.put(entry("b"))
        await store.put(entry("c", "x", scope="new"))
        await store.retire("s")
        left = sorted(key.decode().split(":")[2] for key in await store._redis.keys("*"))
        assert left == ["answer", "scope", "term"]  # all of the new lineage
        assert (await store.get("a"), await store.get("b")) == (None, None)
        assert await store.get("c") is not None

    with_store(url, story)


@needs_server
@pytest.mark.usefixtures("secret")
def test_everything_leaves_by_its_age(url: str) -> None:
    async def story(store: RedisStore) -> None:
        await store.put(entry("old", "x", age_s=61))
        assert await store._redis.keys("*") == []
        await store.put(entry("young", "x", age_s=20))
        for key in await store._redis.keys("*"):
            assert 30_000 < await store._redis.pttl(key) <= 40_000, key

    with_store(url, story)


@needs_server
def test_a_wrong_password_is_a_failed_cache_and_is_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAGRAY_REDIS_PASSWORD", "wrong secret")
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    failures = []

    async def story() -> None:
        store = RedisStore(url, 60.0)
        with pytest.raises(StoreError):
            await store.get("k")
        layers = Layers(MemoryCache(1 << 20, 60.0), store, lambda: failures.append(1))
        await layers.put(entry("k"))
        assert await layers.get("k") is not None  # from this process
        await store.close()

    try:
        asyncio.run(story())
    finally:
        logger.removeHandler(caplog.handler)
    assert failures == [1] and "AuthenticationError" in caplog.text
    assert "secret" not in caplog.text and "127.0.0.1" not in caplog.text


@needs_server
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: apt-get install openssl")
@pytest.mark.usefixtures("secret")
def test_over_tls_a_server_is_trusted_by_its_certificate_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_redis, "TIMEOUT_S", 30.0)  # a busy machine's name lookup is no refusal
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]

    async def story(store: RedisStore) -> None:
        await store.put(entry("k", "x"))
        assert await store.get("k") is not None

    with running(tmp_path, *tls) as port:
        with_store(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}", story)
        for stranger in (
            f"rediss://localhost:{port}/0",  # the system knows no such authority
            f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}",  # not the name that it certifies
            f"redis://localhost:{port}/0",
        ):
            with pytest.raises(StoreError, match="redis: ConnectionError"):
                asyncio.run(RedisStore(stranger, 60.0).get("k"))


def test_a_redis_that_is_not_there_is_a_miss() -> None:
    async def story() -> None:
        store = RedisStore("redis://127.0.0.1:1/0", 60.0)  # nothing listens on port 1
        with pytest.raises(StoreError, match="redis: ConnectionError"):
            await store.get("k")
        assert await Layers(MemoryCache(0, 60.0), store).get("k") is None
        await store.close()

    asyncio.run(story())


def test_a_url_without_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        RedisStore("http://127.0.0.1", 60.0)
