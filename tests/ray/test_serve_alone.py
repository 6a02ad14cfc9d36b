"""`ragray serve` with a Ray of its own, as users run it: HAProxy in front, no HTTP of Serve beyond loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from own_ray import replicas, served_alone  # type: ignore[import-not-found]
from small_service import QUESTION, ask, renewed  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.serve.artifacts import Served

SWAP = """
import json, sys
from ragray.serve.artifacts import Served
from ragray.serve.running import join_service
from ragray.serve.swap import swap
join_service(int(sys.argv[2]))
swap(lambda parts: Served(**json.loads(sys.argv[1])), None, 60.0, print)
"""
LOOPBACK = ("127.0.0.1", "::1")


@pytest.fixture(scope="module")
def service(artifacts: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """(where it answers, its process)."""
    with served_alone(artifacts, tmp_path_factory.mktemp("alone")) as running:
        yield running


def listening(process: Any) -> list[tuple[psutil.Process, str, int]]:
    """(process, address, port) of every listening socket of the service's processes."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            sockets = child.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        found += [(child, one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN]
    return found


def speaks_http(port: int) -> bool:
    """Whether something answers HTTP/1.1 there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/")
    except OSError:
        return False


def test_http_is_on_loopback_only_whatever_stands_in_front(service: tuple[str, Any]) -> None:
    url, process = service
    port = int(url.rsplit(":", 1)[1])
    sockets = listening(process)
    of_serve = [one for one in sockets if "haproxy" in one[0].name() or "Serve" in one[0].name()
                or "Proxy" in one[0].name()]  # fmt: skip
    assert any(place == port and "haproxy" in owner.name() for owner, _, place in of_serve), of_serve
    haproxy = [(address, place) for owner, address, place in of_serve if "haproxy" in owner.name()]
    assert len(haproxy) >= 3 and all(address in LOOPBACK for address, _ in haproxy), haproxy
    http = {(address, place) for _, address, place in of_serve if speaks_http(place)}
    assert len(http) >= 4, http  # the front, its statistics and metrics, the ingress; Serve's proxy for starting up
    assert all(address in LOOPBACK for address, _ in http), http
    others = {place for _, address, place in of_serve if address not in LOOPBACK}
    assert others  # Ray's own gRPC, which wants a token


def test_it_answers_searches_and_streams_through_haproxy(service: tuple[str, Any]) -> None:
    url, _ = service
    assert httpx.get(f"{url}/readyz").json()["status"] == "ready"
    found = httpx.post(f"{url}/v1/search", json={"query": "训练模型"}).json()
    assert found["hits"][0]["doc_id"] == "train-1"
    whole, streamed = ask(url, cache=False), ask(url, cache=False, stream=True)
    lines = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    pieces = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1]]
    assert "".join(pieces) == whole.json()["choices"][0]["message"]["content"] != ""
    refused = httpx.post(f"{url}/v1/search", content=b"x" * ((1 << 20) + 1))
    assert refused.status_code in (400, 413)
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_pieces_of_a_stream_come_while_it_is_written(service: tuple[str, Any]) -> None:
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 3000,
        "temperature": 1.0,
        "stream": True,
        "cache": False,
    }
    with httpx.stream("POST", f"{service[0]}/v1/chat/completions", json=body, timeout=60) as response:
        reads = sum(1 for _, _ in zip(response.iter_raw(), range(5), strict=False))
    assert reads == 5  # neither HAProxy nor Serve keeps the whole


def test_another_terminal_finds_the_service_by_its_port_and_swaps(
    service: tuple[str, Any], artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    url, _ = service
    index = renewed(tmp_path)
    served = asdict(Served.of(index["index"], index["calibrate"], artifacts["engine"]))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", SWAP, json.dumps(served), url.rsplit(":", 1)[1]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and "release 2 answers: index" in done.stdout, done.stdout + done.stderr
    assert httpx.get(f"{url}/readyz").json()["release"] == 2
    assert ask(url, cache=False).json()["lineage"] == served["lineage"]


def test_an_ingress_that_is_killed_comes_back(service: tuple[str, Any]) -> None:
    url, process = service
    (ingress,) = replicas(process, "Ingress")
    ingress.kill()
    deadline = time.monotonic() + 120
    statuses = set()
    while True:
        try:
            response = httpx.post(f"{url}/v1/search", json={"query": "ragray"}, timeout=30)
        except httpx.TransportError:
            response = None
        if response is not None:
            statuses.add(response.status_code)
            if response.status_code == 200 and not ingress.is_running():
                break
        assert time.monotonic() < deadline, statuses
        time.sleep(0.2)


def test_a_service_that_is_killed_frees_its_port(service: tuple[str, Any]) -> None:
    url, process = service
    port = int(url.rsplit(":", 1)[1])
    assert speaks_http(port)
    process.kill()
    deadline = time.monotonic() + 60
    while speaks_http(port):  # HAProxy, which nobody would end if it did not end itself
        assert time.monotonic() < deadline
        time.sleep(0.2)
