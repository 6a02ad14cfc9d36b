"""The OpenAPI document says what the API answers: its examples fit its schemas, and real answers do, too."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from test_parts import door_of  # type: ignore[import-not-found]

from ragray.config_feedback import UserFeedbackConfig
from ragray.retrieval.index import HybridIndex
from ragray.serve.closed_book import ClosedBook
from ragray.serve.feedback import Feedback
from ragray.serve.generator import Generator, NoGenerator
from ragray.serve.ingress import Door, http_api
from ragray.serve.page_files import PUBLIC
from ragray.serve.retriever import Retriever


@pytest.fixture
def document(door: Door) -> dict[str, Any]:
    return dict(answer(door, "GET", "/openapi.json").json())


def answer(door: Door, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(http_api(door), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, found) for path, methods in document["paths"].items() for method, found in methods.items()]


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    checked = 0
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            content = response["content"].get("application/json", {})
            if "example" in content:
                check(document, content["schema"], content["example"])
                checked += 1
    for schema in document["components"]["schemas"].values():
        for example in schema.get("examples", ()):
            check(document, schema, example)
    assert checked > 40


def test_every_refusal_is_described_and_fastapi_s_422_is_not(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"200", "400", "408", "413", "431", "500", "504"} <= statuses and "422" not in statuses
        assert ({"401", "403", "429"} <= statuses) is (path not in PUBLIC)
        assert ("security" in operation) is (path not in PUBLIC)
    assert "HTTPValidationError" not in document["components"]["schemas"]


CHAT = {"messages": [{"role": "user", "content": "How do I install ragray?"}]}
NEVER_GIVEN = {"completion_id": "chatcmpl-0", "rating": "up"}


@pytest.fixture
def doors(door: Door, index: HybridIndex, engine: Any, tmp_path: Path) -> dict[str, Door]:
    """A server of each form, and one that keeps feedback."""
    return {
        "full": door,
        "retrieval": door_of(Retriever(index, None), NoGenerator(), "retrieval", {"index": "i" * 64}),
        "generation": door_of(ClosedBook(), Generator(engine, 4096), "generation", {"engine": "e" * 64}),
        "feedback": replace(door, feedback=Feedback(UserFeedbackConfig(folder=str(tmp_path)))),
    }


@pytest.mark.parametrize(
    ("form", "method", "path", "body", "status"),
    [
        ("full", "post", "/v1/chat/completions", CHAT, 200),
        ("full", "post", "/v1/chat/completions", {"messages": []}, 400),
        ("full", "post", "/v1/chat/completions", {**CHAT, "model": "y"}, 404),
        ("full", "post", "/v1/search", {"query": "install", "explain": True}, 200),
        ("full", "post", "/v1/search", {"query": "train"}, 200),
        ("full", "get", "/v1/models", None, 200),
        ("full", "get", "/healthz", None, 200),
        ("full", "get", "/readyz", None, 200),
        ("retrieval", "post", "/v1/chat/completions", CHAT, 404),
        ("retrieval", "post", "/v1/search", {"query": "install", "explain": True}, 200),
        ("retrieval", "get", "/v1/models", None, 200),
        ("retrieval", "get", "/readyz", None, 200),
        ("generation", "post", "/v1/chat/completions", CHAT, 200),
        ("generation", "post", "/v1/search", {"query": "install"}, 404),
        ("generation", "get", "/v1/models", None, 200),
        ("generation", "get", "/readyz", None, 200),
        ("feedback", "post", "/v1/feedback", {"rating": "up", "question": "Why?", "answer": "So."}, 200),
        ("feedback", "post", "/v1/feedback", NEVER_GIVEN, 404),
        ("feedback", "post", "/v1/feedback", {"rating": "sideways"}, 400),
    ],
)
def test_real_answers_fit(
    doors: dict[str, Door], form: str, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    document = answer(doors[form], "GET", "/openapi.json").json()
    response = answer(doors[form], method.upper(), path, json=body)
    assert response.status_code == status
    described = document["paths"][path][method]["responses"][str(status)]
    check(document, described["content"]["application/json"]["schema"], response.json())


def test_what_feedback_refuses_is_described(doors: dict[str, Door]) -> None:
    document = answer(doors["feedback"], "GET", "/openapi.json").json()
    responses = document["paths"]["/v1/feedback"]["post"]["responses"]
    assert {"404", "409", "503"} <= set(responses)
    for response in responses.values():
        content = response["content"]["application/json"]
        check(document, content["schema"], content["example"])
