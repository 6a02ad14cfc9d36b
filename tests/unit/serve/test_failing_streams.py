"""A stream that fails after its first piece: told to the client, the log, the metrics and the account."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from asgi_caller import Recorder  # type: ignore[import-not-found]

from ragray.config import ServeConfig
from ragray.config_limits import LimitsConfig
from ragray.errors import EngineError
from ragray.serve.api import ApiError, busy
from ragray.serve.ingress import http_api

QUESTION = "How do I install ragray?"
BODY = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "cache": False}


@pytest.mark.parametrize(
    ("fault", "code"), [(EngineError("out of memory"), "engine_error"), (busy(), "busy")], ids=["engine", "refusal"]
)
def test_it_is_counted_logged_and_not_paid_for(
    make_door: Any, engine: Any, caplog: pytest.LogCaptureFixture, fault: ApiError | EngineError, code: str
) -> None:
    caplog.set_level(logging.INFO, "ray.serve.requests")
    most = len(QUESTION) + 64  # what one answer reserves: a second one passes only if the first gave it back
    limits = ServeConfig(max_new_tokens=64, max_question_chars=200, limits=LimitsConfig(tokens_per_minute=most))
    submit = engine.submit

    def failing(ids: Any, params: Any) -> Any:
        handle = submit(ids, params)

        def fail() -> Any:
            raise fault

        handle.completion = fail
        return handle

    engine.submit = failing
    metrics = Recorder()
    app = http_api(make_door(limits), metrics=metrics)

    async def ask_twice() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.post("/v1/chat/completions", json=BODY) for _ in range(2)]

    for response in asyncio.run(ask_twice()):
        assert response.status_code == 200
        *events, done, rest = response.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        assert json.loads(events[1].removeprefix("data: "))["choices"][0]["delta"]["content"]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == code
    assert metrics.ended == [("/v1/chat/completions", 200, code)] * 2
    lines = [record.__dict__ for record in caplog.records if record.name == "ray.serve.requests"]
    assert [(line["status"], line["code"]) for line in lines] == [(200, code)] * 2
