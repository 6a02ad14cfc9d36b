"""Copies of the generator come with streams and go after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import pytest
from small_service import QUESTION, args_for  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.serve.app import build

NAME = "elastic"


@pytest.fixture
def elastic(url: str, artifacts: dict[str, Artifact]) -> Iterator[str]:
    """A second application, whose generator has one or two copies."""
    from ray import serve

    scale = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1.0}
    soon = {"look_back_s": 1.0, "upscale_delay_s": 0.5, "downscale_delay_s": 2.0}
    args = args_for(artifacts)
    args["serve"] |= {"placement": {"generator": {"num_cpus": 0.0, "autoscaling": scale | soon}}, "drain_s": 5.0}
    serve.run(build(args), name=NAME, route_prefix=f"/{NAME}")
    yield f"{url}/{NAME}"
    serve.delete(NAME)


def running() -> int:
    """Copies of the generator that answer."""
    from ray import serve

    states = serve.status().applications[NAME].deployments["Generator"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def stream(url: str, enough: Event) -> list[tuple[bool, str]]:
    """Streams one after the other until it is enough: whether each had an error, and how it ended."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2000, "stream": True, "cache": False}
    ends = []
    while not enough.is_set():
        response = httpx.post(f"{url}/v1/chat/completions", json={**body, "temperature": 1.0}, timeout=60)
        ends.append(('"error"' in response.text, response.text.split("\n\n")[-2]))
    return ends


def test_a_generator_scales_up_under_streams_and_down_after_them(elastic: str) -> None:
    assert running() == 1
    enough = Event()
    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(stream, elastic, enough) for _ in range(3)]
        try:
            wait_until(lambda: running() == 2)
        finally:
            enough.set()
    assert {end for client in clients for end in client.result()} == {(False, "data: [DONE]")}
    wait_until(lambda: running() == 1)
    time.sleep(1.0)
    assert running() == 1
