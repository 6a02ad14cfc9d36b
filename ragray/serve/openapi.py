"""The OpenAPI document: what each path answers, with examples, also where it refuses.

In: the routes, as FastAPI reads them. Out: the same document with the answers' shapes, the errors that the guard and
the handlers give, and the API key as a security scheme. FastAPI's own 422 is taken out: what is invalid gets 400.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from ragray.serve.api import ApiError, SearchRequest
from ragray.serve.page_files import PUBLIC

Tree = dict[str, Any]

_DIGEST = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
_REFUSALS: dict[int, tuple[str, ApiError]] = {
    400: ("The request is wrong; `param` names the field", ApiError(
        400, "temprature: unknown parameter; did you mean temperature?", param="temprature", code="unknown_parameter")),
    401: ("No valid API key", ApiError(
        401, "send a valid API key: Authorization: Bearer KEY", code="invalid_api_key")),
    403: ("The key's role does not cover this", ApiError(
        403, "a key of the role search may not call this", code="permission_denied")),
    404: ("No such model, path or part of this server, or an answer that is not remembered", ApiError(
        404, "no model 'gpt-x'; this server has 'ragray'", param="model", code="model_not_found")),
    408: ("The body came too slowly", ApiError(408, "the body took longer than 10 s", code="body_timeout")),
    409: ("What was said before stays", ApiError(
        409, "a thumb up for this answer is written already and may be trained on", param="rating",
        code="feedback_kept")),
    413: ("The body is too large", ApiError(413, "the body is larger than 1048576 bytes", code="body_too_large")),
    429: ("The key's limit is reached, or a queue is full; `Retry-After` says when to ask again", ApiError(
        429, "this key may ask 60 times a minute; try again in 3 s", code="rate_limited")),
    431: ("The headers are too many or too large", ApiError(
        431, "90 headers; send at most 64", code="headers_too_large")),
    500: ("The server's fault; its log says why", ApiError(
        500, "the engine could not answer; the server's log says why", code="engine_error")),
    503: ("A part is restarting, or the server is full; `Retry-After` says when to ask again", ApiError(
        503, "a part of the server is restarting; try again", code="restarting")),
    504: ("The deadline passed", ApiError(504, "the answer took longer than 120 s", code="deadline_exceeded")),
}  # fmt: skip
_ALWAYS = (400, 408, 413, 431, 500, 504)  # what the guard may answer to anything
_KEYED = (401, 403, 429, 503)
_MODEL = {
    "id": "ragray", "object": "model", "created": 1760000000, "owned_by": "ragray",
    "lineage": {"engine": _DIGEST, "adapter": _DIGEST},
}  # fmt: skip
_CITATION = {
    "number": 1, "doc_id": "install-1", "title": "How do I install ragray?", "text": "Run make demo.",
    "source": "install.jsonl", "rank": 1, "score": 0.98, "prior": 0.0, "bm25_rank": 1, "bm25_score": 4.1,
    "tfidf_rank": 1, "tfidf_score": 0.61, "dense_rank": None, "dense_score": None,
}  # fmt: skip
_HIT = {name: value for name, value in _CITATION.items() if name != "number"} | {
    "rerank_score": None, "kind": "faq", "lang": "en", "terms": [{"term": "instal", "bm25": 2.9, "tfidf": 0.44}],
}  # fmt: skip
_EXAMPLES: Tree = {
    "ChatCompletion": {
        "id": "chatcmpl-0f3a", "object": "chat.completion", "created": 1760000000, "model": "ragray",
        "system_fingerprint": _DIGEST[:16],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Run make demo. [1]", "refusal": None},
                     "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 163, "completion_tokens": 6, "total_tokens": 169},
        "retrieval_query": "How do I install it?", "citations": [_CITATION], "declined": False,
        "declined_by": "", "probability": 0.93, "cache": "miss", "cached": None,
        "lineage": {"index": _DIGEST, "confidence": _DIGEST, "engine": _DIGEST, "model": _DIGEST},
        "timings_ms": {"retrieve": 1.2, "total": 210.5},
    },
    "SearchResult": {
        "object": "search.result", "query": "install", "hits": [_HIT], "lineage": {"index": _DIGEST},
        "timings_ms": {"total": 1.2},
    },
    "Feedback": {"object": "feedback", "id": "feedback-5d1c", "completion_id": "chatcmpl-0f3a", "rating": "up"},
    "Model": _MODEL,
    "ModelList": {"object": "list", "data": [_MODEL]},
    "Health": {"status": "ok"},
    "Readiness": {"status": "ready", "retriever": True, "generator": True, "release": 1},
}  # fmt: skip
_ANSWERS: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {  # path, method -> shape, further refusals
    ("/v1/chat/completions", "post"): ("ChatCompletion", (404, *_KEYED)),
    ("/v1/search", "post"): ("SearchResult", (404, *_KEYED)),
    ("/v1/feedback", "post"): ("Feedback", (404, 409, *_KEYED)),
    ("/v1/models", "get"): ("ModelList", _KEYED),
    ("/v1/models/{model}", "get"): ("Model", (404, *_KEYED)),
    ("/healthz", "get"): ("Health", ()),
    ("/readyz", "get"): ("Readiness", ()),
}


def describe(api: FastAPI) -> None:
    """Let `api` give the whole document at /openapi.json."""
    plain = api.openapi

    def openapi() -> Tree:
        if api.openapi_schema is None:
            api.openapi_schema = completed(plain())
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


def completed(document: Tree) -> Tree:
    """FastAPI's document with all answers, for the paths that are known here; others keep what FastAPI says."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= {"Error": _error_schema(), **{name: _shape(example) for name, example in _EXAMPLES.items()}}
    schemas["SearchRequest"] = SearchRequest.model_json_schema()  # its route reads the body itself
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            responses.pop("422", None)
            shape, more = _ANSWERS.get((path, method), (None, _KEYED))
            responses |= _refusals((*_ALWAYS, *more))
            if shape is not None:
                responses["200"] = {"description": "The answer", "content": _content(shape)}
            if path not in PUBLIC:
                operation["security"] = [{}, {"key": []}]  # without keys where the server has none
    _special_cases(document["paths"])
    return document


