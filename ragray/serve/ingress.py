"""The door: HTTP in front of retriever and generator.

In: requests. Out: answers in OpenAI's shapes, search hits, and the page. `http_api` is an ordinary ASGI
application over a `Door`; `Ingress` makes one inside a Serve replica. No prompt and no answer is logged.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import ragray
from ragray.config import EngineConfig, ServeConfig
from ragray.engine.protocol import SamplingParams
from ragray.errors import RagrayError
from ragray.serve.api import ApiError, ChatRequest, FeedbackRequest, SearchRequest, explain_invalid
from ragray.serve.artifacts import Parts
from ragray.serve.cache_open import open_caches
from ragray.serve.chat import Ask, Chat, Reply, Turn
from ragray.serve.conversation import standing_alone
from ragray.serve.current import Current
from ragray.serve.exposure import check_exposure, listening_host
from ragray.serve.feedback import Feedback, add_feedback, lifespan_of
from ragray.serve.follower import Follower
from ragray.serve.generator import Generation
from ragray.serve.guard import guarded
from ragray.serve.held import Held
from ragray.serve.limits import Accounts, RequestContext
from ragray.serve.logs import write_beside_the_replicas_log
from ragray.serve.metrics import ServingMetrics, serving_metrics
from ragray.serve.models import adapter_of, add_models
from ragray.serve.openapi import describe
from ragray.serve.page_files import add_page
from ragray.serve.retriever import Retrieval
from ragray.serve.search import add_search, refuse_chat
from ragray.serve.shared_limits import accounts_of
from ragray.serve.status import add_health, add_status
from ragray.serve.traces import carrying, open_traces, traced, traced_app, traced_caches

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.serve.artifacts import Served
    from ragray.serve.replicas import GeneratorReplica, RetrieverReplica

CACHE_HEADER = "x-ragray-cache"

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Door:
    """What the HTTP API needs: the parts behind it, what they answer from, and the limits."""

    current: Current
    chat: Chat
    model: str  # the id of the engine's own model in /v1/models
    limits: ServeConfig
    parts: Parts = "full"
    feedback: Feedback | None = None

    @property
    def retriever(self) -> Retrieval:
        """Of the release that answers now."""
        return self.current.now.retriever

    @property
    def generator(self) -> Generation:
        """The same, its generator."""
        return self.current.now.generator

    @property
    def adapters(self) -> Mapping[str, str]:
        """The same, digests of the adapters of its further models, by id."""
        return self.current.now.adapters


class Ingress:
    """The deployment that answers HTTP; the answer cache lives here.

    Args:
        retriever: handle of the retriever's deployment; None: it is held here, or there is none.
        generator: the same of the generator.
        model: the id in /v1/models.
        served: the artifacts that the application was deployed with; a release may have been swapped in since.
        limits: longest question and answer, size of the cache, keys and limits of callers.
        engine: settings of an engine that is held here.

    Raises:
        ConfigError: Serve listens beyond loopback, and no keys are asked for.
    """

    def __init__(
        self,
        retriever: DeploymentHandle[RetrieverReplica] | None,
        generator: DeploymentHandle[GeneratorReplica] | None,
        model: str,
        served: Served,
        limits: ServeConfig,
        engine: EngineConfig,
    ) -> None:
        check_exposure(listening_host(), limits.limits)
        write_beside_the_replicas_log()
        metrics = serving_metrics()
        self._traces = open_traces(limits.traces, "Ingress")
        caches = open_caches(limits.cache, served, limits.most_ingresses())
        held = Held(
            carrying(self._traces, retriever),
            carrying(self._traces, generator),
            engine,
            limits,
            caches.answers.retune,
            partial(traced, self._traces, far=(retriever is not None, generator is not None), model=model),
        )
        self._follower = Follower("ingress", served, held)
        self._follower.start()
        chat = Chat(held.current, traced_caches(self._traces, caches), metrics.answered)
        self._accounts = accounts_of(limits.limits, limits.most_ingresses())
        self._door = Door(held.current, chat, model, limits, served.parts, Feedback.of(limits.feedback))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application of this replica; Serve calls it after the constructor."""
        api = http_api(self._door, self._accounts, behind_proxy=True, metrics=serving_metrics())
        return traced_app(api, self._traces)

    def __del__(self) -> None:
        """Serve calls this where a replica ends in order."""
        if hasattr(self, "_follower"):
            self._follower.leave()


def http_api(
    door: Door, accounts: Accounts | None = None, behind_proxy: bool = False, metrics: ServingMetrics | None = None
) -> ASGIApp:
    """The whole HTTP API and the page, answering through `door`, behind its guard.

    Args:
        door: the parts behind it.
        accounts: where the callers' requests and tokens are counted; by default in this process.
        behind_proxy: Ray Serve's proxy is in front.
        metrics: where requests are counted; None: nowhere.
    """
    about: dict[str, Any] = {"title": "ragray", "version": ragray.__version__, "docs_url": None, "redoc_url": None}
    api = FastAPI(**about, redirect_slashes=False, lifespan=lifespan_of(door.feedback))
    _handle_errors(api)
    if door.parts == "retrieval":
        refuse_chat(api)
    else:
        _add_chat(api, door)
        add_models(api, door)
    add_search(api, door)
    add_health(api, door)
    add_feedback(api, door.feedback, door.limits.max_question_chars)
    add_status(api, door)
    add_page(api)
    describe(api)
    return guarded(api, door.limits.limits, accounts, behind_proxy, metrics)


