"""The guard's clock and its log: slow bodies, late answers, and one line for each request."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from asgi_caller import (  # type: ignore[import-not-found]
    PARTS,
    Echo,
    Header,
    Recorder,
    ask,
    bearer,
    never,
    request,
)
from starlette.types import Receive, Send

from ragray.config_limits import LimitsConfig
from ragray.serve.guard import Guard
from ragray.serve.keys import KeyRing


def test_a_body_that_does_not_end_is_not_waited_for() -> None:
    echo = Echo()
    guard = Guard(echo, LimitsConfig(body_timeout_s=0.05))
    for headers in ([(b"content-length", b"50")], [(b"transfer-encoding", b"chunked")]):
        sent = request(guard, headers=headers, parts=PARTS, stall=True)
        assert (sent.status, sent.code, sent.header("connection")) == (408, "body_timeout", ["close"])
    assert echo.cancelled == 2


def test_once_the_body_is_there_its_time_no_longer_counts() -> None:
    async def slow(receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    guard = Guard(Echo(slow), LimitsConfig(body_timeout_s=0.05))
    assert request(guard, headers=[(b"content-length", b"14")], parts=PARTS).status == 200


@pytest.mark.parametrize("headers", [[], [(b"x-request-timeout", b"0.05")]], ids=["server's", "caller's"])
def test_an_answer_that_takes_too_long_is_cancelled(headers: list[Header]) -> None:
    echo = Echo(never)
    guard = Guard(echo, LimitsConfig(deadline_s=60 if headers else 0.05))
    sent = request(guard, headers=headers)
    assert (sent.status, sent.code, sent.ended, echo.cancelled) == (504, "deadline_exceeded", True, 1)


def test_a_caller_cannot_wait_longer_than_the_server() -> None:
    sent = request(Guard(Echo(never), LimitsConfig(deadline_s=0.05)), headers=[(b"x-request-timeout", b"3600")])
    assert sent.status == 504


async def endless(receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
    await asyncio.sleep(3600)


def test_a_stream_that_takes_too_long_ends_with_an_error_event(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve.requests")
    echo, metrics = Echo(endless), Recorder()
    sent = request(Guard(echo, LimitsConfig(deadline_s=0.05), metrics=metrics))
    first, error, done, rest = sent.body.decode().split("\n\n")
    assert (sent.status, sent.ended, first, done, rest) == (200, True, "data: {}", "data: [DONE]", "")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert echo.cancelled == 1
    assert metrics.ended == [("/v1/search", 200, "deadline_exceeded")]
    assert [line["code"] for line in records(caplog)] == ["deadline_exceeded"]


@pytest.mark.parametrize(
    ("act", "deaf_to"),
    [(endless, b"data: {}"), (endless, b'data: {"error"'), (never, b"")],
    ids=["a stream", "its last event", "a refusal"],
)
def test_who_does_not_read_keeps_no_place(act: Any, deaf_to: bytes) -> None:
    async def one_after_another() -> tuple[float, int]:
        guard = Guard(Echo(act), LimitsConfig(deadline_s=0.05, max_open_requests=1))
        begun = asyncio.get_running_loop().time()
        await asyncio.wait_for(ask(guard, deaf_to=deaf_to), 20)
        took_s = asyncio.get_running_loop().time() - begun
        return took_s, (await ask(guard)).status

    took_s, status = asyncio.run(one_after_another())
    assert took_s < 10 and status in (200, 504)


def test_a_timeout_of_the_application_s_own_is_not_the_guard_s() -> None:
    async def fail(receive: Receive, send: Send) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        request(Guard(Echo(fail), LimitsConfig()))


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__ for record in caplog.records if record.name == "ray.serve.requests"]


@pytest.mark.parametrize(("which", "statuses"), [("all", [200, 401]), ("failed", [401]), ("none", [])])
def test_a_request_is_one_line_without_what_it_said(
    ring: KeyRing, caplog: pytest.LogCaptureFixture, which: Any, statuses: list[int]
) -> None:
    caplog.set_level(logging.INFO, "ray.serve.requests")
    guard = Guard(Echo(), LimitsConfig(log_requests=which), ring)
    request(guard, headers=[*bearer("ann"), (b"x-request-id", b"one")], parts=[b"MARK-body"])
    request(guard, headers=[*bearer("MARK-key"), (b"x-mark", b"MARK-header")])
    lines = records(caplog)
    assert [line["status"] for line in lines] == statuses
    assert "MARK" not in repr(lines)
    if which == "all":
        line = lines[0]
        assert (line["request_id"], line["key"], line["method"], line["path"]) == ("one", "ann", "POST", "/v1/search")
        assert line["complete"] and line["ms"] > 0


@pytest.mark.parametrize("asked", [False, True])
def test_question_and_answer_are_logged_only_when_asked_for(caplog: pytest.LogCaptureFixture, asked: bool) -> None:
    caplog.set_level(logging.INFO, "ray.serve.requests")

    async def answer(receive: Receive, send: Send) -> None:
        await echo.contexts[-1].reserve("MARK?", 1)
        echo.contexts[-1].notes["answer"] = "MARK!"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    echo = Echo(answer)
    request(Guard(echo, LimitsConfig(log_prompts=asked)))
    (line,) = records(caplog)
    assert ("MARK" in repr(line)) is asked
    if asked:
        assert (line["question"], line["answer"]) == ("MARK?", "MARK!")


def test_who_leaves_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve.requests")

    async def leave() -> None:
        task = asyncio.create_task(ask(Guard(Echo(never), LimitsConfig())))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    (line,) = records(caplog)
    assert (line["status"], line["complete"]) == (499, False)
