"""The guard over a small ASGI application: who passes, and what is refused before it is read."""

from __future__ import annotations

import asyncio

import pytest
from asgi_caller import (  # type: ignore[import-not-found]
    PARTS,
    Echo,
    Header,
    Recorder,
    Sent,
    ask,
    bearer,
    never,
    request,
)
from starlette.types import Message, Receive, Scope, Send

from ragray.config_limits import LimitsConfig
from ragray.serve.api import ApiError
from ragray.serve.guard import SECURITY_HEADERS, Guard, guarded
from ragray.serve.keys import KeyRing, hash_of
from ragray.serve.limits import Ledger, LocalAccounts, Quota, Refusal


def test_every_answer_has_the_security_headers_and_an_id() -> None:
    echo = Echo()
    sent = request(Guard(echo, LimitsConfig()))
    assert (sent.status, sent.body, sent.ended) == (200, b"ok", True)
    assert {name: sent.header(name) for name in SECURITY_HEADERS} == {
        name: [value] for name, value in SECURITY_HEADERS.items()
    }
    assert sent.header("x-request-id") == [echo.contexts[0].request_id]
    assert not [name for name, _ in sent.headers if name.startswith(b"access-control")]


def test_a_well_formed_id_is_kept_and_any_other_replaced() -> None:
    echo = Echo()
    guard = Guard(echo, LimitsConfig())
    assert request(guard, headers=[(b"x-request-id", b"job-7.a_B")]).header("x-request-id") == ["job-7.a_B"]
    for bad in (b"", b"a b", b"a\r\nset-cookie: x", b"\xff", b"x" * 129, b"<script>"):
        (made,) = request(guard, headers=[(b"x-request-id", bad)]).header("x-request-id")
        assert made.encode() != bad and len(made) == 32
    assert len({context.request_id for context in echo.contexts}) == 7


def test_an_id_that_the_proxy_sends_back_is_not_sent_twice() -> None:
    guard = Guard(Echo(), LimitsConfig(), echoes_id=True)
    assert request(guard, headers=[(b"x-request-id", b"abc")]).header("x-request-id") == []
    assert len(request(guard).header("x-request-id")) == 1


@pytest.mark.parametrize("secret", ["", "wrong", "old", hash_of("ann"), "ANN"])
def test_without_a_valid_key_nothing_is_read(ring: KeyRing, secret: str) -> None:
    echo = Echo()
    sent = request(Guard(echo, LimitsConfig(), ring), headers=bearer(secret), parts=PARTS)
    assert (sent.status, sent.code, echo.contexts) == (401, "invalid_api_key", [])
    assert sent.header("www-authenticate") == ["Bearer"]


def test_a_missing_key_is_the_same_as_a_wrong_one(ring: KeyRing) -> None:
    guard = Guard(Echo(), LimitsConfig(), ring)
    assert request(guard).body == request(guard, headers=bearer("wrong")).body


def test_a_key_opens_what_its_role_covers_and_is_named_in_the_context(ring: KeyRing) -> None:
    echo = Echo()
    guard = Guard(echo, LimitsConfig(), ring)
    assert request(guard, headers=bearer("sue")).status == 200
    assert echo.contexts[0].key_name == "sue"
    for path in ("/v1/chat/completions", "//v1/search", "/V1/search", "/v1/searching", "/x\0"):
        sent = request(guard, path, headers=bearer("sue"))
        assert (sent.status, sent.code) == (403, "permission_denied"), path
    assert request(guard, "/v1/chat/completions", headers=bearer("ann")).status == 200


def test_page_and_health_need_no_key_and_nothing_else_is_open(ring: KeyRing) -> None:
    guard = Guard(Echo(), LimitsConfig(), ring)
    for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz", "/openapi.json"):
        assert request(guard, path, method="GET").status == 200
    for path in ("", "//", "/healthz/", "/page.js/../v1/search", "/docs", "/v1", "/HEALTHZ", "/healthz\0"):
        assert request(guard, path, method="GET").status == 401, path


