"""The OpenAPI document says what the API answers: its examples fit its schemas, and real answers do, too."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from ragray.serve.ingress import Door, http_api
from ragray.serve.page_files import PUBLIC


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


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("post", "/v1/chat/completions", {"messages": [{"role": "user", "content": "How do I install ragray?"}]}, 200),
        ("post", "/v1/chat/completions", {"messages": []}, 400),
        ("post", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "model": "y"}, 404),
        ("post", "/v1/search", {"query": "install", "explain": True}, 200),
        ("post", "/v1/search", {"query": "train"}, 200),
        ("get", "/v1/models", None, 200),
        ("get", "/healthz", None, 200),
        ("get", "/readyz", None, 200),
    ],
)
def test_real_answers_fit(
    door: Door, document: dict[str, Any], method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    response = answer(door, method.upper(), path, json=body)
    assert response.status_code == status
    described = document["paths"][path][method]["responses"][str(status)]
    check(document, described["content"]["application/json"]["schema"], response.json())
