"""Traces of a real service whose parts run apart: one tree through all replicas, sent when these end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
from small_service import args_for, ask  # type: ignore[import-not-found]

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'ragray[traces]'")

sys.path.append(str(Path(__file__).parents[1] / "unit" / "serve"))
from otlp_receiver import Got, receiving  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.serve.app import build

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01", "x-request-id": "traced-1"}


def tree(spans: list[Got], parent: str) -> dict[str, object]:
    return {span.name: tree(spans, span.id) for span in spans if span.parent == parent}


def logged() -> list[dict[str, object]]:
    """The lines that ingresses wrote of these requests."""
    import ray

    folder = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"  # type: ignore[attr-defined]
    lines = [line for file in folder.glob("*.requests.log") for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines if '"traced-1"' in line]


def test_a_trace_goes_through_all_parts(url: str, artifacts: dict[str, Artifact]) -> None:
    from ray import serve

    args = args_for(artifacts)
    with receiving() as collector:
        args["serve"] |= {"retriever": "deployment", "traces": {"endpoint": collector.url}}
        serve.run(build(args), name="traced", route_prefix="/traced")
        body = {"messages": [{"role": "user", "content": "How do I install ragray?"}], "max_tokens": 5, "stream": True}
        streamed = httpx.post(f"{url}/traced/v1/chat/completions", json=body, headers=TRACEPARENT, timeout=60)
        assert streamed.status_code == 200 and "[DONE]" in streamed.text
        assert ask(f"{url}/traced", cache=False).status_code == 200
        found = httpx.post(f"{url}/traced/v1/search", json={"query": "ragray"}, timeout=60)
        assert found.status_code == 200
        serve.delete("traced")  # each replica sends what it has
        wanted = {"Retriever.retrieve", "Generator.stream", "Generator.complete", "Retriever.search", "POST /v1/search"}
        spans = collector.wait_for(lambda got: wanted <= {span.name for span in got})
    assert tree(spans, "00f067aa0ba902b7") == {
        "POST /v1/chat/completions": {
            "cache exact": {},
            "cache retrieval": {"retrieval": {"Retriever.retrieve": {}}},
            "chat ragray": {"Generator.stream": {}},
        }
    }
    mine = [span for span in spans if span.trace == CALLER]
    assert {span.resource["ragray.part"] for span in mine} == {"Ingress", "Retriever", "Generator"}
    for name in ("chat ragray", "Generator.stream"):
        span = next(span for span in mine if span.name == name)
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
        assert span.attributes["gen_ai.response.finish_reasons"] == ["length"]
    roots = [span for span in spans if not span.parent]
    assert [tree(spans, root.id) for root in sorted(roots, key=lambda one: one.begun)] == [
        {"retrieval": {"Retriever.retrieve": {}}, "chat ragray": {"Generator.complete": {}}},
        {"retrieval": {"Retriever.search": {}}},
    ]
    assert {line["trace_id"] for line in logged()} == {CALLER}