def _add_chat(api: FastAPI, door: Door) -> None:
    @api.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        """Answer the last user message from the documents."""
        ask = await _ask(request, door)
        context: RequestContext = http.state.ragray
        await context.reserve(ask.question, ask.params.max_new_tokens)
        turn = await door.chat.begin(ask)
        headers: dict[str, str] = {CACHE_HEADER: turn.cache}
        if not request.stream:
            reply = await door.chat.answer(turn)
            await context.settle(reply)
            return JSONResponse(_completion(ask, reply, door), headers=headers)
        events = context.settled(door.chat.stream(turn))
        first = await anext(events)  # a refusal before the first token still gets its own status
        usage = request.stream_options is not None and request.stream_options.include_usage
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        pieces = _sse(turn, first, events, door, usage, context)
        return StreamingResponse(pieces, media_type="text/event-stream", headers=headers)


async def _ask(request: ChatRequest, door: Door) -> Ask:
    limits = door.limits
    params = SamplingParams(
        max_new_tokens=request.token_limit(limits.max_new_tokens),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed or 0,
        stop_repeats=True,
        adapter=adapter_of(request.model, door),
    )
    asked = request.question(limits.max_question_chars)
    question = await standing_alone(request.turns(limits.max_question_chars), door.retriever, limits)
    return Ask(question, params, request.cache, tuple(request.stop), asked)


def _envelope(door: Door, ask: Ask, kind: str, lineage: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": ask.params.adapter or door.model,
        "system_fingerprint": lineage["engine"][:16],
    }


def _provenance(ask: Ask, reply: Reply) -> dict[str, Any]:
    """What ragray adds to OpenAI's answer."""
    answer = reply.answer
    return {
        "retrieval_query": ask.question,
        "citations": [asdict(citation) for citation in answer.citations],
        "declined": answer.declined,
        "declined_by": answer.declined_by,
        "probability": round(answer.probability, 4),
        "cache": reply.cache,
        "cached": None if reply.cached is None else asdict(reply.cached),
        "lineage": reply.lineage,
        "timings_ms": answer.timings_ms,
    }


def _usage(reply: Reply) -> dict[str, int]:
    read, written = reply.answer.prompt_tokens, reply.answer.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _completion(ask: Ask, reply: Reply, door: Door) -> dict[str, Any]:
    envelope = _envelope(door, ask, "chat.completion", reply.lineage)
    if door.feedback is not None:
        door.feedback.remember(envelope["id"], ask, reply)
    message = {"role": "assistant", "content": reply.answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    return {
        **envelope,
        "choices": [choice],
        "usage": _usage(reply),
        **_provenance(ask, reply),
    }


async def _sse(
    turn: Turn,
    first: str | Reply,
    events: AsyncGenerator[str | Reply, None],
    door: Door,
    include_usage: bool,
    context: RequestContext,
) -> AsyncGenerator[str, None]:
    """Server-sent events in OpenAI's form; leaving early stops the generation, and one that fails costs nothing."""
    ask, envelope = turn.ask, _envelope(door, turn.ask, "chat.completion.chunk", turn.lineage)

    def chunk(delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**envelope, "choices": [choice], **more})

    failed: ApiError | None = None
    async with aclosing(events):
        yield chunk({"role": "assistant", "content": ""})
        try:
            event: str | Reply | None = first
            while event is not None:
                if isinstance(event, Reply):
                    if door.feedback is not None:
                        door.feedback.remember(envelope["id"], ask, event)
                    yield chunk({}, event.finish_reason, **_provenance(ask, event))
                    if include_usage:
                        yield _event({**envelope, "choices": [], "usage": _usage(event)})
                else:
                    yield chunk({"content": event})
                event = await anext(events, None)
        except (ApiError, RagrayError) as error:
            failed = error if isinstance(error, ApiError) else _failure(error)
        except Exception:
            logger.exception("a stream failed")
            failed = _defect()
        if failed is not None:
            context.code = failed.code
            await context.refund()
            yield _event(failed.body())
    yield "data: [DONE]\n\n"


def _event(tree: dict[str, Any]) -> str:
    return f"data: {json.dumps(tree, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _failure(error: RagrayError) -> ApiError:
    """The client learns that it is not its fault; the cause is for the log."""
    logger.error("answering failed: %s", error)
    return ApiError(500, "the engine could not answer; the server's log says why", code="engine_error")


def _defect() -> ApiError:
    return ApiError(500, "the server failed; its log says why", code="internal_error")


def _handle_errors(api: FastAPI) -> None:
    requests = (ChatRequest, SearchRequest, FeedbackRequest)
    fields = [name for request in requests for name in request.model_fields]

    @api.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        request.state.ragray.code = error.code
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
        return await refused(request, _defect())
