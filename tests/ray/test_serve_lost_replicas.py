"""Replicas of each part get SIGKILL under load: whoever does not stream notices nothing, and no stream just stops."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest
from own_ray import replicas, served_alone  # type: ignore[import-not-found]
from small_service import QUESTION, ask  # type: ignore[import-not-found]

from ragray.artifact import Artifact

COPIES = 2


@pytest.fixture(scope="module")
def service(artifacts: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """Two replicas of each part."""
    parts = {"retriever": "deployment", "retriever_replicas": COPIES, "generator_replicas": COPIES}
    room = {"generator": {"num_cpus": 0.0}}
    folder = tmp_path_factory.mktemp("lost")
    with served_alone(artifacts, folder, **parts, ingress_replicas=COPIES, placement=room) as running:
        yield running


def asked(url: str) -> str:
    response = ask(url, cache=False, max_tokens=100)
    return "" if response.status_code == 200 else f"{response.status_code} {response.text}"


def searched(url: str) -> str:
    response = httpx.post(f"{url}/v1/search", json={"query": QUESTION}, timeout=60)
    return "" if response.status_code == 200 else f"{response.status_code} {response.text}"


def events(url: str, max_tokens: int) -> Iterator[Any]:
    """The events of a stream, the last one as its text."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": max_tokens, "stream": True}
    more = {"temperature": 1.0, "cache": False}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, **more}, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])
            elif line:
                yield line


def repeat(call: Any, url: str, enough: Event) -> list[str]:
    """What each call says, until it is enough."""
    said = []
    while not enough.is_set():
        try:
            said.append(call(url))
        except httpx.TransportError as error:
            said.append(repr(error))
    return said


def wait_for_new(process: Any, part: str, lost: int) -> None:
    deadline = time.monotonic() + 60
    while len({one.pid for one in replicas(process, part)} - {lost}) < COPIES:
        assert time.monotonic() < deadline, part
        time.sleep(0.1)


def test_lost_replicas_fail_no_request(service: tuple[str, Any]) -> None:
    url, process = service
    enough = Event()
    lost = {}
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(repeat, call, url, enough) for call in (asked, asked, searched, searched)]
        try:
            for part in ("Retriever", "Generator", "Ingress"):
                time.sleep(1.0)
                victim = replicas(process, part)[0]
                victim.kill()
                lost[part] = victim.pid
            for part, pid in lost.items():
                wait_for_new(process, part, pid)
            time.sleep(1.0)
        finally:
            enough.set()
    said = [one for call in calls for one in call.result()]
    assert len(said) > 8 and set(said) == {""}


def test_a_stream_whose_generator_is_lost_ends_with_an_error_event(service: tuple[str, Any]) -> None:
    url, process = service
    stream = events(url, 3000)
    seen = [next(stream) for _ in range(4)]
    for one in replicas(process, "Generator"):
        one.kill()
    seen += list(stream)
    assert seen[-1] == "data: [DONE]"
    assert seen[-2]["error"]["code"] == "restarting"
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in seen[:-2])
