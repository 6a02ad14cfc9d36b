"""Traces over the HTTP API and a real collector: a tree for each request, without what was said."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'ragray[traces]'")

from otlp_receiver import Got, Receiver, receiving  # type: ignore[import-not-found]
from traced import QUESTION, app_of, call, chat, tracing  # type: ignore[import-not-found]

from ragray.config import ServeConfig
from ragray.config_limits import LimitsConfig
from ragray.config_traces import TracesConfig
from ragray.engine.protocol import SamplingParams
from ragray.errors import ConfigError
from ragray.serve.current import Current
from ragray.serve.ingress import Door
from ragray.serve.spans import TracedGeneration, Traces
from ragray.serve.traces import carrying, joining, open_traces

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def names_under(spans: list[Got], parent: Got) -> list[str]:
    return [span.name for span in sorted(spans, key=lambda one: one.begun) if span.parent == parent.id]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_one_trace(door: Door, collector: Receiver, stream: bool) -> None:
    with tracing(collector, service_name="help desk") as traces:
        app = app_of(door, traces)
        assert chat(app, stream=stream, **{"x-request-id": "r-1"}).status_code == 200
    assert collector.paths == ["/v1/traces"]
    assert len({span.trace for span in collector.spans}) == 1
    root = collector.one("POST /v1/chat/completions")
    assert (root.parent, root.kind, root.status) == ("", 2, 0)
    assert root.attributes == {
        "http.request.method": "POST", "url.scheme": "http", "url.path": "/v1/chat/completions",
        "network.protocol.version": "1.1", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "ragray.request_id": "r-1",
    }  # fmt: skip
    assert {"service.name": "help desk", "ragray.part": "Ingress"}.items() <= root.resource.items()
    assert names_under(collector.spans, root) == ["cache exact", "cache retrieval", "chat ragray-test"]
    looked = collector.one("cache retrieval")
    assert names_under(collector.spans, looked) == ["retrieval"]
    assert looked.attributes["ragray.cache_hit"] is collector.one("cache exact").attributes["ragray.cache_hit"] is False
    assert collector.one("retrieval").attributes["ragray.answerable"] is True
    made = collector.one("chat ragray-test")
    first = made.attributes.pop("gen_ai.response.time_to_first_chunk", None)
    assert made.attributes.pop("gen_ai.usage.input_tokens") > 10
    assert made.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "ragray", "gen_ai.request.model": "ragray-test",
        "gen_ai.request.max_tokens": 64, "gen_ai.request.temperature": 0.0, "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 0, "gen_ai.request.stream": stream, "gen_ai.usage.output_tokens": 18,
        "gen_ai.response.finish_reasons": ["stop"],
    }  # fmt: skip
    assert (first is not None) == stream
    if first is not None:
        assert 0 < first <= (made.ended - made.begun) / 1e9
    assert all(root.begun <= span.begun <= span.ended <= root.ended for span in collector.spans)


def test_an_answer_from_the_cache_generates_nothing(door: Door, collector: Receiver) -> None:
    with tracing(collector) as traces:
        app = app_of(door, traces)
        first, second = chat(app).json(), chat(app).json()
    assert first["choices"] == second["choices"] and second["cache"] == "hit"
    hits = [span for span in collector.spans if span.attributes.get("ragray.cache_hit")]
    assert [span.name for span in hits] == ["cache exact"]
    assert [span.name for span in collector.spans if span.trace == hits[0].trace] == [
        "cache exact", "POST /v1/chat/completions",
    ]  # fmt: skip


def test_a_callers_trace_goes_on_and_its_choice_holds(door: Door, collector: Receiver) -> None:
    with tracing(collector, sample_share=0.0) as traces:
        app = app_of(door, traces)
        assert call(app, "/v1/search", {"query": QUESTION}, traceparent=f"00-{CALLER}-{PARENT}-01").status_code == 200
        for other in (f"00-{CALLER}-{PARENT}-00", "garbage", f"00-{'0' * 32}-{PARENT}-01"):
            assert call(app, "/v1/search", {"query": QUESTION}, traceparent=other).status_code == 200
    root = collector.one("POST /v1/search")
    assert (root.trace, root.parent) == (CALLER, PARENT)
    found = collector.one("retrieval")
    assert (found.trace, found.parent, found.attributes["ragray.passages"]) == (CALLER, root.id, 2)
    assert len(collector.spans) == 2


def test_nothing_of_what_was_said_is_sent(door: Door, collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_TOKEN", "sesame")
    secret = {"authorization": "Bearer hunter2", "cookie": "hunter2", "user-agent": "hunter2"}
    with tracing(collector, headers={"x-token": "COLLECTOR_TOKEN"}) as traces:
        app = app_of(door, traces)
        chat(app, "zebra: how do I install ragray?", **secret)
        chat(app, "zebra " * 100)  # too long
        call(app, "/v1/search?query=zebra", {"query": "zebra"}, **secret)
        call(app, "/v1/search", {"zebra": "zebra"})
    assert {one["x-token"] for one in collector.headers} == {"sesame"}
    sent = b"".join(collector.bodies)
    assert len(collector.spans) > 6 and b"/v1/search" in sent
    for word in (b"zebra", b"hunter2", b"sesame", b"make demo", b"Run"):
        assert word not in sent


def test_faults_are_named_by_their_kind(door: Door, collector: Receiver) -> None:
    class Failing:
        async def search(self, query: str, top_k: int, explain: bool = False) -> Any:
            raise ValueError(query)

    with tracing(collector) as traces:
        failing = replace(door.current.now, retriever=Failing())  # type: ignore[arg-type]
        app = app_of(replace(door, current=Current(failing)), traces)
        assert call(app, "/v1/search", {"query": "zebra"}).status_code == 500
        assert call(app, "/v1/nowhere").status_code == 404
    root, found = collector.one("POST /v1/search"), collector.one("retrieval")
    assert (root.status, root.attributes["error.type"]) == (2, "ValueError")
    assert root.attributes["ragray.error_code"] == "internal_error"
    assert (found.status, found.attributes["error.type"]) == (2, "ValueError")
    missed = collector.one("POST")
    assert (missed.status, missed.attributes["ragray.error_code"]) == (0, "not_found")
    assert b"zebra" not in b"".join(collector.bodies)


def test_the_log_names_the_trace_and_probes_have_none(
    door: Door, collector: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with tracing(collector) as traces, caplog.at_level(logging.INFO, "ray.serve.requests"):
        app = app_of(door, traces)
        call(app, "/v1/search", {"query": QUESTION})
        for probe in ("/healthz", "/readyz"):
            assert call(app, probe, method="GET").status_code == 200
    searched, *probed = caplog.records
    assert searched.__dict__["trace_id"] == collector.one("POST /v1/search").trace
    assert all("trace_id" not in line.__dict__ for line in probed) and len(probed) == 2
    assert len(collector.spans) == 2


def test_whoever_leaves_a_stream_ends_its_spans(door: Door, collector: Receiver) -> None:
    async def leave_early(traces: Traces) -> None:
        generation = TracedGeneration(door.generator, traces, True, "m")
        retrieved = await door.retriever.retrieve(QUESTION)
        stream: AsyncGenerator[Any, None] = generation.stream(retrieved, SamplingParams())
        async with aclosing(stream) as items:
            await anext(items)

    with tracing(collector) as traces:
        asyncio.run(leave_early(traces))
    left = collector.one("chat m")
    assert (left.kind, left.status, left.attributes["error.type"]) == (3, 0, "cancelled")


class Elsewhere:
    """A deployment's handle that calls an object directly, as Serve calls a replica."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = staticmethod(getattr(self._replica, name))

        return Method


