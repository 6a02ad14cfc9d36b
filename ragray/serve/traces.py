"""Traces of requests, where `serve.traces.endpoint` names a collector; else nothing here does anything.

In: the parts of an ingress, the classes and handles of its deployments. Out: the same, traced (`spans`), and the
trace's context with each call from part to part. The SDK and its exporter are imported only where traces are on.
"""

from __future__ import annotations

import inspect
import logging
import os
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from starlette.types import ASGIApp

import ragray
from ragray.config_traces import TracesConfig
from ragray.engine.protocol import Completion
from ragray.errors import ConfigError
from ragray.serve.answers import Caches

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from ragray.serve.current import Behind
    from ragray.serve.generator import Generation
    from ragray.serve.retriever import Retrieval
    from ragray.serve.spans import Traces

_CARRYING = frozenset({"retrieve", "search", "words", "wording", "followed", "stream", "complete"})
_EXPORT_S = 10.0  # for one batch, with its repetitions


def open_traces(settings: TracesConfig, part: str) -> Traces | None:
    """What makes the spans of this process and sends them; None where traces are off.

    Args:
        settings: where they go, and how many.
        part: of the application, `ragray.part` of the spans.

    Raises:
        ConfigError: the exporter is not installed, or an environment variable that the headers name is not set.
    """
    if settings.endpoint is None:
        return None
    exporter = _exporter(settings)
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    from ragray.serve.span_outbox import Outbox
    from ragray.serve.spans import Traces

    resource = Resource.create(
        {
            "service.name": settings.service_name,
            "service.version": ragray.__version__,
            "service.instance.id": uuid.uuid4().hex,
            "ragray.part": part,
        }
    )
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.sample_share), resource=resource, shutdown_on_exit=False
    )
    provider.add_span_processor(Outbox(exporter, settings.queue_spans))
    return Traces(provider)


def _exporter(settings: TracesConfig) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "serve.traces.endpoint: OpenTelemetry's OTLP/HTTP exporter is not installed", "pip install 'ragray[traces]'"
        ) from None
    headers = {}
    for name, variable in settings.headers.items():
        if variable not in os.environ:
            raise ConfigError(
                f"serve.traces.headers.{name}: the environment variable {variable} is not set",
                "set it where Ray's nodes are started, or remove the header",
            )
        headers[name] = os.environ[variable]
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)  # `Outbox` tells once; it each time
    exporter: SpanExporter = OTLPSpanExporter(endpoint=settings.endpoint, headers=headers, timeout=_EXPORT_S)
    return exporter


def traced(traces: Traces | None, behind: Behind, far: tuple[bool, bool], model: str) -> Behind:
    """The parts of a release with their calls as spans; the same parts where traces are off.

    Args:
        traces: makes the spans.
        behind: what an ingress answers through.
        far: whether retriever and generator run in other processes.
        model: the id in the API.
    """
    if traces is None:
        return behind
    from ragray.serve.spans import TracedGeneration, TracedRetrieval

    return replace(
        behind,
        retriever=cast("Retrieval", TracedRetrieval(behind.retriever, traces, far[0])),
        generator=cast("Generation", TracedGeneration(behind.generator, traces, far[1], model)),
    )


def traced_caches(traces: Traces | None, caches: Caches) -> Caches:
    """The caches with their look-ups as spans; the same ones where traces are off."""
    if traces is None:
        return caches
    from ragray.serve.spans import TracedAnswers, TracedRetrievals

    answers, retrievals = TracedAnswers(caches.answers, traces), TracedRetrievals(caches.retrievals, traces)
    return Caches(cast(Any, answers), cast(Any, retrievals))


def traced_app(app: ASGIApp, traces: Traces | None) -> ASGIApp:
    """The application with each request as the root of a trace; `app` itself where traces are off."""
    if traces is None:
        return app
    from ragray.serve.spans import TracedApp

    return TracedApp(app, traces)


def carrying(traces: Traces | None, handle: Any) -> Any:
    """A deployment's handle whose calls carry the current trace; `handle` itself where there is none."""
    return handle if handle is None or traces is None else _CarryingHandle(handle)


class _CarryingHandle:
    """A deployment's handle whose calls bring the current trace along."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def options(self, **options: Any) -> _CarryingHandle:
        """The handle with other options."""
        return _CarryingHandle(self._handle.options(**options))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)
        return _CarryingCall(method) if name in _CARRYING else method


class _CarryingCall:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any, **more: Any) -> Any:
        from ragray.serve.spans import carried

        if carrier := carried():
            more["trace"] = carrier
        return self._method.remote(*args, **more)


def joining(part: type, name: str, settings: TracesConfig) -> type:
    """The class of the replicas of the deployment `name`, whose calls take their caller's trace and are spans of it.

    Also where traces are off here: while a deployment of other settings replaces this one, its ingress may call.
    """

    class Joining(part):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            self._traces = open_traces(settings, name)
            super().__init__(*args, **more)

        def __del__(self) -> None:  # Serve calls it when the replica ends
            if (traces := getattr(self, "_traces", None)) is not None:
                traces.close()
            if hasattr(part, "__del__"):
                super().__del__()

    for call in _CARRYING:
        if (method := getattr(part, call, None)) is not None:
            is_stream = inspect.isasyncgenfunction(method)
            setattr(Joining, call, (_joining_stream if is_stream else _joining_call)(method, f"{name}.{call}"))
    Joining.__name__, Joining.__qualname__ = part.__name__, part.__qualname__
    return Joining


def _joining_call(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(method)
    async def call(self: Any, *args: Any, trace: dict[str, str] | None = None, **more: Any) -> Any:
        if trace is None or self._traces is None:
            return await method(self, *args, **more)
        with self._traces.joined(name, trace) as span:
            return _noted(span, await method(self, *args, **more))

    return call


def _joining_stream(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(method)
    async def stream(self: Any, *args: Any, trace: dict[str, str] | None = None, **more: Any) -> Any:
        async with aclosing(method(self, *args, **more)) as items:
            if trace is None or self._traces is None:
                async for item in items:
                    yield item
                return
            with self._traces.joined(name, trace, is_current=False) as span:
                async for item in items:
                    yield _noted(span, item)

    return stream


def _noted(span: Any, result: Any) -> Any:
    from ragray.serve.spans import note_completion

    if isinstance(result, Completion):
        note_completion(span, result)
    return result
