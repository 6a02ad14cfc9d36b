"""`POST /v1/search`, and what a server without a generator says to a chat.

In: a `Door`. Out: routes of its HTTP API. A search costs little beside HTTP, so its answer is written as JSON at once,
without a model of it that would be checked again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ragray.serve.api import ApiError, ChatRequest, SearchRequest, check_text
from ragray.serve.generator import no_generator

if TYPE_CHECKING:
    from ragray.serve.ingress import Door

_PATH = "/v1/search"
_TAKES = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}}},
    }
}


def add_search(api: FastAPI, door: Door) -> None:
    """The route that finds passages. FastAPI's is for the OpenAPI document: the one before it answers."""

    @api.post(_PATH, response_model=None, openapi_extra=_TAKES)
    async def search(http: Request) -> Response:
        """Find passages, with their rank and score in each list, and what each term adds if that is asked for."""
        return Response(to_json(await found(door, await _read(http))), media_type="application/json")

    api.router.routes.insert(0, Route(_PATH, _Search(search, api.router.routes[-1]), methods=["POST"]))


class _Search:
    """A route's function as ASGI, past FastAPI's way to call one, which costs a fifth of HTTP.

    Args:
        answer: the function.
        route: its route, by which traces name requests.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[Response]], route: BaseRoute) -> None:
        self._answer, self._route = answer, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what it raises is answered by the application's handlers."""
        scope["route"] = self._route
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)


async def _read(http: Request) -> SearchRequest:
    """The request's body: read here, as FastAPI's own way costs as much as the rest of HTTP.

    Raises:
        RequestValidationError: it is not a search.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestValidationError([{"type": "model_type", "loc": ("body",), "msg": "no JSON"}])
    try:
        return SearchRequest.model_validate_json(await http.body())
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


async def found(door: Door, request: SearchRequest) -> dict[str, Any]:
    """The answer to a search.

    Raises:
        ApiError: the query is empty or too long, there is no index, or the retriever is busy or away.
    """
    begun = time.perf_counter()
    query = check_text(request.query, door.limits.max_question_chars, "query")
    with door.current.used(door.current.now) as behind:
        answer = await behind.retriever.search(query, request.top_k, request.explain)
    return {
        "object": "search.result",
        "query": query,
        "hits": [hit.to_json() for hit in answer.hits],
        "lineage": {"index": behind.lineage["index"], **answer.lineage},
        "timings_ms": {"total": round((time.perf_counter() - begun) * 1e3, 3)},
    }


def refuse_chat(api: FastAPI) -> None:
    """The routes of chats and models where there is no generator."""

    @api.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: ChatRequest) -> Response:
        """Refused: this server only searches."""
        raise no_generator()

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """No model answers here."""
        return {"object": "list", "data": []}

    @api.get("/v1/models/{model}", response_model=None)
    async def get_model(model: str) -> Response:
        """Refused: no model answers here."""
        raise ApiError(404, f"no model {model!r}; this server only searches", param="model", code="model_not_found")