def test_the_path_is_read_below_the_application_s_prefix(ring: KeyRing) -> None:
    async def at(root: str, path: str) -> int:
        sent = Sent()

        async def send(message: Message) -> None:
            sent.status = message.get("status", sent.status)

        async def receive() -> Message:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": []}
        await Guard(Echo(), LimitsConfig(), ring, metrics=metrics)(scope, receive, send)
        return sent.status

    metrics = Recorder()

    assert asyncio.run(at("/faq", "/faq/healthz")) == 200
    assert asyncio.run(at("/faq", "/faq/v1/search")) == 401
    assert asyncio.run(at("/v1/search", "/v1/search/healthz")) == 200
    assert asyncio.run(at("/v1/sea", "/v1/search")) == 401
    assert metrics.begun == ["/healthz", "/v1/search", "/healthz", "/v1/search"]
    assert [path for path, _, _ in metrics.ended] == metrics.begun


def test_without_keys_whoever_asks_may() -> None:
    echo = Echo()
    assert request(Guard(echo, LimitsConfig())).status == 200
    assert echo.contexts[0].key_name is None


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([(b"content-length", b"101")], 413, "body_too_large"),
        ([(b"content-length", b"99999999999999999999")], 400, "invalid_header"),
        ([(b"content-length", b"-1")], 400, "invalid_header"),
        ([(b"content-length", b"+5")], 400, "invalid_header"),
        ([(b"content-length", b"5"), (b"content-length", b"5")], 400, "invalid_header"),
        ([(b"content-length", b"5"), (b"transfer-encoding", b"chunked")], 400, "invalid_header"),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")], 400, "invalid_header"),
        ([(b"x-request-timeout", b"0")], 400, "invalid_header"),
        ([(b"x-request-timeout", b"nan")], 400, "invalid_header"),
        ([(b"x-request-timeout", b"1e9")], 400, "invalid_header"),
        ([(b"x-request-timeout", b"-1")], 400, "invalid_header"),
        ([(f"x-{n}".encode(), b"") for n in range(65)], 431, "headers_too_large"),
        ([(b"cookie", b"x" * 16384)], 431, "headers_too_large"),
    ],
)
def test_heads_that_make_no_sense_are_refused_before_anything_is_read(
    headers: list[Header], status: int, code: str
) -> None:
    echo = Echo()
    sent = request(Guard(echo, LimitsConfig(max_body_bytes=100)), headers=headers)
    assert (sent.status, sent.code, echo.contexts) == (status, code, [])
    assert sent.header("connection") == (["close"] if status in (413, 431) else [])


def test_a_body_may_have_as_many_bytes_as_allowed_however_it_comes() -> None:
    from starlette.exceptions import HTTPException

    guard = Guard(Echo(), LimitsConfig(max_body_bytes=100))
    assert request(guard, parts=[b"x" * 50, b"x" * 50]).status == 200
    with pytest.raises(HTTPException) as caught:  # FastAPI turns it into an answer, see test_ingress
        request(guard, parts=[b"x" * 50, b"x" * 50, b"x"])
    assert caught.value.status_code == 413


def test_a_full_replica_refuses_at_once_and_stays_healthy() -> None:
    async def crowd() -> tuple[list[int], int, Sent]:
        held = asyncio.Event()

        async def wait(receive: Receive, send: Send) -> None:
            await held.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        guard = Guard(Echo(wait), LimitsConfig(max_open_requests=3))
        waiting = [asyncio.create_task(ask(guard)) for _ in range(3)]
        await asyncio.sleep(0)
        refused = await ask(guard)
        healthy = asyncio.create_task(ask(guard, "/healthz"))
        await asyncio.sleep(0)
        held.set()
        answered = [(await task).status for task in waiting]
        assert (await ask(guard)).status == 200  # there is room again
        return answered, (await healthy).status, refused

    answered, healthy, refused = asyncio.run(crowd())
    assert (answered, healthy, refused.status, refused.code) == ([200] * 3, 200, 503, "busy")
    assert refused.header("retry-after") == ["1"]


def test_probes_without_a_key_take_no_places(ring: KeyRing) -> None:
    async def crowd() -> int:
        guard = Guard(Echo(never), LimitsConfig(max_open_requests=1, deadline_s=0.1), ring)
        probes = [asyncio.create_task(ask(guard, "/readyz", method="GET")) for _ in range(5)]
        await asyncio.sleep(0)
        answered = await ask(guard, headers=bearer("ann"))
        await asyncio.gather(*probes)
        return int(answered.status)

    assert asyncio.run(crowd()) == 504  # it was let in, and took as long as the others


