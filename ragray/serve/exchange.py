"""One HTTP request and its answer as the guard sees them pass: bytes, status, time.

In: ASGI messages. Out: the same, counted and marked; an error in place of an answer that may not or cannot be given.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragray.serve.api import ApiError

_LAST_WORDS_S = 1.0  # for what is sent to a client that may not be reading


class Exchange:
    """One request and its answer: counts what comes in, marks what goes out, and keeps the clock.

    A client that does not read is left: what is still to be told to it then waits for a second at most.
    """

    __slots__ = (
        "_allowed_s", "_arriving", "_begun", "_headers", "_max_bytes", "_receive", "_received", "_scope", "_send",
        "_streams", "_timer", "_wait_s", "code", "complete", "status",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, headers: list[tuple[bytes, bytes]], max_bytes: int
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._headers = headers
        self._max_bytes = max_bytes
        self._received = 0
        self._arriving = False  # the body is not whole yet
        self._streams = False
        self.status = 0  # of the answer, once it begins
        self.complete = False  # the answer was sent whole
        self.code: str | None = None  # of the error that an answer which had begun ended with

    def allow(self, allowed_s: float, body_s: float | None) -> None:
        """Set how long the answer may take, seconds, and how much of it the body; None: there is no body."""
        self._allowed_s = allowed_s
        self._wait_s = allowed_s if body_s is None else min(allowed_s, body_s)
        self._arriving = body_s is not None

    async def run(self, app: ASGIApp) -> None:
        """Let `app` answer; what it does is cancelled when the time is over.

        Raises:
            ApiError: 408 or 504, the time was over before an answer began.
        """
        self._begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(self._begun + self._wait_s) as self._timer:
                await app(self._scope, self.receive, self.send)
        except TimeoutError:
            if not self._timer.expired():
                raise
            await self._give_up()

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
            HTTPException: 413, it is too large.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._max_bytes:
                raise HTTPException(413, f"the body is larger than {self._max_bytes} bytes")
            if self._arriving and not message.get("more_body", False):
                self._arriving = False
                if not self._timer.expired() and self._wait_s < self._allowed_s:
                    self._timer.reschedule(self._begun + self._allowed_s)
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._streams = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"]
            )
            message = {**message, "headers": [*message["headers"], *self._headers]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send(message)
            self.complete = True
            return
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error; the connection closes where a body may still be on its way."""
        headers = {}
        if error.retry_after_s is not None:
            headers["retry-after"] = str(error.retry_after_s)
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        if error.status in (408, 413, 431):
            headers["connection"] = "close"
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await JSONResponse(error.body(), error.status, headers)(self._scope, self._receive, self.send)

    async def _give_up(self) -> None:
        """End what took too long, as far as its answer has come."""
        if self.complete:
            return
        if not self.status:
            if self._arriving:
                raise ApiError(408, f"the body took longer than {self._wait_s:g} s", code="body_timeout")
            raise self._late()
        self.code = self._late().code
        if self._streams:
            event = f"data: {json.dumps(self._late().body(), separators=(',', ':'))}\n\ndata: [DONE]\n\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self.send({"type": "http.response.body", "body": event.encode(), "more_body": False})

    def _late(self) -> ApiError:
        return ApiError(504, f"the answer took longer than {self._allowed_s:g} s", code="deadline_exceeded")
