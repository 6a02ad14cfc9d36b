"""What answers hold beyond OpenAI's fields: stop strings, condensed questions, the status, examples that are true."""

from __future__ import annotations

from typing import Any

import pytest
from test_ingress import QUESTION, Client, sse  # type: ignore[import-not-found]

from ragray.serve.ingress import Door


@pytest.fixture
def client(door: Door) -> Client:
    return Client(door)


def test_the_answer_ends_before_a_stop_string_streamed_or_not(client: Client, engine: Any) -> None:
    for stop, text in ((" demo", "Run make [1]"), (["zz", "mak"], "Run [1]"), (["Run"], "")):
        whole = client.chat(stop=stop).json()
        assert whole["choices"][0]["message"]["content"] == text
        assert whole["choices"][0]["finish_reason"] == "stop" and whole["cache"] == "miss"
        assert not whole["declined"]
        written = len(engine.handles)
        chunks = sse(client.chat(stop=stop, stream=True, cache=False))
        assert len(engine.handles) == written + 1  # not the first answer again
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
    assert all(handle.cancelled.is_set() for handle in engine.handles)
    assert client.chat(stop=["zz"]).json()["choices"][0]["message"]["content"] == "Run make demo. [1]"
    assert [client.chat(stop=nothing).json()["cache"] for nothing in (None, "", [])] == ["miss", "hit", "hit"]


def test_an_answer_is_kept_under_its_stop_strings(client: Client) -> None:
    asked = (" demo", " demo", [" demo"], "zz", None)
    assert [client.chat(stop=stop).json()["cache"] for stop in asked] == ["miss", "hit", "hit", "miss", "miss"]


def test_a_follow_up_is_searched_with_the_words_of_the_question_before(client: Client, engine: Any) -> None:
    def ask(*turns: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": turn} for turn in turns]
        return dict(client("POST", "/v1/chat/completions", json={"messages": messages}).json())

    assert ask(QUESTION)["retrieval_query"] == QUESTION
    follow_up = ask(QUESTION, "How long does it take?")
    assert follow_up["retrieval_query"] == "install ragray: How long does it take?"
    assert follow_up["citations"][0]["doc_id"] == "install-1"
    messages = [{"role": "user", "content": turn} for turn in (QUESTION, "How long does it take?")]
    streamed = sse(client("POST", "/v1/chat/completions", json={"messages": messages, "stream": True}))
    assert streamed[-1]["retrieval_query"] == follow_up["retrieval_query"]
    assert streamed[-1]["cache"] == "hit"


def test_the_status_names_versions_limits_and_what_is_on(client: Client) -> None:
    status = client("GET", "/v1/status").json()
    assert status["lineage"]["index"] == "i" * 64 and status["model"] == "ragray-test"
    assert status["limits"] == {"question_chars": 200, "answer_tokens": 64}
    assert (status["feedback"], status["condense"]) == (False, "rule")
    assert status["uptime_s"] >= 0 and "index" not in status
    example = client("GET", "/openapi.json").json()["paths"]["/v1/status"]["get"]["responses"]["200"]
    assert set(example["content"]["application/json"]["example"]) == {*status, "index"}


def test_examples_of_the_openapi_document_are_like_real_answers(client: Client) -> None:
    document = client("GET", "/openapi.json").json()

    def example(path: str, status: str = "200") -> Any:
        return document["paths"][path]["post"]["responses"][status]["content"]["application/json"]["example"]

    def shape(value: Any) -> Any:  # a null has no type: this index has no embeddings and no reranker
        if isinstance(value, dict):
            return {name: shape(part) for name, part in value.items() if part is not None}
        return [shape(part) for part in value[:1]] if isinstance(value, list) else type(value)

    chat, answered = example("/v1/chat/completions"), client.chat().json()
    found = client("POST", "/v1/search", json={"query": "install", "explain": True}).json()
    assert shape(chat) == shape(answered)
    assert shape(example("/v1/search")) == shape(found)
    refused = client("POST", "/v1/search", json={"queri": "x"}).json()
    assert set(example("/v1/search", "400")["error"]) == set(refused["error"])
    assert "422" not in document["paths"]["/v1/search"]["post"]["responses"]  # it is never sent
