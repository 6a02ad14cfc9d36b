"""The door: HTTP in front of retriever and generator.

In: requests. Out: answers in OpenAI's shapes, search hits, and the page. `http_api` is an ordinary ASGI
application over a `Door`; `Ingress` makes one inside a Serve replica. No prompt and no answer is logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ragray
from ragray.config import ServeConfig
from ragray.engine.protocol import SamplingParams
from ragray.errors import RagrayError
from ragray.serve.api import ApiError, ChatRequest, SearchRequest, check_text, explain_invalid
from ragray.serve.chat import Ask, Chat, Reply
from ragray.serve.generator import Generation, RemoteGenerator
from ragray.serve.retriever import RemoteRetriever, Retrieval

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.serve.artifacts import Served
    from ragray.serve.generator import Generator
    from ragray.serve.retriever import Retriever

MAX_BODY_BYTES = 1 << 20
READY_TIMEOUT_S = 5.0
CACHE_HEADER = "x-ragray-cache"
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Door:
    """What the HTTP API needs: the two parts behind it, what they answer from, and the limits."""

    retriever: Retrieval
    generator: Generation
    chat: Chat
    model: str  # the id in /v1/models
    created: int  # seconds since 1970
    lineage: dict[str, str]
    limits: ServeConfig


class Ingress:
    """The deployment that answers HTTP; the answer cache lives here.

    Args:
        retriever: handle of the retriever's deployment.
        generator: handle of the generator's deployment.
        model: the id in /v1/models.
        served: the artifacts behind the two.
        limits: longest question and answer, size of the cache.
    """

    def __init__(
        self,
        retriever: DeploymentHandle[Retriever],
        generator: DeploymentHandle[Generator],
        model: str,
        served: Served,
        limits: ServeConfig,
    ) -> None:
        near, far = RemoteRetriever(retriever, served.follows), RemoteGenerator(generator)
        chat = Chat(near, far, limits.answer_cache_entries, served.lineage)
        self._door = Door(near, far, chat, model, served.created, served.lineage, limits)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application of this replica; Serve calls it after the constructor."""
        return http_api(self._door)


def http_api(door: Door) -> FastAPI:
    """The whole HTTP API and the page, answering through `door`."""
    api = FastAPI(title="ragray", version=ragray.__version__, docs_url=None, redoc_url=None)
    api.add_middleware(_Guard)
    _handle_errors(api)
    _add_chat(api, door)
    _add_search(api, door)
    _add_health(api, door)
    _add_page(api)
    return api