class CountedAccounts(LocalAccounts):
    """An account in this process whose calls are counted, and which may take its time."""

    def __init__(self, enter_s: float = 0.0) -> None:
        super().__init__(Ledger(60))
        self.calls: list[str] = []
        self._enter_s = enter_s

    async def enter(self, name: str, quota: Quota, lease: str) -> Refusal | None:
        self.calls.append("enter")
        refusal = await super().enter(name, quota, lease)
        await asyncio.sleep(self._enter_s)
        return refusal

    async def leave(self, name: str, lease: str) -> None:
        self.calls.append("leave")
        await super().leave(name, lease)


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        ({"tokens_per_minute": 9}, []),
        ({"requests_per_minute": 9}, ["enter"]),
        ({"concurrency": 1}, ["enter", "leave"]),
    ],
)
def test_only_what_is_limited_is_counted(limits: dict[str, int], calls: list[str]) -> None:
    accounts = CountedAccounts()
    assert request(Guard(Echo(), LimitsConfig(**limits), accounts=accounts)).status == 200
    assert accounts.calls == calls


def test_who_leaves_while_a_place_is_asked_for_gives_it_back() -> None:
    async def leave() -> Refusal | None:
        accounts, quota = CountedAccounts(enter_s=60), Quota(concurrency=1)
        task = asyncio.create_task(ask(Guard(Echo(), LimitsConfig(concurrency=1), accounts=accounts)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert accounts.calls == ["enter", "leave"]
        return await LocalAccounts.enter(accounts, "", quota, "another")

    assert asyncio.run(leave()) is None


def test_each_key_has_its_rate_and_its_places(ring: KeyRing) -> None:
    guard = Guard(Echo(), LimitsConfig(requests_per_minute=2, concurrency=1), ring)
    sent = [request(guard, headers=bearer(name)) for name in ("ann", "ann", "ann", "sue")]
    assert [each.status for each in sent] == [200, 200, 429, 200]
    assert sent[2].code == "rate_limited" and sent[2].header("retry-after") == ["30"]
    assert request(guard, "/healthz").status == 200


@pytest.mark.parametrize(("status", "refunded"), [(200, False), (400, True), (503, True), (504, False)])
def test_reserved_tokens_come_back_where_the_server_failed(status: int, refunded: bool) -> None:
    async def answer(receive: Receive, send: Send) -> None:
        await echo.contexts[-1].reserve("", 100)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    echo = Echo(answer)
    guard = Guard(echo, LimitsConfig(tokens_per_minute=100))
    assert request(guard).status == status
    assert asyncio.run(can_reserve(echo)) is refunded


async def can_reserve(echo: Echo) -> bool:
    try:
        await echo.contexts[0].reserve("", 100)
    except ApiError:
        return False
    return True


def test_a_websocket_is_closed_before_it_opens() -> None:
    echo, sent = Echo(), []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Guard(echo, LimitsConfig())({"type": "websocket", "path": "/v1/search"}, None, send))  # type: ignore
    assert sent == [{"type": "websocket.close", "code": 1008}] and echo.contexts == []


def test_starting_and_stopping_pass() -> None:
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    async def lifespan() -> None:
        await Guard(app, LimitsConfig())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    asyncio.run(lifespan())
    assert passed == ["lifespan"]


def test_only_named_pages_may_call() -> None:
    origin = (b"origin", b"https://intranet.example")
    asks = [(b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"authorization")]
    preflight = [origin, *asks]
    closed = guarded(Echo(), LimitsConfig())
    assert not [h for h in request(closed, headers=[origin]).headers if h[0].startswith(b"access-control")]
    named = guarded(Echo(), LimitsConfig(cors_origins=("https://Intranet.Example",)))
    sent = request(named, method="OPTIONS", headers=preflight)
    assert sent.status == 200 and sent.header("access-control-allow-origin") == ["https://intranet.example"]
    assert request(named, headers=[origin]).header("access-control-allow-origin") == ["https://intranet.example"]
    other = [(b"origin", b"https://evil.example"), *asks]
    assert request(named, method="OPTIONS", headers=other).header("access-control-allow-origin") == []
    assert request(named, headers=other[:1]).header("access-control-allow-origin") == []


def test_serve_finds_the_routes_behind_the_guard() -> None:
    echo = Echo()
    echo.routes = ["a route"]
    for origins in ((), ("https://intranet.example",)):
        assert guarded(echo, LimitsConfig(cors_origins=origins)).routes == ["a route"]  # type: ignore[attr-defined]
