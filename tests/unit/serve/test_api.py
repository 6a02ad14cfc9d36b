"""Requests: what is taken, what is refused and in which words."""

from typing import Any

import pytest
from pydantic import ValidationError

from ragray.serve.api import ApiError, ChatRequest, SearchRequest, check_text, explain_invalid

USER = {"role": "user", "content": "Why?"}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [USER], **fields})


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        chat(**fields)
    return explain_invalid(caught.value.errors(), list(ChatRequest.model_fields))


def test_the_kind_of_error_follows_the_status() -> None:
    kinds = {400: "invalid_request_error", 404: "invalid_request_error", 413: "invalid_request_error",
             429: "rate_limit_error", 500: "server_error", 503: "server_error"}  # fmt: skip
    for status, kind in kinds.items():
        assert ApiError(status, "x", param="p", code="c").body()["error"] == {
            "message": "x", "type": kind, "param": "p", "code": "c",
        }  # fmt: skip


def test_text_parts_are_joined_by_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).question(10) == "a\nb"


def test_the_newer_name_of_the_token_limit_wins() -> None:
    assert chat().token_limit(7) == 7
    assert chat(max_tokens=3).token_limit(7) == 3
    assert chat(max_tokens=3, max_completion_tokens=5).token_limit(7) == 5
    with pytest.raises(ApiError, match="at most 7"):
        chat(max_tokens=8).token_limit(7)


def test_stop_strings_are_one_or_a_list() -> None:
    assert [chat(stop=stop).stop for stop in (None, "", [], "x", ["x", "文"])] == [[], [], [], ["x"], ["x", "文"]]
    assert chat().stop == []


def test_a_misspelt_parameter_is_recognised() -> None:
    error = refusal(top_pp=1)
    assert (error.param, error.code) == ("top_pp", "unknown_parameter")
    assert error.message.endswith("did you mean top_p?")
    assert "did you mean" not in refusal(something_else=1).message


def test_a_parameter_that_is_not_carried_out_is_never_ignored() -> None:
    for name, value in {"n": 3, "logit_bias": {"5": 1}, "store": True, "audio": {}}.items():
        with pytest.raises(ApiError) as caught:
            chat(**{name: value})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


def test_not_a_number_is_no_temperature() -> None:
    assert refusal(temperature=float("nan")).param == "temperature"


def test_length_is_counted_in_characters() -> None:
    assert check_text("文" * 5, 5, "query") == "文" * 5
    with pytest.raises(ApiError, match="6 characters"):
        check_text("文" * 6, 5, "query")


@pytest.mark.parametrize("top_k", [0, 101, "many"])
def test_top_k_has_limits(top_k: Any) -> None:
    with pytest.raises(ValidationError):
        SearchRequest.model_validate({"query": "x", "top_k": top_k})
