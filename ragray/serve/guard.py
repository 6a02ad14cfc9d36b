"""The guard before the door: every request passes here before anything reads it.

In: HTTP requests. Out: those that may pass, with a `RequestContext` in `scope["state"]["ragray"]`; the others are
answered here, in OpenAI's shape: by key, account, size and speed of the body, size of the headers, deadline. One plain
ASGI layer around the whole application, so that its headers, its log and its clock also hold for what fails inside.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ragray.config_limits import LimitsConfig
from ragray.serve.api import ApiError
from ragray.serve.exchange import Exchange
from ragray.serve.keys import ApiKey, KeyRing, bearer
from ragray.serve.limits import Accounts, Ledger, LocalAccounts, Quota, RequestContext, lease_s
from ragray.serve.logs import LEFT, RequestLog
from ragray.serve.metrics import ServingMetrics
from ragray.serve.page_files import PUBLIC

REQUEST_ID = "x-request-id"
TIMEOUT = "x-request-timeout"
EXPOSED = ("retry-after", "x-ragray-cache", REQUEST_ID)
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_EXTRA = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_READ = frozenset({b"authorization", b"content-length", b"transfer-encoding", b"x-request-id", b"x-request-timeout"})
_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_SECONDS = re.compile(rb"\d{1,6}(?:\.\d{1,6})?\Z")
_LENGTH = re.compile(rb"\d{1,18}\Z")
_BUSY_S = 1  # after which a place in the replica may be free

logger = logging.getLogger("ray.serve")


def guarded(
    app: ASGIApp,
    limits: LimitsConfig,
    accounts: Accounts | None = None,
    echoes_id: bool = False,
    metrics: ServingMetrics | None = None,
) -> ASGIApp:
    """`app` behind a guard, with the keys of the limits' file, and open to the pages that the limits name.

    Raises:
        ConfigError: the keys file cannot be used.
    """
    keys = None if limits.keys_file is None else KeyRing(Path(limits.keys_file), complain=logger.error)
    guard = Guard(app, limits, keys, accounts, echoes_id, metrics)
    if not limits.cors_origins:
        return guard
    asked = ("authorization", "content-type", REQUEST_ID, TIMEOUT)
    named = CORSMiddleware(
        guard, limits.cors_origins, allow_methods=("GET", "POST"), allow_headers=asked, expose_headers=EXPOSED
    )
    named.routes = guard.routes  # type: ignore[attr-defined]  # Serve looks for them on what it is given
    return named


class Guard:
    """An ASGI application that lets through to another what may pass.

    Args:
        app: the application behind it.
        limits: what may pass.
        keys: those that open it; None: no key is asked for.
        accounts: where requests and tokens are counted; by default in this process.
        echoes_id: the server in front of it sends the request's x-request-id back itself, as Ray Serve's proxy does.
        metrics: where requests are counted; None: nowhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitsConfig,
        keys: KeyRing | None = None,
        accounts: Accounts | None = None,
        echoes_id: bool = False,
        metrics: ServingMetrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._app = app
        self._limits = limits
        self._keys = keys
        self._accounts = accounts or LocalAccounts(Ledger(lease_s(limits)))
        self._echoes_id = echoes_id
        self._anyone = Quota.of(None, limits)
        self._log = RequestLog(limits.log_requests, limits.log_prompts)
        self._open = 0
        self.routes = getattr(app, "routes", [])  # Serve names requests in its metrics by them

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":  # nothing behind the guard speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        path = _path(scope)
        context, exchange = self._begin(scope, receive, send)
        if self._metrics is not None:
            self._metrics.begin(path)
        try:
            await self._answer(scope, path, context, exchange)
        except ApiError as error:
            context.code = error.code
            await exchange.refuse(error)
        finally:
            context.code = context.code or exchange.code
            status = exchange.status or LEFT
            # who left, or asked for too short a time, made the engine work
            if context.reserved and status >= 400 and status not in (LEFT, 504):
                await context.refund()
            duration_ms = (time.perf_counter() - begun) * 1e3
            if self._metrics is not None:
                self._metrics.end(path, status, duration_ms / 1e3, context.code)
            self._log.write(context, scope["method"], scope["path"], status, duration_ms, exchange.complete)

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> tuple[RequestContext, Exchange]:
        """The request's identity; who it is is not known yet."""
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        given = _ID.match(asked) is not None
        context = RequestContext(None, asked.decode() if given else uuid.uuid4().hex)
        context.trace_id = scope.get("ragray.trace_id")
        scope.setdefault("state", {})["ragray"] = context
        headers = _EXTRA
        if not (given and self._echoes_id):
            headers = [*_EXTRA, (b"x-request-id", context.request_id.encode())]
        return context, Exchange(scope, receive, send, headers, self._limits.max_body_bytes)

    async def _answer(self, scope: Scope, path: str, context: RequestContext, exchange: Exchange) -> None:
        """Check the request, take its place, and pass it on until its deadline.

        Raises:
            ApiError: it may not pass.
        """
        head = read_head(scope["headers"], self._limits)
        key = self._identify(head, path, context)
        body_bytes = _declared_length(head, self._limits)
        allowed_s = min(self._limits.deadline_s, _asked_timeout_s(head) or self._limits.deadline_s)
        exchange.allow(allowed_s, self._limits.body_timeout_s if body_bytes else None)
        if path in PUBLIC:
            await exchange.run(self._app)
            return
        if self._open >= self._limits.max_open_requests:
            raise ApiError(503, "the server is busy; try again", code="busy", retry_after_s=_BUSY_S)
        context.quota = self._anyone if key is None else Quota.of(key, self._limits)
        if context.quota.limits_something:
            context.accounts = self._accounts
        self._open += 1
        try:
            await self._let_in(context, exchange)
        finally:
            self._open -= 1

    async def _let_in(self, context: RequestContext, exchange: Exchange) -> None:
        """Pass the request on, unless its account has no place for it.

        Raises:
            ApiError: 429, it has none; 503, the account cannot be reached.
        """
        quota, name = context.quota, context.account
        if not quota.limits_requests:
            await exchange.run(self._app)
            return
        lease, refusal = uuid.uuid4().hex, None
        try:
            if (refusal := await self._accounts.enter(name, quota, lease)) is None:
                await exchange.run(self._app)
        finally:  # also where the caller left before it was known whether there is a place
            if quota.concurrency is not None and refusal is None:
                await self._accounts.leave(name, lease)
        if refusal is not None:
            raise refusal.error()

    def _identify(self, head: dict[bytes, bytes], path: str, context: RequestContext) -> ApiKey | None:
        """The caller's key, noted in the context; None where none is asked for.

        Raises:
            ApiError: 401 without a valid key, 403 where its role does not cover the path.
        """
        if self._keys is None or path in PUBLIC:
            return None
        secret = bearer(head.get(b"authorization", b""))
        key = self._keys.find(secret) if secret is not None else None
        if key is None:
            raise ApiError(401, "send a valid API key: Authorization: Bearer KEY", code="invalid_api_key")
        context.key_name = key.name
        if not key.may_call(path):
            raise ApiError(403, f"a key of the role {key.role} may not call this", code="permission_denied")
        return key


