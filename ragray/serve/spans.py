"""What is traced of a request: its HTTP, the looks into the caches, the search, the generation.

In: parts of the service. Out: the same parts, each of whose calls is a span of the request's trace. Names and
attributes follow OpenTelemetry's semantic conventions for HTTP and generative AI; what has no name there is called
`ragray.…`. No question, passage, answer, key or header is an attribute, nor the message of an error, which could quote
one.

Source: opentelemetry.io/docs/specs/semconv: HTTP spans (stable), generative AI spans (in development).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from opentelemetry import context as contexts
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragray.engine.assistant import Retrieved
from ragray.engine.protocol import Completion, SamplingParams
from ragray.serve.answers import AnswerCache, KeptRetrievals
from ragray.serve.api import ApiError
from ragray.serve.generator import Generation
from ragray.serve.retriever import Found, Retrieval

PROVIDER = "ragray"  # gen_ai.provider.name
_PROBES = ("/healthz", "/readyz")  # many, and of no request
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_LONGEST_PATH = 128
_PROPAGATOR = TraceContextTextMapPropagator()

T = TypeVar("T")


class Traces:
    """Makes the spans of one process.

    Args:
        provider: of the SDK, with its sampler and the way to the collector.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("ragray")

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Any] | None = None, is_far: bool = False, is_current: bool = True
    ) -> Iterator[Span]:
        """A span of the current trace, for as long as the block takes; a fault is noted by its kind alone.

        Args:
            name: of few different values.
            attributes: what is known at the start.
            is_far: another process does the work.
            is_current: spans made meanwhile are its children. Not where the block yields to whoever asked.
        """
        kind = SpanKind.CLIENT if is_far else SpanKind.INTERNAL
        with self._open(self._tracer.start_span(name, kind=kind, attributes=attributes), is_current) as opened:
            yield opened

    @contextmanager
    def joined(self, name: str, carrier: Mapping[str, str], is_current: bool = True) -> Iterator[Span]:
        """The span of a call from another process, whose context is `carrier`; as `span` otherwise."""
        parent = _PROPAGATOR.extract(carrier)
        with self._open(self._tracer.start_span(name, parent, kind=SpanKind.SERVER), is_current) as opened:
            yield opened

    @contextmanager
    def _open(self, span: Span, is_current: bool) -> Iterator[Span]:
        token = contexts.attach(set_span_in_context(span)) if is_current else None
        try:
            yield span
        except BaseException as error:
            _fault(span, error)
            raise
        finally:
            if token is not None:
                contexts.detach(token)
            span.end()

    def close(self) -> None:
        """Send what waits, within seconds."""
        self._provider.shutdown()


def carried() -> dict[str, str]:
    """The current context for another process; empty where the request is not traced."""
    carrier: dict[str, str] = {}
    if get_current_span().get_span_context().trace_flags.sampled:
        _PROPAGATOR.inject(carrier)
    return carrier


def note_completion(span: Span, completion: Completion) -> None:
    """What a generation used, and why it ended."""
    span.set_attribute("gen_ai.usage.input_tokens", completion.prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", len(completion.token_ids))
    span.set_attribute("gen_ai.response.finish_reasons", (completion.finish_reason,))
    if completion.timing is not None:
        span.set_attribute("ragray.first_token_s", completion.timing.first_token_s)


def _fault(span: Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute("error.type", "cancelled")
        return
    kind = error.code if isinstance(error, ApiError) and error.code else type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


async def _within(span: Span, call: Awaitable[T]) -> T:
    """The result of a call, in whose time `span` is the current one."""
    token = contexts.attach(set_span_in_context(span))
    try:
        return await call
    finally:
        contexts.detach(token)


class TracedApp:
    """An ASGI application each of whose requests is the root of a trace, or a part of its caller's.

    Args:
        app: the application, which finds the trace's id as `ragray.trace_id` in the scope.
        traces: closed when the application ends.
    """

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app, self._traces = app, traces
        self.routes = getattr(app, "routes", [])  # Serve names requests in its metrics by them

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] != "http" or scope["path"].endswith(_PROBES):
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await asyncio.to_thread(self._traces.close)
            await send(message)

        await self._app(scope, receive, send_on)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        named = {b"traceparent", b"tracestate"}
        caller = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in named}
        with self._traces.joined("HTTP" if method == "_OTHER" else method, caller) as span:
            scope["ragray.trace_id"] = format(span.get_span_context().trace_id, "032x")
            try:
                await self._app(scope, receive, send_on)
            finally:
                if span.is_recording():
                    _note_request(span, scope, method, status)


