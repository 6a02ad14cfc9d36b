"""The HTTP API with traces that go to a collector, asked in process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
from otlp_receiver import Receiver  # type: ignore[import-not-found]
from starlette.types import ASGIApp

from ragray.config_traces import TracesConfig
from ragray.serve.answers import AnswerCache, Caches, KeptRetrievals
from ragray.serve.chat import Chat
from ragray.serve.current import Current
from ragray.serve.ingress import Door, http_api
from ragray.serve.spans import Traces
from ragray.serve.traces import open_traces, traced, traced_app, traced_caches

QUESTION = "How do I install ragray?"


@contextmanager
def tracing(collector: Receiver, **settings: Any) -> Iterator[Traces]:
    traces = open_traces(TracesConfig(endpoint=collector.url, **settings), "Ingress")
    assert traces is not None
    yield traces
    traces.close()


def app_of(door: Door, traces: Traces | None) -> ASGIApp:
    """The API over a door's own retriever and generator, wired as `Ingress` does it."""
    caches = Caches(AnswerCache(door.limits.cache), KeptRetrievals(door.limits.cache))
    current = Current(traced(traces, door.current.now, (False, False), door.model))
    chat = Chat(current, traced_caches(traces, caches))
    return traced_app(http_api(replace(door, current=current, chat=chat)), traces)


def call(app: ASGIApp, path: str, body: Any = None, method: str = "POST", **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=body, headers=headers)

    return asyncio.run(send())


def chat(app: ASGIApp, question: str = QUESTION, stream: bool = False, **headers: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": question}], "stream": stream}
    return call(app, "/v1/chat/completions", body, **headers)
