"""HAProxy as `haproxy.sh` starts it: a request whose server is lost is asked again, and errors are those of the API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ragray.serve import throughput

# What Ray's template makes of ragray's settings, as far as it matters here.
CONFIG = """\
defaults
    mode http
    timeout connect 5s
    timeout client 3600s
    timeout server 60s
    option redispatch 1
    retry-on {retry_on}
    errorfile 503 /nowhere
    balance leastconn
frontend http_frontend
    bind 127.0.0.1:{front}
    default_backend all
backend all
    default-server fastinter 250ms downinter 250ms fall 2 rise 2 inter 60s check
    server first 127.0.0.1:{first} check observe layer4 error-limit {errors} on-error mark-down
    server spare 127.0.0.1:{spare} check backup
"""


class Server:
    """Answers requests with its name, and is gone without an answer at one that holds its `poison`, as by SIGKILL."""

    def __init__(self, name: str, poison: bytes) -> None:
        self._poison = poison
        self._answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while not data.endswith((b"}", b"GET")):
                if not (more := connection.recv(1 << 16)):
                    return
                data += more
            if self._poison in data:
                self.close()
            else:
                connection.sendall(self._answer)


@contextmanager
def in_front(folder: Path, first: int, spare: int) -> Iterator[int]:
    """The port of HAProxy in front of two servers."""
    given = throughput.settings(folder, 0.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        front = probe.getsockname()[1]
    settings = {
        "retry_on": given["RAY_SERVE_HAPROXY_RETRY_ON"],
        "errors": given["RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT"],
    }
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(front=front, first=first, spare=spare, **settings), encoding="utf-8")
    command = [str(throughput.WRAPPER), "-db", "-f", str(config)]
    process = subprocess.Popen(command, env={**os.environ, **given}, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while ask(front, b"{}")[0] != 200:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield front
    finally:
        process.kill()
        process.wait()


def ask(port: int, body: bytes, length: int | None = None) -> tuple[int, str]:
    """(status, body) of a request whose head and body are sent apart; `length`: what the head says."""
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(head.encode())
            time.sleep(0.01)
            connection.sendall(body)
            answer = connection.recv(1 << 16).decode()
    except ConnectionError:
        return 0, ""
    return int(answer.split()[1] if answer else 0), answer.partition("\r\n\r\n")[2]


def code(body: str) -> Any:
    return json.loads(body)["error"]["code"]


@pytest.mark.skipif(throughput.haproxy() is None, reason="no HAProxy")
def test_requests_survive_the_loss_of_a_server_and_late_ones_are_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, spare = Server("first", b"kill"), Server("spare", b"kill all")
        port = stack.enter_context(in_front(tmp_path, first.port, spare.port))
        assert ask(port, b'{"a": 1}') == (200, "first")
        status, body = ask(port, b'{"a"', length=50)
        assert (status, code(body)) == (408, "body_timeout")
        assert ask(port, b'{"kill": 1}') == (200, "spare")
        status, body = ask(port, b'{"kill all": 1}')
        assert (status, code(body)) == (503, "restarting")
