"""The HTTP API over a real index and a real ASGI stack, without Ray: shapes, refusals, cache, streams, page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragray.config import ServeConfig
from ragray.config_cache import CacheConfig
from ragray.config_limits import LimitsConfig
from ragray.prompt import DECLINE
from ragray.retrieval.index import HybridIndex
from ragray.serve import ingress
from ragray.serve.ingress import Door, http_api
from ragray.serve.page_files import PAGE_FILES

QUESTION = "How do I install ragray?"
UNKNOWN = "Who won the chess championship yesterday evening?"


class Client:
    """Synchronous requests to an ASGI application."""

    def __init__(self, door: Door) -> None:
        self._app = http_api(door)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def chat(self, question: str = QUESTION, **more: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": question}], **more}
        return self("POST", "/v1/chat/completions", json=body)


@pytest.fixture
def client(door: Door) -> Client:
    return Client(door)


def sse(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return dict(error)


def test_an_answer_has_openai_s_shape_and_ragray_s_provenance(client: Client) -> None:
    answer = client.chat().json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Run make demo. [1]", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    (citation,) = answer["citations"]
    assert (citation["number"], citation["doc_id"], citation["rank"]) == (1, "install-1", 1)
    assert set(answer["lineage"]) == {"index", "confidence", "engine", "model"}
    assert not answer["declined"]
    assert answer["timings_ms"]["total"] >= answer["timings_ms"]["retrieve"] > 0


def test_a_stream_gives_the_same_text_in_openai_s_chunks(client: Client) -> None:
    chunks = sse(client.chat(stream=True, stream_options={"include_usage": True}))
    first, *pieces, last, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == "Run make demo. [1]" == client.chat().json()["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["citations"][0]["doc_id"] == "install-1"
    assert last["lineage"] and last["timings_ms"]["first_token"] > 0
    assert usage["choices"] == [] and usage["usage"]["prompt_tokens"] > 0
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_without_the_option_no_usage_chunk_is_sent(client: Client) -> None:
    assert all(chunk["choices"] for chunk in sse(client.chat(stream=True)))


def test_below_the_threshold_the_engine_is_not_asked(make_door: Callable[..., Door], engine: Any) -> None:
    client = Client(make_door(threshold=0.9))
    answer = client.chat(UNKNOWN).json()
    assert answer["declined"] and answer["declined_by"] == "retrieval"
    assert answer["choices"][0]["message"]["content"] == DECLINE["en"]
    assert answer["citations"] == [] and answer["usage"]["completion_tokens"] == 0
    assert engine.handles == []
    chunks = sse(client.chat(UNKNOWN, stream=True))
    assert chunks[1]["choices"][0]["delta"]["content"] == DECLINE["en"]
    assert chunks[-1]["declined"]


def test_a_decline_by_the_model_is_told_apart(client: Client, engine: Any) -> None:
    engine.text = DECLINE["en"]
    answer = client.chat().json()
    assert (answer["declined"], answer["declined_by"]) == (True, "model")


def test_the_last_user_message_is_the_question(client: Client) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": UNKNOWN},
        {"role": "assistant", "content": "No.", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    answer = client("POST", "/v1/chat/completions", json={"messages": turns}).json()
    assert answer["citations"][0]["doc_id"] == "install-1"


def test_sampling_parameters_reach_the_engine(client: Client, engine: Any) -> None:
    client.chat(temperature=0.7, top_p=0.9, seed=5, max_completion_tokens=9)
    (params,) = engine.params
    assert (params.temperature, params.top_p, params.seed, params.max_new_tokens) == (0.7, 0.9, 5, 9)
    client.chat(cache=False)
    assert (engine.params[-1].temperature, engine.params[-1].max_new_tokens) == (0.0, 64)


def test_the_second_time_the_cache_answers(client: Client, engine: Any) -> None:
    first, second = client.chat(), client.chat(f"  {QUESTION}\n")
    assert [r.headers["x-ragray-cache"] for r in (first, second)] == ["miss", "hit"]
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["citations"] == second.json()["citations"]
    assert second.json()["cache"] == "hit" and set(second.json()["timings_ms"]) == {"total"}
    streamed = client.chat(stream=True)
    assert streamed.headers["x-ragray-cache"] == "hit"
    assert sse(streamed)[1]["choices"][0]["delta"]["content"] == "Run make demo. [1]"
    assert len(engine.handles) == 1


def test_a_stream_fills_the_cache(client: Client) -> None:
    assert client.chat(stream=True).headers["x-ragray-cache"] == "miss"
    assert client.chat().headers["x-ragray-cache"] == "hit"


@pytest.mark.parametrize("more", [{"cache": False}, {"temperature": 0.5}])
def test_the_cache_stays_out_of_sampled_and_unwilling_requests(
    client: Client, engine: Any, more: dict[str, Any]
) -> None:
    client.chat()
    assert client.chat(**more).headers["x-ragray-cache"] == "off"
    assert client.chat(**more).json()["cache"] == "off"
    assert len(engine.handles) == 3


def test_a_server_without_cache_says_so(make_door: Callable[..., Door]) -> None:
    client = Client(make_door(ServeConfig(cache=CacheConfig(exact_mib=0))))
    assert [client.chat().headers["x-ragray-cache"] for _ in range(2)] == ["off", "off"]


def test_search_gives_ranks_and_scores_of_both_retrievers(client: Client) -> None:
    found = client("POST", "/v1/search", json={"query": "install ragray", "top_k": 2}).json()
    first = found["hits"][0]
    assert (first["doc_id"], first["rank"], first["bm25_rank"], first["tfidf_rank"]) == ("install-1", 1, 1, 1)
    assert first["score"] == pytest.approx(1.0)  # first by both: 0.7 + 0.3
    assert first["bm25_score"] > 0 and first["tfidf_score"] > 0
    assert (first["source"], first["kind"], first["lang"]) == ("a.jsonl", "faq", "en")
    assert len(found["hits"]) <= 2
    assert client("POST", "/v1/search", json={"query": "zzzz"}).json()["hits"] == []


def test_search_explains_its_scores_when_asked(client: Client, index: HybridIndex) -> None:
    query = "install the server, 训练"
    plain = client("POST", "/v1/search", json={"query": query}).json()["hits"]
    explained = client("POST", "/v1/search", json={"query": query, "explain": True}).json()["hits"]
    assert all("terms" not in hit for hit in plain)
    assert [{k: v for k, v in hit.items() if k != "terms"} for hit in explained] == plain
    assert len(explained) == 3
    for hit in explained:
        assert hit["terms"] == [asdict(part) for part in index.explain(query, hit["doc_id"])]
        for model in ("bm25", "tfidf"):
            assert sum(part[model] for part in hit["terms"]) == pytest.approx(hit[f"{model}_score"])
    assert error_of(client("POST", "/v1/search", json={"query": "x", "explain": 3}), 400)["param"] == "explain"
    misspelt = error_of(client("POST", "/v1/search", json={"query": "x", "explian": True}), 400)
    assert "did you mean explain?" in misspelt["message"]
    example = client("GET", "/openapi.json").json()["components"]["schemas"]["SearchRequest"]["examples"][0]
    assert client("POST", "/v1/search", json=example).json()["hits"][0]["terms"]


def test_models_are_listed(client: Client) -> None:
    listed = client("GET", "/v1/models").json()
    assert listed["object"] == "list" and listed["data"][0]["id"] == "ragray-test"
    assert client("GET", "/v1/models/ragray-test").json() == listed["data"][0]
    assert error_of(client("GET", "/v1/models/gpt-x"), 404)["code"] == "model_not_found"
    assert error_of(client.chat(model="gpt-x"), 404)["param"] == "model"
    assert client.chat(model="ragray-test").status_code == 200


def test_health(client: Client) -> None:
    assert client("GET", "/healthz").json() == {"status": "ok"}
    assert client("GET", "/readyz").json() == {"status": "ready", "retriever": True, "generator": True, "release": 1}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "role user"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages", "empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "user"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "not supported"),
        ({"messages": [{"role": "user", "content": "x" * 201}]}, "messages", "201 characters"),
        ({"messages": "hi"}, "messages", "list"),
        ({}, "messages", "required"),
        ({"temperature": -1}, "temperature", "greater"),
        ({"temperature": "warm"}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater"),
        ({"max_tokens": 0}, "max_tokens", "greater"),
        ({"max_tokens": 65}, "max_tokens", "at most 64"),
        ({"seed": -1}, "seed", "greater"),
        ({"n": 2}, "n", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ["a", ""]}, "stop.1", "at least 1"),
        ({"stop": 3}, "stop", "list"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
    ],
)
def test_bad_requests_name_the_parameter(client: Client, body: dict[str, Any], param: str, words: str) -> None:
    if body and "messages" not in body:
        body = {"messages": [{"role": "user", "content": QUESTION}], **body}
    error = error_of(client("POST", "/v1/chat/completions", json=body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


def test_neutral_values_of_openai_s_parameters_are_taken(client: Client) -> None:
    neutral = {"n": 1, "stop": None, "logprobs": False, "frequency_penalty": 0, "tools": [], "user": "someone"}
    assert client.chat(**neutral).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"messages": "\xff"}', b"[" * 100_000, b"null"],
    ids=["empty", "cut", "list", "string", "not utf-8", "not utf-8 inside", "deep", "null"],
)
def test_a_body_that_is_no_json_object_is_refused(client: Client, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/search"):
        error_of(client("POST", path, content=content, headers=headers), 400)


def test_lone_surrogates_are_refused(client: Client) -> None:
    half = b'"a\\ud800"'
    bodies = [b'{"query": %s}' % half, b'{"query": "x", %s: 1}' % half, b'{"query": %s}' % (b"[" + half + b"]")]
    headers = {"content-type": "application/json"}
    for body in bodies:
        error_of(client("POST", "/v1/search", content=body, headers=headers), 400)
    chat = b'{"messages": [{"role": "user", "content": %s}]}' % half
    error_of(client("POST", "/v1/chat/completions", content=chat, headers=headers), 400)


def test_json_sent_as_something_else_is_refused(client: Client) -> None:
    body = json.dumps({"query": "install"}).encode()
    assert "Content-Type" in error_of(client("POST", "/v1/search", content=body), 400)["message"]


def test_a_large_body_is_refused(client: Client) -> None:
    content = b'{"query": "' + b"x" * LimitsConfig().max_body_bytes + b'"}'
    headers = {"content-type": "application/json"}
    assert error_of(client("POST", "/v1/search", content=content, headers=headers), 413)["code"] == "body_too_large"


def test_other_paths_and_methods(client: Client) -> None:
    assert error_of(client("GET", "/nowhere"), 404)["code"] == "not_found"
    assert error_of(client("GET", "/../config.py"), 404)
    assert error_of(client("GET", "/page/..%2f..%2fapp.py"), 404)
    assert error_of(client("GET", "/v1/search"), 405)["code"] == "method_not_allowed"


def test_a_prompt_longer_than_the_model_reads_is_the_request_s_fault(make_door: Callable[..., Door]) -> None:
    client = Client(make_door(context=50))
    assert error_of(client.chat(), 400)["code"] == "context_length_exceeded"
    assert error_of(client.chat(stream=True), 400)["code"] == "context_length_exceeded"


def test_the_page_comes_from_the_package_and_asks_nobody_else(client: Client) -> None:
    page = client("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    loaded = {name: client("GET", f"/{name}") for name in PAGE_FILES if name != "index.html"}
    assert {response.status_code for response in loaded.values()} == {200}
    assert {name.rpartition(".")[2] for name in loaded} == {"js", "css"}
    for text in (page.text, *(response.text for response in loaded.values())):
        assert "innerHTML" not in text and "https://" not in text
    packaged = {path.name for path in (Path(ingress.__file__).parent / "page").iterdir()}
    assert packaged == set(PAGE_FILES)


def test_every_path_is_described(client: Client) -> None:
    paths = client("GET", "/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/search", "/v1/models", "/v1/status", "/healthz", "/readyz"} <= set(paths)
