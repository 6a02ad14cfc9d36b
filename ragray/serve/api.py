"""What travels over HTTP: requests, answers and errors in the shapes that OpenAI's clients expect.

In: JSON bodies, checked field by field (`ChatRequest`, `SearchRequest`). Out: plain dictionaries ready for
JSON. What OpenAI's API knows and ragray does not do is refused by name, never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

# Parameters of OpenAI's API that are taken only with a value that asks for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}

_MOST_CHARS = 400  # of an error's message


class ApiError(Exception):
    """A request that is answered with an error status and OpenAI's error body.

    Args:
        status: HTTP status code.
        message: what is wrong and what to send instead.
        param: the parameter at fault, dotted.
        code: a short code for programs.
        retry_after_s: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        if self.status >= 500:
            kind = "server_error"
        message, param = _shown(self.message), self.param and _shown(self.param)
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}


def _shown(text: str) -> str:
    """Text for an answer, cut where it repeats what was sent at length."""
    return _encodable(text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…")


def busy() -> ApiError:
    """The error where a queue is full."""
    return ApiError(429, "the server is busy; try again", code="busy", retry_after_s=1)


def _encodable(text: str) -> str:
    """Text that UTF-8 can carry: JSON may spell halves of surrogate pairs, which no file or socket takes."""
    return text.encode("utf-8", "replace").decode()


def _whole(text: str) -> str:
    if _encodable(text) != text:
        raise ValueError("the text holds half a surrogate pair, which is no character")
    return text


Text = Annotated[str, AfterValidator(_whole)]


def _joined_parts(content: Any) -> Any:
    """The text of a message that is given as a list of parts; a string stays as it is."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError('parts other than {"type": "text", "text": "..."} are not supported')
    return "\n".join(part["text"] for part in content)


def _listed_stops(stop: Any) -> Any:
    """Stop strings as a list; none at all is spelled in several ways."""
    return ([stop] if stop else []) if isinstance(stop, str) or stop is None else stop


MAX_STOPS = 4  # as OpenAI's API
StopText = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", "maxLength": 256},
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 256}, "maxItems": MAX_STOPS},
        {"type": "null"},
    ],
    "title": "Stop",
}


class ChatMessage(BaseModel):
    """One turn of a conversation. Further fields, which clients send back from answers, are not read."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text | None, BeforeValidator(_joined_parts)] = None


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="send token counts in one more chunk before the end")
    include_obfuscation: bool = Field(False, description="accepted for OpenAI's clients; nothing is padded")


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "How do I install ragray?"}], "stream": False}]
        },
    )

    messages: list[ChatMessage] = Field(min_length=1, description="the last user message is the question")
    model: Text | None = Field(None, description="the id that /v1/models lists; may be left out")
    stream: bool = Field(False, description="answer as server-sent events")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0.0, le=2.0, allow_inf_nan=False, description="default 0: greedy")
    top_p: float | None = Field(None, gt=0.0, le=1.0, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, description="longest answer, tokens")
    max_completion_tokens: int | None = Field(None, ge=1, description="the newer name of max_tokens")
    stop: Annotated[list[StopText], BeforeValidator(_listed_stops), WithJsonSchema(_STOP_SCHEMA)] = Field(
        [], max_length=MAX_STOPS, description="a string or up to four; the answer ends before the first that comes"
    )
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="makes sampling repeatable")
    user: str | None = Field(None, description="accepted for OpenAI's clients; not stored")
    cache: bool = Field(True, description="false: do not use the answer cache")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        for name, neutral in _NEUTRAL.items():
            if name in tree and tree[name] is not None and tree[name] not in neutral:
                raise ApiError(
                    400,
                    f"{name} is not supported with this value; leave it out",
                    param=name,
                    code="unsupported_parameter",
                )
        return {name: value for name, value in tree.items() if name not in _NEUTRAL}

    def question(self, max_chars: int) -> str:
        """The last user message.

        Raises:
            ApiError: there is none, it is empty, or longer than `max_chars` characters.
        """
        texts = [message.content or "" for message in self.messages if message.role == "user"]
        if not texts:
            raise ApiError(400, "messages holds no message with the role user", param="messages")
        return check_text(texts[-1], max_chars, "messages")

    def turns(self, max_chars: int) -> list[str]:
        """What the user said, in order, each text cut to `max_chars` characters; the last one is the question."""
        return [(message.content or "")[:max_chars] for message in self.messages if message.role == "user"]

    def token_limit(self, most: int) -> int:
        """The longest answer asked for, tokens; `most` by default.

        Raises:
            ApiError: more than `most` is asked for.
        """
        for name in ("max_completion_tokens", "max_tokens"):
            asked: int | None = getattr(self, name)
            if asked is not None and asked > most:
                raise ApiError(400, f"{name} is {asked}; this server allows at most {most}", param=name)
            if asked is not None:
                return asked
        return most


class SearchRequest(BaseModel):
    """`POST /v1/search`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "install without a GPU", "top_k": 5, "explain": True}]},
    )

    query: Text = Field(description="what to look for")
    top_k: int = Field(10, ge=1, le=100, description="hits to return")
    explain: bool = Field(False, description="also what each term adds to a hit's scores by BM25 and TF-IDF")


class FeedbackRequest(BaseModel):
    """`POST /v1/feedback`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"completion_id": "chatcmpl-8c1f", "rating": "up"},
                {
                    "rating": "down",
                    "question": "Which port does the server use?",
                    "answer": "Port 80.",
                    "corrected_answer": "Port 8000 on the loopback address.",
                },
            ]
        },
    )

    rating: Literal["up", "down"] = Field(description="whether the answer helped")
    completion_id: Text | None = Field(None, max_length=200, description="id of the answer, as the server sent it")
    corrected_answer: Text | None = Field(None, max_length=8000, description="what the answer should have been")
    comment: Text | None = Field(None, max_length=2000, description="anything else; kept, never trained on")
    question: Text | None = Field(None, description="with answer, for an id that the server no longer remembers")
    answer: Text | None = Field(None, max_length=8000, description="the answer that was shown")


def check_text(text: str, max_chars: int, param: str) -> str:
    """`text`, when it says something and has at most `max_chars` characters.

    Raises:
        ApiError: otherwise.
    """
    if not text.strip():
        raise ApiError(400, f"{param}: the text is empty", param=param, code="empty")
    if len(text) > max_chars:
        raise ApiError(
            400,
            f"{param}: the text has {len(text)} characters; this server allows at most {max_chars}",
            param=param,
            code="context_length_exceeded",
        )
    return text


def explain_invalid(errors: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> ApiError:
    """The error for a body that pydantic refused. `fields`: the known top-level names, for a did-you-mean."""
    first = errors[0]
    location = [str(part) for part in first["loc"] if part != "body"]
    dotted = ".".join(location)
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if not location:
        return ApiError(400, "send a JSON object, with the header Content-Type: application/json", code="invalid_json")
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(location[-1], fields, n=1) if len(location) == 1 else []
        hint = f"; did you mean {close[0]}?" if close else ""
        return ApiError(400, f"{dotted}: unknown parameter{hint}", param=dotted, code="unknown_parameter")
    return ApiError(400, f"{dotted}: {first['msg']}", param=dotted, code="invalid_value")