class Part:
    """A part that answers calls and streams."""

    def __init__(self, word: str) -> None:
        self.word = word

    async def search(self, query: str) -> str:
        return self.word + query

    async def stream(self, count: int) -> AsyncGenerator[int, None]:
        for number in range(count):
            yield number

    async def ready(self) -> bool:
        return True


def test_parts_apart_join_the_trace(collector: Receiver) -> None:
    settings = TracesConfig(endpoint=collector.url)
    replica = joining(Part, "Retriever", settings)("found ")
    assert type(replica).__name__ == "Part" and isinstance(replica, Part)

    async def run(traces: Traces) -> None:
        handle = carrying(traces, Elsewhere(replica))
        with traces.span("outer"):
            assert await handle.search.remote("x") == "found x"
            assert [item async for item in handle.stream.remote(3)] == [0, 1, 2]
            assert await handle.ready.remote()
        assert await handle.search.remote("y") == "found y"  # of no request

    with tracing(collector) as traces:
        asyncio.run(run(traces))
    replica.__del__()  # as Serve does when a replica ends
    outer = collector.one("outer")
    for name in ("Retriever.search", "Retriever.stream"):
        span = collector.one(name)
        assert (span.trace, span.parent, span.kind) == (outer.trace, outer.id, 2)
        assert span.resource["ragray.part"] == "Retriever"
    assert len(collector.spans) == 3


def test_a_part_that_does_not_trace_yet_takes_calls_that_do(collector: Receiver) -> None:
    replica = joining(Part, "Retriever", TracesConfig())("found ")

    async def run(traces: Traces) -> None:
        handle = carrying(traces, Elsewhere(replica))
        with traces.span("outer"):
            assert await handle.search.remote("x") == "found x"
            assert [item async for item in handle.stream.remote(2)] == [0, 1]

    with tracing(collector) as traces:
        asyncio.run(run(traces))
    assert [span.name for span in collector.spans] == ["outer"]


OFF = """
import sys
from ragray.config import ServeConfig
from ragray.serve import deployments, ingress, traces
settings = ServeConfig().traces
assert traces.open_traces(settings, "Ingress") is None
app, handle, parts = object(), object(), object()
assert traces.traced_app(app, None) is app and traces.carrying(None, handle) is handle
assert traces.traced(None, parts, (True, True), "m") is parts and traces.traced_caches(None, parts) is parts
ours = [name for name in sys.modules if name.startswith(("opentelemetry.exporter.otlp", "ragray.serve.span"))]
assert not ours, ours
"""


def test_without_an_endpoint_no_exporter_is_loaded_and_nothing_is_wrapped() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_untraced_requests_log_no_trace(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.requests"):
        call(app_of(door, None), "/v1/search", {"query": QUESTION})
    assert "trace_id" not in caplog.records[0].__dict__


def test_a_missing_variable_is_refused_by_its_name(collector: Receiver) -> None:
    with pytest.raises(ConfigError, match="the environment variable NO_SUCH_VARIABLE is not set"):
        open_traces(TracesConfig(endpoint=collector.url, headers={"x": "NO_SUCH_VARIABLE"}), "Ingress")


def test_keys_and_limits_stay_in_front(door: Door, collector: Receiver) -> None:
    limited = replace(door, limits=ServeConfig(limits=LimitsConfig(max_header_bytes=64)))
    with tracing(collector) as traces:
        refused = call(app_of(limited, traces), "/v1/search", {"query": "x"}, filler="x" * 100)
        assert refused.status_code == 431, json.dumps(refused.json())
    assert collector.one("POST").attributes["ragray.error_code"] == "headers_too_large"
