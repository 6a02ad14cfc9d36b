"""A served application with keys and narrow limits, attacked over the wire: nothing gives 500, nothing leaks."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_service import QUESTION, args_for, free_port  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.config import ServeConfig
from ragray.config_limits import LimitsConfig
from ragray.serve.keys import ApiKey, hash_of, read_keys, write_keys

CHAT = "/v1/chat/completions"
SECRETS = {"ann": "rk-MARKann", "sue": "rk-MARKsue", "eve": "rk-MARKeve", "tim": "rk-MARKtim", "old": "rk-MARKold"}
BODY_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    more: dict[str, dict[str, Any]] = {
        "sue": {"role": "search"}, "tim": {"requests_per_minute": 3}, "old": {"revoked": "2026-01-01T00:00:00Z"},
    }  # fmt: skip
    write_keys(file, [ApiKey(name=n, sha256=hash_of(secret), **more.get(n, {})) for n, secret in SECRETS.items()])
    return file


@pytest.fixture(scope="module")
def base(ray_local: None, artifacts: dict[str, Artifact], keys_file: Path) -> Iterator[str]:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from ragray.serve.app import build

    port = free_port()
    limits = LimitsConfig(keys_file=str(keys_file), body_timeout_s=BODY_TIMEOUT_S, max_body_bytes=100_000)
    settings = ServeConfig(max_new_tokens=4000, max_question_chars=50_000, limits=limits)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    args = args_for(artifacts, serve=settings.model_dump(exclude={"host", "port"}))
    serve.run(build(args), name="ragray", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


def ask(base: str, name: str = "ann", **more: Any) -> httpx.Response:
    headers = bearer(name) | more.pop("headers", {})
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, "cache": False, **more}
    return httpx.post(base + CHAT, json=body, headers=headers, timeout=60)


def code_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text and "/ragray/" not in response.text
    return str(error["code"])


def still_answers(base: str) -> None:
    assert ask(base).status_code == 200


def raw(base: str, request: bytes, silence_s: float = 0.7) -> bytes:
    """What the server sends back for these bytes, until it closes or is silent."""
    host, port = base.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(request)
            connection.settimeout(silence_s)
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionError):
            pass
    return received


def statuses(received: bytes) -> list[int]:
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split()[1]) for line in lines]


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer rk-wrong"}, bearer("old"), {"authorization": "Basic YTpi"}],
    ids=["none", "wrong", "revoked", "basic"],
)
def test_without_a_valid_key_nothing_answers(base: str, headers: dict[str, str]) -> None:
    for method, path in (("POST", CHAT), ("POST", "/v1/search"), ("GET", "/v1/models"), ("GET", "/nowhere")):
        response = httpx.request(method, base + path, headers=headers)
        assert code_of(response, 401) == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    assert httpx.get(base + "/healthz").status_code == 200


def test_a_key_of_another_role_may_not_ask(base: str) -> None:
    assert code_of(ask(base, "sue"), 403) == "permission_denied"
    assert httpx.post(base + "/v1/search", json={"query": "install"}, headers=bearer("sue")).status_code == 200


def test_a_key_revoked_while_serving_stops_working(base: str, keys_file: Path) -> None:
    assert ask(base, "eve").status_code == 200
    revoked = [k.model_copy(update={"revoked": "now"}) if k.name == "eve" else k for k in read_keys(keys_file)]
    write_keys(keys_file, revoked)
    deadline = time.monotonic() + 20
    while ask(base, "eve").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert code_of(ask(base, "eve"), 401) == "invalid_api_key"
    still_answers(base)


def test_a_key_s_rate_is_told_in_whole_seconds(base: str) -> None:
    responses = [httpx.get(base + "/v1/models", headers=bearer("tim")) for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 200, 200, 429]
    assert code_of(responses[3], 429) == "rate_limited"
    assert 1 <= int(responses[3].headers["retry-after"]) <= 20  # three a minute: one in 20 s
    still_answers(base)


def test_an_answer_carries_one_id_and_the_security_headers(base: str) -> None:
    for headers in ({}, {"x-request-id": "job-7"}):
        response = httpx.get(base + "/v1/models", headers=bearer("ann") | headers)
        assert len(response.headers.get_list("x-request-id")) == 1
        assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-request-id"] == "job-7"
    refused = httpx.get(base + "/v1/models")
    assert refused.headers["x-request-id"] and refused.headers["content-security-policy"]


def test_large_bodies_are_refused_declared_or_not(base: str) -> None:
    headers = bearer("ann") | {"content-type": "application/json"}
    large = b'{"query": "' + b"x" * 200_000 + b'"}'
    assert code_of(httpx.post(base + "/v1/search", content=large, headers=headers), 413) == "body_too_large"
    parts = (large[at : at + 1000] for at in range(0, len(large), 1000))
    assert code_of(httpx.post(base + "/v1/search", content=parts, headers=headers), 413) == "body_too_large"
    still_answers(base)


def test_a_body_that_drips_is_not_waited_for(base: str) -> None:
    head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['ann']}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    received = raw(base, head.encode() + b'{"query"', silence_s=20)  # until it is closed
    assert statuses(received) == [408] and b"body_timeout" in received
    still_answers(base)


@pytest.mark.parametrize("flood", [
    b"".join(b"X-%d: 1\r\n" % n for n in range(100)),
    b"".join(b"X-%d: 1\r\n" % n for n in range(5000)),
    b"Cookie: " + b"x" * 20_000 + b"\r\n",
    b"Cookie: " + b"x" * 300_000 + b"\r\n",
    b"X" * 70_000 + b": 1\r\n",
], ids=["100 headers", "5000 headers", "20 kB", "300 kB", "long name"])  # fmt: skip
def test_floods_of_headers_are_refused(base: str, flood: bytes) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRETS["ann"].encode() + b"\r\n"
    found = statuses(raw(base, head + flood + b"\r\n"))
    assert not found or found[0] in (400, 413, 431)  # or it hung up
    still_answers(base)


@pytest.mark.parametrize("path", [
    "/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "//v1//models", "/v1%2fmodels", "/v1/models/..%2f..%2fetc",
    "/%00", "/v1/models/%00", "/v1/models/%ff%fe", "/page.js%00.html", "/page.js/../healthz", "/.%2e/", "/;/v1/models",
    "/v1/models;x=1", "/v1\\models", "/healthz/..%2f/v1/models", "/%252e%252e/", "/v1/models/" + "a" * 5000,
    "/v1/models?" + "a=1&" * 2000, "http://evil.example/v1/models", "*", "/-/healthz", "/-/routes",
])  # fmt: skip
@pytest.mark.parametrize("key", ["", SECRETS["sue"]], ids=["no key", "search"])
def test_tricks_with_paths_open_nothing(base: str, path: str, key: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    received = raw(base, head.encode("latin-1"))
    (status,) = statuses(received) or [400]  # or it hung up
    assert status < 500 and b"root:" not in received and b"Traceback" not in received
    if not key and "models" in path:
        assert status != 200 and b'"owned_by"' not in received


@pytest.mark.parametrize("body", [
    b"[" * 40_000, b'{"query":' * 9000 + b"1" + b"}" * 9000, b'{"a":' * 15_000,
    b'{"query": ' + b"9" * 50_000 + b"}", b'{"query": "x", "top_k": 1e999999}',
    b'{"query": "x", "top_k": ' + b"9" * 5000 + b"}", b'{"query": "x", "top_k": NaN}',
    b'{"query": "x", "top_k": Infinity}', b'{"query": "x", "query": 3}', b'{"top_k": 3, "top_k": 0, "query": "x"}',
    b"\xff\xfe", b'{"query": "\xc0\xaf"}', b'{"query": "\xed\xa0\x80"}', b'{"query": "\\ud800"}',
    b'\x00{"query": "x"}', b"",
    b'{"query": "\\u0000"}', b'{"query": "x", "' + b"k" * 50_000 + b'": 1}', b'{"query": true}', b'{"query": [[]]}',
    b'\xef\xbb\xbf{"query": 1}', b'{"query": "x"}{"query": "y"}', '{"query": "x"}'.encode("utf-16"),
], ids=range(23))  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/search"])
def test_bombs_in_json_are_refused_or_answered(base: str, path: str, body: bytes) -> None:
    headers = bearer("ann") | {"content-type": "application/json"}
    response = httpx.post(base + path, content=body, headers=headers, timeout=30)
    assert response.status_code in (200, 400), response.text
    assert "Traceback" not in response.text
    assert response.status_code == 200 or len(response.text) < 2000  # what was sent is not sent back


def test_the_last_of_two_equal_names_counts_and_is_checked(base: str) -> None:
    headers = bearer("ann") | {"content-type": "application/json"}
    twice = b'{"query": "install", "top_k": 1, "top_k": 0}'
    assert code_of(httpx.post(base + "/v1/search", content=twice, headers=headers), 400) == "invalid_value"


def test_prompts_of_ten_thousand_tokens_are_the_caller_s_fault(base: str) -> None:
    question = f"{QUESTION} " + "install ragray " * 2000  # a token a letter
    long = {"messages": [{"role": "user", "content": question}]}
    assert code_of(ask(base, **long), 400) == "context_length_exceeded"
    assert code_of(ask(base, stream=True, **long), 400) == "context_length_exceeded"
    many = {"messages": [{"role": "user", "content": "x"}] * 1000 + [{"role": "user", "content": QUESTION}]}
    assert ask(base, **many).status_code in (200, 400)
    still_answers(base)


def active(base: str) -> float:
    from ray import serve

    return float(serve.get_deployment_handle("Generator", "ragray").stats.remote().result()["active"])


def wait_until_idle(base: str) -> None:
    deadline = time.monotonic() + 30
    while active(base) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert active(base) == 0


def test_streams_that_are_opened_and_left_cost_nothing_for_long(base: str) -> None:
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 4000,
        "temperature": 1.0,
        "stream": True,
        "cache": False,
    }
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['ann']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    host, port = base.removeprefix("http://").split(":")
    for _ in range(12):  # some are read from, some are not
        connection = socket.create_connection((host, int(port)), timeout=20)
        connection.sendall(head.encode() + content)
        if _ % 3 == 0:
            connection.recv(100)
        connection.close()
    wait_until_idle(base)
    still_answers(base)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_deadline_stops_the_engine(base: str, stream: bool) -> None:
    response = ask(base, max_tokens=4000, temperature=1.0, stream=stream, headers={"x-request-timeout": "0.7"})
    if stream and response.status_code == 200:
        *_, error, done = [part for part in response.text.split("\n\n") if part]
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert done == "data: [DONE]"
    else:
        assert code_of(response, 504) == "deadline_exceeded"
    wait_until_idle(base)


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\n\r\n"


@pytest.mark.parametrize("framing", [
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
    b"Content-Length: 2, 60\r\n\r\n{}",
    b"Content-Length: +2\r\n\r\n{}",
    b"Content-Length: 0x2\r\n\r\n{}",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 99999999999999999999\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"X: a\r\n Content-Length: 2\r\n\r\n{}",
    b"X: a\rContent-Length: 2\r\n\r\n{}",
    b"X: \x00\r\nContent-Length: 2\r\n\r\n{}",
], ids=range(18))  # fmt: skip
def test_ambiguous_framing_smuggles_no_answer_past_the_keys(base: str, framing: bytes) -> None:
    head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['ann']}\r\n".encode()
    received = raw(base, head + b"Content-Type: application/json\r\n" + framing + SMUGGLED)
    found = statuses(received)
    assert all(status < 500 for status in found), received[:500]
    assert b'"owned_by"' not in received  # what was smuggled brings no key
    still_answers(base)


def logs() -> Path:
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"  # type: ignore[attr-defined]


def test_no_log_of_the_session_holds_a_question_an_answer_or_a_key(base: str) -> None:
    mark, request_id = "MARKquestion", "MARK-free-id-4711"
    headers = {"x-request-id": request_id, "cookie": "MARKcookie"}
    response = ask(base, messages=[{"role": "user", "content": f"{QUESTION} {mark}"}], headers=headers)
    answer = response.json()["choices"][0]["message"]["content"]
    httpx.get(f"{base}/v1/models?MARKquery=1", headers={"authorization": "Bearer MARKwrong"})
    code_of(ask(base, temperature="MARKvalue"), 400)
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while not lines and time.monotonic() < deadline:
        time.sleep(0.2)
        texts = [path.read_text(errors="replace") for path in logs().glob("serve/replica_*Ingress*")]
        found = [line for text in texts for line in text.splitlines() if request_id in line and '"key"' in line]
        lines = [json.loads(line) for line in found]
    (line,) = lines
    assert (line["request_id"], line["key"], line["path"], line["status"]) == (request_id, "ann", CHAT, 200)
    assert line["completion_tokens"] == 8 and line["prompt_tokens"] > 0 and line["ms"] > 0
    for path in (path for path in logs().rglob("*") if path.is_file()):
        content = path.read_bytes()
        for secret in (mark, answer, *SECRETS.values(), "MARKwrong", "MARKcookie", "MARKvalue", "MARKquery"):
            assert secret.encode() not in content, f"{path.name}: {secret}"
