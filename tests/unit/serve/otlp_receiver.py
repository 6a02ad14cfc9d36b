"""An OTLP/HTTP collector: takes spans as protobuf over HTTP and keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Got:
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int  # 1 internal, 2 server, 3 client
    status: int  # 2 error
    attributes: dict[str, Any]
    resource: dict[str, Any]
    begun: int
    ended: int


@dataclass
class Receiver:
    """What came so far. `status` is what senders get; while `gate` is cleared they get nothing."""

    spans: list[Got] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    status: int = 200
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def wait_for(self, wanted: Callable[[list[Got]], bool], seconds: float = 30.0) -> list[Got]:
        deadline = time.monotonic() + seconds
        while not wanted(self.spans):
            assert time.monotonic() < deadline, [(span.name, span.parent) for span in self.spans]
            time.sleep(0.05)
        return self.spans

    def one(self, name: str) -> Got:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, [span.name for span in self.spans]
        return found[0]


def values(attributes: Any) -> dict[str, Any]:
    def value(of: Any) -> Any:
        kind = of.WhichOneof("value")
        return [value(item) for item in of.array_value.values] if kind == "array_value" else getattr(of, kind)

    return {one.key: value(one.value) for one in attributes}


def read(body: bytes) -> Iterator[Got]:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = values(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                times = span.start_time_unix_nano, span.end_time_unix_nano
                noted = values(span.attributes)
                assert not span.events
                yield Got(span.name, *ids, span.kind, span.status.code, noted, resource, *times)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A collector on a free port."""
    receiver = Receiver()
    receiver.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.gate.wait(60)
            if receiver.status == 200:
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                receiver.paths.append(self.path)
                receiver.bodies.append(body)
                receiver.spans.extend(read(body))
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield receiver
    receiver.gate.set()
    server.shutdown()
    server.server_close()