def _note_request(span: Span, scope: Scope, method: str, status: int) -> None:
    """A request's attributes, once it has been answered."""
    context = scope.get("state", {}).get("ragray")
    route = getattr(scope.get("route"), "path", None)
    noted: dict[str, Any] = {
        "http.request.method": method,
        "url.scheme": scope.get("scheme", "http"),
        "url.path": scope["path"][:_LONGEST_PATH],
        "network.protocol.version": scope.get("http_version"),
        "http.route": route,
        "http.response.status_code": status or None,
        "ragray.request_id": getattr(context, "request_id", None),
        "ragray.error_code": getattr(context, "code", None),
    }
    span.set_attributes({name: value for name, value in noted.items() if value is not None})
    if route is not None:
        span.update_name(f"{method} {route}")
    if status >= 500:
        span.set_attribute("error.type", noted["ragray.error_code"] or str(status))
        span.set_status(Status(StatusCode.ERROR))
    elif not status:
        span.set_attribute("error.type", "cancelled")


class _Through:
    """Another object, apart from the calls that are spans."""

    def __init__(self, of: Any, traces: Traces, is_far: bool = False) -> None:
        self._of, self._traces, self._is_far = of, traces, is_far

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


class TracedRetrieval(_Through):
    """A `Retrieval` whose searches are spans."""

    _of: Retrieval

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        with self._traces.span("retrieval", {"gen_ai.operation.name": "retrieval"}, self._is_far) as span:
            found = await self._of.retrieve(question)
            span.set_attribute("ragray.passages", len(found.citations))
            span.set_attribute("ragray.answerable", found.answerable)
            span.set_attribute("ragray.probability", found.probability)
            return found

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""
        noted = {"gen_ai.operation.name": "retrieval", "ragray.top_k": top_k}
        with self._traces.span("retrieval", noted, self._is_far) as span:
            found = await self._of.search(query, top_k, explain)
            span.set_attribute("ragray.passages", len(found.hits))
            return found


class TracedGeneration(_Through):
    """A `Generation` whose answers are spans.

    Args:
        of: the generation.
        traces: makes the spans.
        is_far: it runs in another process.
        model: its id in the API.
    """

    _of: Generation

    def __init__(self, of: Generation, traces: Traces, is_far: bool, model: str) -> None:
        super().__init__(of, traces, is_far)
        self._model = model

    async def stream(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()
    ) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, which ends before any of the strings `stop`, then its completion."""
        begun: float | None = time.perf_counter()
        with self._span(params, streams=True) as span:
            async with aclosing(self._of.stream(retrieved, params, stop)) as items:
                # the first step begins the call; later ones may come from other tasks
                item = await _within(span, anext(items, None))
                while item is not None:
                    if begun is not None:
                        span.set_attribute("gen_ai.response.time_to_first_chunk", time.perf_counter() - begun)
                        begun = None
                    if isinstance(item, Completion):
                        note_completion(span, item)
                    yield item
                    item = await anext(items, None)

    async def complete(self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()) -> Completion:
        """The whole answer."""
        with self._span(params, streams=False) as span:
            completion = await _within(span, self._of.complete(retrieved, params, stop))
            note_completion(span, completion)
            return completion

    def _span(self, params: SamplingParams, streams: bool) -> Any:
        noted = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model,
            "gen_ai.request.max_tokens": params.max_new_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.seed": params.seed,
            "gen_ai.request.stream": streams,
        }
        return self._traces.span(f"chat {self._model}", noted, self._is_far, is_current=False)


class TracedAnswers(_Through):
    """An `AnswerCache` whose looks are spans."""

    _of: AnswerCache

    async def find(self, *asked: Any) -> Any:
        """See `AnswerCache.find`."""
        with self._traces.span("cache exact", {"ragray.cache": "exact"}) as span:
            found = await self._of.find(*asked)
            span.set_attribute("ragray.cache_hit", found is not None)
            return found

    async def find_near(self, *asked: Any) -> Any:
        """See `AnswerCache.find_near`."""
        with self._traces.span("cache semantic", {"ragray.cache": "semantic"}) as span:
            found = await self._of.find_near(*asked)
            span.set_attribute("ragray.cache_hit", found is not None)
            return found


class TracedRetrievals(_Through):
    """`KeptRetrievals` whose looks are spans; a search that they need is a child."""

    _of: KeptRetrievals

    async def retrieve(self, retriever: Retrieval, question: str) -> Retrieved:
        """See `KeptRetrievals.retrieve`."""
        if not self._of.is_on:
            return await self._of.retrieve(retriever, question)
        with self._traces.span("cache retrieval", {"ragray.cache": "retrieval"}) as span:
            asked = _Noted(retriever, self._traces)
            found = await self._of.retrieve(asked, question)
            span.set_attribute("ragray.cache_hit", not asked.is_asked)
            return found


class _Noted(_Through):
    """A retrieval that knows whether it was asked."""

    is_asked = False

    async def retrieve(self, question: str) -> Retrieved:
        self.is_asked = True
        found: Retrieved = await self._of.retrieve(question)
        return found
