"""What Prometheus reads of a served application: counts of what was asked, and every name that the dashboard uses."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
import ray
from prometheus_client.parser import text_string_to_metric_families
from small_service import ask  # type: ignore[import-not-found]

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "serving.json"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def exported() -> Samples:
    """ragray's samples on all nodes, by name and the labels that ragray gave them."""
    found: Samples = {}
    for node in ray.nodes():
        text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ray_ragray_"):
                    ours = {(name, value) for name, value in sample.labels.items() if name in _LABELS}
                    key = sample.name, frozenset(ours)
                    found[key] = found.get(key, 0.0) + sample.value
    return found


_LABELS = {"path", "status", "code", "ended_by", "cache", "use", "kind", "event"}


def value(samples: Samples, name: str, **labels: str) -> float:
    ending = "" if name.endswith("_count") else "_total"
    return samples.get((f"ray_ragray_{name}{ending}", frozenset(labels.items())), 0.0)


def test_prometheus_reads_what_was_asked(url: str) -> None:
    time.sleep(12)  # what other tests asked is reported before
    before = exported()
    assert ask(url, "What does ragray count?", cache=False).status_code == 200
    assert ask(url, "What does ragray count?", cache=False, stream=True).status_code == 200
    assert ask(url, "", cache=False).status_code == 400
    assert httpx.post(f"{url}/v1/search", json={"query": "install"}).status_code == 200
    expected = [
        (2, "requests", {"path": "chat", "status": "200"}),
        (1, "requests", {"path": "chat", "status": "400"}),
        (1, "requests", {"path": "search", "status": "200"}),
        (1, "errors", {"code": "empty"}),
        (2, "answers", {"ended_by": "length"}),
        (24, "tokens", {"kind": "completion"}),
        (2, "first_token_seconds_count", {}),
        (2, "token_seconds_count", {}),
        (2, "retrieve_seconds_count", {}),
        (3, "request_seconds_count", {"path": "chat"}),
    ]
    deadline = time.monotonic() + 60
    while True:
        after = exported()
        grown = [value(after, name, **labels) - value(before, name, **labels) for _, name, labels in expected]
        if grown == [wanted for wanted, _, _ in expected] or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert grown == [wanted for wanted, _, _ in expected]
    assert value(after, "generations", event="begun") == value(after, "generations", event="ended") > 0
    assert value(after, "requests_begun", path="search") - value(before, "requests_begun", path="search") == 1


def test_the_dashboard_asks_for_what_there_is(url: str) -> None:
    expressions = [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
    ]
    asked = {name for each in expressions for name in re.findall(r"\bray_ragray_\w+", each)}
    assert len(asked) >= 10
    assert ask(url, "").status_code == 400
    assert ask(url).status_code == 200
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        there = {name for name, _ in exported()}
        if asked <= there:
            return
        time.sleep(1)
    assert asked <= there