def read_head(headers: Iterable[tuple[bytes, bytes]], limits: LimitsConfig) -> dict[bytes, bytes]:
    """The headers that the guard reads.

    Raises:
        ApiError: 431, they are too many or too large; 400, one that must stand once stands twice.
    """
    found: dict[bytes, bytes] = {}
    count = total = 0
    for name, value in headers:
        count += 1
        total += len(name) + len(value)
        if name in _READ:
            if name in found:
                raise ApiError(400, f"the header {name.decode()} stands twice; send it once", code="invalid_header")
            found[name] = value
    if count > limits.max_headers:
        raise ApiError(431, f"{count} headers; send at most {limits.max_headers}", code="headers_too_large")
    if total > limits.max_header_bytes:
        message = f"the headers take {total} bytes; send at most {limits.max_header_bytes}"
        raise ApiError(431, message, code="headers_too_large")
    return found


def _path(scope: Scope) -> str:
    """The path as the router reads it: below the prefix that the application is mounted at."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        return path[len(root) :]
    return path


def _declared_length(head: dict[bytes, bytes], limits: LimitsConfig) -> int:
    """Bytes of the body that is to come, 1 where that is not said; 0: there is none.

    Raises:
        ApiError: 413, it is too large; 400, the headers contradict each other.
    """
    length = head.get(b"content-length")
    if length is None:
        return 1 if b"transfer-encoding" in head else 0
    if b"transfer-encoding" in head:
        raise ApiError(400, "send Content-Length or Transfer-Encoding, not both", code="invalid_header")
    if not _LENGTH.match(length):
        raise ApiError(400, "Content-Length is no number of bytes", code="invalid_header")
    if int(length) > limits.max_body_bytes:
        raise ApiError(413, f"the body is larger than {limits.max_body_bytes} bytes", code="body_too_large")
    return int(length)


def _asked_timeout_s(head: dict[bytes, bytes]) -> float | None:
    """What the caller will wait, seconds.

    Raises:
        ApiError: 400, it is no time.
    """
    value = head.get(b"x-request-timeout")
    if value is None:
        return None
    if not _SECONDS.match(value) or float(value) == 0:
        raise ApiError(400, f"{TIMEOUT}: send seconds above 0, such as 2.5", param=TIMEOUT, code="invalid_header")
    return float(value)
