"""Spans on their way to the collector: requests only put them down, a thread sends them.

In: spans that ended. Out: batches for an exporter. The SDK's own batch processor does not count what it drops and tells
each failure again; here what waits is bounded, what is lost is counted, and the log hears once that spans are lost and
once that they arrive again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_BATCH = 512  # spans of one export

logger = logging.getLogger("ray.serve")


class Outbox(SpanProcessor):
    """Takes spans without ever waiting, and sends them in a thread of its own.

    Args:
        exporter: sends a batch; it may be slow and may fail.
        capacity: spans that may wait; further ones are dropped.
        every_s: how long a span waits for others at most, seconds.
        flush_s: how long `shutdown` waits for what is left, seconds.
    """

    def __init__(self, exporter: SpanExporter, capacity: int, every_s: float = 2.0, flush_s: float = 5.0) -> None:
        self._exporter, self._capacity = exporter, capacity
        self._every_s, self._flush_s = every_s, flush_s
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._counts = threading.Lock()
        self._ends = False
        self._loses = False  # and the log knows
        self.sent = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="ragray-spans", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: spans are sent when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, or drop it where too many wait."""
        if not span.context.trace_flags.sampled:
            return
        if self._ends or len(self._waiting) >= self._capacity:
            self._lose(1, "too many wait")
            return
        self._waiting.append(span)
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    def shutdown(self) -> None:
        """Send what is left, within `flush_s`; what comes later is dropped."""
        if self._ends:
            return
        self._ends = True
        self._wake.set()
        self._thread.join(self._flush_s)
        if left := len(self._waiting):
            self._waiting.clear()
            self._lose(left, "the replica ends")
        if self.dropped:
            logger.warning("traces: %d spans were dropped in all, %d sent", self.dropped, self.sent)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing: the thread sends soon, and `shutdown` sends the rest."""
        return not self._waiting

    def _run(self) -> None:
        ends = False
        while not ends:
            self._wake.wait(self._every_s)
            self._wake.clear()
            ends = self._ends  # first: what came before the end is sent below
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))])

    def _send(self, batch: list[ReadableSpan]) -> None:
        try:
            result = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - told and counted; the thread must go on
            self._lose(len(batch), f"the exporter raised {type(error).__name__}")
            return
        if result is not SpanExportResult.SUCCESS:
            self._lose(len(batch), "the collector does not take them")
            return
        self.sent += len(batch)
        if self._loses:
            self._loses = False
            logger.warning("traces: spans arrive again; %d were dropped", self.dropped)

    def _lose(self, spans: int, why: str) -> None:
        with self._counts:
            self.dropped += spans
        if not self._loses:
            self._loses = True
            logger.warning("traces: spans are dropped, as %s; requests go on", why)
