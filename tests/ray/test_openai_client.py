"""OpenAI's own client, unchanged, against the served application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from small_service import QUESTION  # type: ignore[import-not-found]

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed: pip install openai")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def create(client: Any, question: str = QUESTION, **more: Any) -> Any:
    body = {"model": "ragray", "messages": [{"role": "user", "content": question}], "max_tokens": 12, **more}
    return client.chat.completions.create(**body, extra_body={"cache": False})


def test_models_are_listed_and_retrieved(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["ragray"]
    assert client.models.retrieve("ragray").owned_by == "ragray"


def test_streamed_and_whole_completions_are_the_same(client: Any) -> None:
    whole = create(client)
    (choice,) = whole.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert (choice.finish_reason, whole.usage.completion_tokens) == ("length", 12)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_what_ragray_adds_is_reached_as_extra_fields(client: Any) -> None:
    added = create(client).model_extra
    assert set(added) == {
        "retrieval_query", "citations", "declined", "declined_by", "probability", "cache", "cached", "lineage",
        "timings_ms",
    }  # fmt: skip
    last = next(chunk for chunk in create(client, stream=True) if chunk.choices[0].finish_reason)
    assert set(last.model_extra) == set(added)


def test_stop_strings_end_the_answer(client: Any) -> None:
    text = create(client).choices[0].message.content
    stop = text[5:7]
    expected = text[: text.index(stop)]
    for stops in (stop, ["###", stop]):
        whole = create(client, stop=stops)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (expected, "stop")
        assert whole.usage.completion_tokens < 12
        chunks = list(create(client, stop=stops, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
        assert chunks[-1].usage == whole.usage


def test_sampling_parameters_hold(client: Any) -> None:
    def sample(seed: int) -> str:
        return str(create(client, temperature=1.5, top_p=0.95, seed=seed).choices[0].message.content)

    assert sample(1) == sample(1) != sample(2)
    assert create(client, temperature=0).choices == create(client).choices
    short = client.chat.completions.create(
        model="ragray", messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=3
    )
    assert short.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("more", "kind", "param"),
    [
        ({"logprobs": True}, "BadRequestError", "logprobs"),
        ({"n": 2}, "BadRequestError", "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "BadRequestError", "stop"),
        ({"temperature": 3}, "BadRequestError", "temperature"),
        ({"max_tokens": 100_000}, "BadRequestError", "max_tokens"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"response_format": {"type": "json_object"}}, "BadRequestError", "response_format"),
        ({"model": "gpt-x"}, "NotFoundError", "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_are_the_client_s_own_error_classes(client: Any, more: dict[str, Any], kind: str, param: str) -> None:
    with pytest.raises(getattr(openai, kind)) as caught:
        create(client, **more)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_the_asynchronous_client_streams_and_leaves(url: str) -> None:
    async def first_piece() -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            messages = [{"role": "user", "content": QUESTION}]
            stream = await client.chat.completions.create(
                model="ragray", messages=messages, stream=True, max_tokens=4000, temperature=1.0
            )
            async with stream:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        return str(chunk.choices[0].delta.content)
        raise AssertionError("no piece of text came")

    assert asyncio.run(first_piece())


def test_a_conversation_is_condensed(client: Any) -> None:
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Run make demo."},
        {"role": "user", "content": "How long does it take?"},
    ]
    answer = client.chat.completions.create(model="ragray", messages=messages, max_tokens=4)
    assert answer.model_extra["retrieval_query"] == "install ragray: How long does it take?"
