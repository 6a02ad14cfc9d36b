"""Spans on their way: a collector that hangs, refuses or is not there is in nobody's way; the end sends what waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'ragray[traces]'")

from otlp_receiver import Receiver, receiving  # type: ignore[import-not-found]
from traced import QUESTION, app_of, call, chat, tracing  # type: ignore[import-not-found]

from ragray.config_traces import TracesConfig
from ragray.serve.ingress import Door
from ragray.serve.traces import open_traces


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def test_a_collector_that_hangs_delays_and_loses_no_request(
    door: Door, collector: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragray.serve.span_outbox._BATCH", 4)
    collector.gate.clear()
    with tracing(collector, queue_spans=6) as traces, caplog.at_level(logging.WARNING, "ray.serve"):
        app = app_of(door, traces)
        begun = time.monotonic()
        for _ in range(20):  # 40 spans: 4 on their way, 6 wait
            assert call(app, "/v1/search", {"query": QUESTION}).status_code == 200
        assert time.monotonic() - begun < 10
        collector.gate.set()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "traces: spans are dropped, as too many wait; requests go on"
    assert sum("spans are dropped" in line for line in lines) == 1
    got = len(collector.spans)
    assert 10 <= got < 40
    assert lines[-1] == f"traces: {40 - got} spans were dropped in all, {got} sent"


def test_a_collector_that_refuses_is_told_once_and_its_return_too(
    door: Door, collector: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragray.serve.span_outbox._BATCH", 2)
    collector.status = 400  # not tried again, by OTLP
    with tracing(collector) as traces, caplog.at_level(logging.WARNING):
        app = app_of(door, traces)
        for _ in range(3):
            assert call(app, "/v1/search", {"query": QUESTION}).status_code == 200
        deadline = time.monotonic() + 20
        while not caplog.records:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        collector.status = 200
        call(app, "/v1/search", {"query": QUESTION})
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "traces: spans are dropped, as the collector does not take them; requests go on"
    assert sum("requests go on" in line for line in lines) == 1
    assert sum("arrive again" in line for line in lines) == 1


def test_nothing_listens_there(door: Door) -> None:
    traces = open_traces(TracesConfig(endpoint="http://127.0.0.1:9"), "Ingress")
    assert traces is not None
    assert chat(app_of(door, traces)).status_code == 200
    begun = time.monotonic()
    traces.close()
    assert time.monotonic() - begun < 8


def test_the_end_of_the_application_sends_what_waits(door: Door, collector: Receiver) -> None:
    traces = open_traces(TracesConfig(endpoint=collector.url), "Ingress")
    app = app_of(door, traces)

    async def live() -> list[str]:
        asked: asyncio.Queue[Any] = asyncio.Queue()
        said: list[str] = []

        async def send(message: Any) -> None:
            said.append(message["type"])

        running = asyncio.create_task(app({"type": "lifespan", "state": {}}, asked.get, send))
        await asked.put({"type": "lifespan.startup"})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/v1/search", json={"query": QUESTION})
        await asked.put({"type": "lifespan.shutdown"})
        await running
        return said

    assert asyncio.run(live()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert {span.name for span in collector.spans} == {"POST /v1/search", "retrieval"}
