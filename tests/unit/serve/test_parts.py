"""Applications with fewer parts: search without a generator, answers without an index; settings of each part."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ragray.config import ServeConfig
from ragray.config_loading import validate_section
from ragray.errors import ConfigError
from ragray.retrieval.index import HybridIndex
from ragray.serve.answers import AnswerCache, Caches, KeptRetrievals
from ragray.serve.app import AppArgs
from ragray.serve.artifacts import Served
from ragray.serve.chat import Chat
from ragray.serve.closed_book import ClosedBook
from ragray.serve.current import Behind, Current
from ragray.serve.generator import Generator, NoGenerator
from ragray.serve.ingress import Door, http_api
from ragray.serve.retriever import Retriever

QUESTION = "How do I install ragray?"
CHAT = {"messages": [{"role": "user", "content": QUESTION}]}


def answered(door: Door, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(http_api(door))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=body)

    return asyncio.run(send())


def door_of(retriever: Any, generator: Any, parts: Any, lineage: dict[str, str]) -> Door:
    limits = ServeConfig(max_new_tokens=64, max_question_chars=200)
    caches = Caches(AnswerCache(limits.cache), KeptRetrievals(limits.cache))
    current = Current(Behind(retriever, generator, lineage, 7))
    return Door(current, Chat(current, caches), "m", limits, parts)


@pytest.fixture
def searching(index: HybridIndex) -> Door:
    return door_of(Retriever(index, None), NoGenerator(), "retrieval", {"index": "i" * 64})


@pytest.fixture
def writing(engine: Any) -> Door:
    engine.text = "Run make demo."
    return door_of(ClosedBook(), Generator(engine, 4096), "generation", {"engine": "e" * 64})


def refused(response: httpx.Response, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (404, code, "invalid_request_error")
    return str(error["message"])


def test_search_alone_finds_what_the_whole_finds_and_refuses_chats(searching: Door, door: Door) -> None:
    asked = {"query": "怎样训练模型", "explain": True}
    alone, whole = (answered(one, "POST", "/v1/search", asked).json() for one in (searching, door))
    assert alone["hits"] == whole["hits"] != []
    assert "/v1/search" in refused(answered(searching, "POST", "/v1/chat/completions", CHAT), "not_served")
    streamed = answered(searching, "POST", "/v1/chat/completions", {**CHAT, "stream": True})
    refused(streamed, "not_served")
    assert answered(searching, "GET", "/v1/models").json() == {"object": "list", "data": []}
    refused(answered(searching, "GET", "/v1/models/m"), "model_not_found")
    assert answered(searching, "GET", "/readyz").json() == {"status": "ready", "retriever": True, "release": 1}


def test_answers_alone_are_closed_book_and_searches_are_refused(writing: Door) -> None:
    answer = answered(writing, "POST", "/v1/chat/completions", CHAT).json()
    assert answer["choices"][0]["message"]["content"] == "Run make demo."
    assert (answer["citations"], answer["declined"], answer["probability"]) == ([], False, 0.0)
    assert answer["lineage"] == {"engine": "e" * 64}
    again = answered(writing, "POST", "/v1/chat/completions", CHAT)
    assert again.headers["x-ragray-cache"] == "hit"
    assert "no index" in refused(answered(writing, "POST", "/v1/search", {"query": "x"}), "not_served")
    assert answered(writing, "GET", "/readyz").json() == {"status": "ready", "generator": True, "release": 1}
    assert answered(writing, "GET", "/v1/models").json()["data"][0]["id"] == "m"


def test_a_generator_that_is_not_there_refuses(searching: Door) -> None:
    async def read() -> None:
        async for _ in searching.generator.stream(await ClosedBook().retrieve("?"), None):  # type: ignore[arg-type]
            pass

    with pytest.raises(Exception, match="no generator"):
        asyncio.run(read())


def test_a_part_is_there_when_its_artifact_is() -> None:
    whole = Served("i", False, "c", "e", {}, 0)
    assert whole.parts == "full"
    assert replace(whole, confidence=None, engine=None).parts == "retrieval"
    assert replace(whole, index=None, confidence=None).parts == "generation"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"parts": "retrieval", "artifacts": {"index": "i", "engine": "e"}}, "does not use engine"),
        ({"parts": "generation", "artifacts": {"index": "i"}}, "needs engine"),
        ({"artifacts": {"index": "i", "engine": "e"}}, "needs confidence"),
        ({"parts": "search", "artifacts": {"index": "i"}}, "retrieval"),
        ({"parts": "retrieval", "artifacts": {"indx": "i"}}, "did you mean"),
    ],
)
def test_artifacts_must_be_those_of_the_parts(args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate_section(AppArgs, args, "args")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"retriever_replicas": 2}, "deployment"),
        ({"retriever_batch_size": 8}, "deployment"),
        ({"generator": "ingress", "generator_replicas": 2}, "deployment"),
        ({"generator": "ingress", "placement": {"generator": {"num_cpus": 1}}}, "deployment"),
        ({"placement": {"retriever": {"num_cpus": 1}}}, "deployment"),
        ({"placement": {"generator": {"autoscaling": {"min_replicas": 2, "max_replicas": 3}}}}, "2 to 3"),
        ({"placement": {"ingress": {"autoscaling": {"min_replicas": 3, "max_replicas": 2}}}}, "more than"),
        ({"placement": {"ingres": {}}}, "did you mean"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate_section(ServeConfig, settings, "serve")