def _special_cases(paths: Tree) -> None:
    stream = {"schema": {"type": "string"}, "example": 'data: {"object": "chat.completion.chunk"}\n\ndata: [DONE]\n\n'}
    if "/v1/chat/completions" in paths:
        paths["/v1/chat/completions"]["post"]["responses"]["200"]["content"]["text/event-stream"] = stream
    not_ready = {"status": "not ready", "retriever": True, "generator": False, "release": 1}
    content = {"application/json": {"schema": _ref("Readiness"), "example": not_ready}}
    paths["/readyz"]["get"]["responses"]["503"] = {"description": "A part does not answer yet", "content": content}


def _refusals(statuses: Iterable[int]) -> Tree:
    return {
        str(status): {
            "description": _REFUSALS[status][0],
            "content": {"application/json": {"schema": _ref("Error"), "example": _REFUSALS[status][1].body()}},
        }
        for status in sorted(statuses)
    }


def _content(shape: str) -> Tree:
    return {"application/json": {"schema": _ref(shape), "example": _EXAMPLES[shape]}}


def _ref(shape: str) -> Tree:
    return {"$ref": f"#/components/schemas/{shape}"}


def _error_schema() -> Tree:
    text_or_null = {"type": ["string", "null"]}
    error = {
        "type": "object",
        "properties": {
            "message": {"type": "string"},
            "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
            "param": text_or_null,
            "code": text_or_null,
        },
        "required": ["message", "type", "param", "code"],
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {"error": error}, "required": ["error"], "additionalProperties": False}


_NULLABLE = {
    "bm25_rank": "integer", "tfidf_rank": "integer", "dense_rank": "integer", "dense_score": "number",
    "rerank_score": "number", "refusal": "string", "cached": "object", "logprobs": "object", "retrieve": "number",
    "completion_id": "string",
}  # fmt: skip
_OPTIONAL = {"terms", "retrieve", "retriever", "generator"}  # there only sometimes


def _shape(example: Any, name: str = "") -> Tree:
    """The schema of an example: its fields are required, with their types; there may be more."""
    if name in _NULLABLE:
        return {"type": [_NULLABLE[name], "null"]}
    if isinstance(example, dict):
        fields = {key: _shape(value, key) for key, value in example.items()}
        optional = fields.keys() if name == "lineage" else _OPTIONAL  # a server has the digests of its own parts
        required = [key for key in fields if key not in optional]
        return {"type": "object", "properties": fields, "required": required}
    if isinstance(example, list):
        return {"type": "array", "items": _shape(example[0])}
    kinds: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": kinds[type(example)]}