def _add_chat(api: FastAPI, door: Door) -> None:
    @api.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: ChatRequest) -> Response:
        """Answer the last user message from the documents."""
        _check_model(request.model, door.model)
        ask = _ask(request, door.limits)
        turn = await door.chat.begin(ask)
        headers: dict[str, str] = {CACHE_HEADER: turn.cache}
        if not request.stream:
            return JSONResponse(_completion(await door.chat.answer(turn), door), headers=headers)
        events = door.chat.stream(turn)
        first = await anext(events)  # a refusal before the first token still gets its own status
        usage = request.stream_options is not None and request.stream_options.include_usage
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_sse(first, events, door, usage), media_type="text/event-stream", headers=headers)

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The one model that answers here."""
        return {"object": "list", "data": [_model(door)]}

    @api.get("/v1/models/{model}")
    async def get_model(model: str) -> dict[str, Any]:
        """One model."""
        _check_model(model, door.model)
        return _model(door)


def _add_search(api: FastAPI, door: Door) -> None:
    @api.post("/v1/search")
    async def search(request: SearchRequest) -> dict[str, Any]:
        """Find passages, with their rank and score in each list, and what each term adds if that is asked for."""
        begun = time.perf_counter()
        query = check_text(request.query, door.limits.max_question_chars, "query")
        found = await door.retriever.search(query, request.top_k, request.explain)
        return {
            "object": "search.result",
            "query": query,
            "hits": [hit.to_json() for hit in found.hits],
            "lineage": {"index": door.lineage["index"], **found.lineage},
            "timings_ms": {"total": round((time.perf_counter() - begun) * 1e3, 3)},
        }


def _add_health(api: FastAPI, door: Door) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while this replica runs."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> Response:
        """200 once retriever and generator answer, else 503; of an index that changes, the version searched."""
        parts = {"retriever": door.retriever.ready(), "generator": door.generator.ready()}
        states = await asyncio.gather(*(_is_ready(part) for part in parts.values()))
        body: dict[str, Any] = {"status": "ready" if all(states) else "not ready"}
        body |= dict(zip(parts, states, strict=True))
        if states[0] and (followed := await door.retriever.followed()):
            body["index"] = {"version": followed.version, "current": followed.is_current}
        return JSONResponse(body, status_code=200 if all(states) else 503)


def _add_page(api: FastAPI) -> None:
    folder = files("ragray.serve") / "page"
    for path, (name, media_type) in _PAGE.items():
        content = (folder / name).read_bytes()
        api.get(path, include_in_schema=False)(_page_file(content, media_type))


def _page_file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def page_file() -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return page_file


async def _is_ready(part: Awaitable[bool]) -> bool:
    try:
        return await asyncio.wait_for(part, READY_TIMEOUT_S)
    except (TimeoutError, ApiError):
        return False


def _check_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        raise ApiError(404, f"no model {asked!r}; this server has {served!r}", param="model", code="model_not_found")


def _ask(request: ChatRequest, limits: ServeConfig) -> Ask:
    params = SamplingParams(
        max_new_tokens=request.token_limit(limits.max_new_tokens),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed or 0,
    )
    return Ask(request.question(limits.max_question_chars), params, request.cache)


def _model(door: Door) -> dict[str, Any]:
    return {"id": door.model, "object": "model", "created": door.created, "owned_by": "ragray"}


def _envelope(door: Door, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": door.model,
        "system_fingerprint": door.lineage["engine"][:16],
    }


def _provenance(reply: Reply, door: Door) -> dict[str, Any]:
    """What ragray adds to OpenAI's answer."""
    answer = reply.answer
    return {
        "citations": [asdict(citation) for citation in answer.citations],
        "declined": answer.declined,
        "declined_by": answer.declined_by,
        "probability": round(answer.probability, 4),
        "cache": reply.cache,
        "lineage": reply.lineage,
        "timings_ms": answer.timings_ms,
    }


def _usage(reply: Reply) -> dict[str, int]:
    read, written = reply.answer.prompt_tokens, reply.answer.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _completion(reply: Reply, door: Door) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    return {
        **_envelope(door, "chat.completion"),
        "choices": [choice],
        "usage": _usage(reply),
        **_provenance(reply, door),
    }


async def _sse(
    first: str | Reply, events: AsyncGenerator[str | Reply, None], door: Door, include_usage: bool
) -> AsyncGenerator[str, None]:
    """Server-sent events in OpenAI's form; leaving early stops the generation."""
    envelope = _envelope(door, "chat.completion.chunk")

    def chunk(delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**envelope, "choices": [choice], **more})

    async with aclosing(events):
        yield chunk({"role": "assistant", "content": ""})
        try:
            event: str | Reply | None = first
            while event is not None:
                if isinstance(event, Reply):
                    yield chunk({}, event.finish_reason, **_provenance(event, door))
                    if include_usage:
                        yield _event({**envelope, "choices": [], "usage": _usage(event)})
                else:
                    yield chunk({"content": event})
                event = await anext(events, None)
        except ApiError as error:
            yield _event(error.body())
        except RagrayError as error:
            yield _event(_failure(error).body())
    yield "data: [DONE]\n\n"


def _event(tree: dict[str, Any]) -> str:
    return f"data: {json.dumps(tree, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _failure(error: RagrayError) -> ApiError:
    """The client learns that it is not its fault; the cause is for the log."""
    logger.error("answering failed: %s", error)
    return ApiError(500, "the engine could not answer; the server's log says why", code="engine_error")


def _handle_errors(api: FastAPI) -> None:
    fields = [*ChatRequest.model_fields, *SearchRequest.model_fields]

    @api.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        return JSONResponse(error.body(), status_code=error.status, headers=headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await refused(request, explain_invalid(error.errors(), fields))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        codes = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
        response = await refused(request, ApiError(error.status_code, error.detail, code=codes.get(error.status_code)))
        response.headers.update(error.headers or {})
        return response

    @api.exception_handler(RagrayError)
    async def failed(request: Request, error: RagrayError) -> Response:
        return await refused(request, _failure(error))

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return await refused(request, ApiError(500, "the server failed; its log says why", code="internal_error"))


class _Guard:
    """Refuses large bodies and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._app(scope, limited_receive, send_with_headers)
