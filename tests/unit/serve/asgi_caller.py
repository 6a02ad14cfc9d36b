"""Requests to an ASGI application as bytes and messages, and an application that does what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragray.serve.keys import ApiKey, KeyRing, hash_of, write_keys
from ragray.serve.limits import RequestContext

Header = tuple[bytes, bytes]
PARTS = (b'{"query": ', b'"x"}')


@dataclass
class Sent:
    """What a request got."""

    status: int = 0
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False

    def header(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key == name.encode()]

    @property
    def code(self) -> str:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


class Echo:
    """An application that reads the body, keeps the context, and answers; or does what it is told."""

    def __init__(self, act: Callable[[Receive, Send], Awaitable[None]] | None = None) -> None:
        self.contexts: list[RequestContext] = []
        self.cancelled = 0
        self._act = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.contexts.append(scope["state"]["ragray"])
        try:
            if self._act is not None:
                await self._act(receive, send)
                return
            while (await receive()).get("more_body", False):
                pass
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"ok"})
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def ask(
    app: ASGIApp,
    path: str = "/v1/search",
    headers: Sequence[Header] = (),
    parts: Sequence[bytes] = (b"",),
    method: str = "POST",
    stall: bool = False,
    deaf_to: bytes | None = None,
) -> Sent:
    """One request; with `stall` the last part of its body never comes.

    The client reads nothing more from a part on that begins with `deaf_to`: whatever is sent then waits for ever.
    """
    sent = Sent()
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if waiting and not stall:
        waiting[-1]["more_body"] = False

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    is_deaf = False

    async def send(message: Message) -> None:
        nonlocal is_deaf
        is_deaf = is_deaf or (deaf_to is not None and message.get("body", b"").startswith(deaf_to))
        if is_deaf:
            await asyncio.sleep(3600)
        if message["type"] == "http.response.start":
            assert not sent.status
            sent.status, sent.headers = message["status"], list(message["headers"])
        else:
            assert not sent.ended
            sent.body += message.get("body", b"")
            sent.ended = not message.get("more_body", False)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": list(headers)}
    await app(scope, receive, send)
    return sent


def request(app: ASGIApp, path: str = "/v1/search", **options: Any) -> Sent:
    return asyncio.run(ask(app, path, **options))


def bearer(secret: str) -> list[Header]:
    return [(b"authorization", f"Bearer {secret}".encode())]


def ring_in(folder: Path) -> KeyRing:
    """Keys named ann (user), sue (search) and old (revoked), each of which is its own secret."""
    file = folder / "keys.yaml"
    entries = {"ann": ("user", None), "sue": ("search", None), "old": ("user", "2026-01-01T00:00:00Z")}
    keys = [
        ApiKey.model_validate({"name": name, "role": role, "sha256": hash_of(name), "revoked": revoked})
        for name, (role, revoked) in entries.items()
    ]
    write_keys(file, keys)
    return KeyRing(file)


class Recorder:
    """Stands for the metrics: keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[tuple[str, int, str | None]] = []

    def begin(self, path: str) -> None:
        self.begun.append(path)

    def end(self, path: str, status: int, seconds: float, code: str | None = None) -> None:
        self.ended.append((path, status, code))


async def never(receive: Receive, send: Send) -> None:
    await asyncio.sleep(3600)
