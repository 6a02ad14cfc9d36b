"""What the service is and whether it answers: for the page, for people and for probes.

In: the door. Out: `GET /v1/status`, one JSON object without secrets; `GET /healthz` and `GET /readyz`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

import ragray
from ragray.serve.api import ApiError

if TYPE_CHECKING:
    from ragray.serve.ingress import Door

READY_TIMEOUT_S = 5.0
EXAMPLE = {
    "object": "status",
    "version": "0.1.0",
    "model": "ragray",
    "created": 1700000000,
    "release": 1,
    "uptime_s": 12.5,
    "lineage": {"index": "3f5c...", "confidence": "a1b2...", "engine": "77de..."},
    "index": {"version": 3, "current": True},
    "limits": {"question_chars": 2000, "answer_tokens": 256},
    "feedback": False,
    "condense": "rule",
}


def add_status(api: FastAPI, door: Door) -> None:
    """`GET /v1/status`."""
    begun = time.monotonic()
    answered: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": EXAMPLE}}}}

    @api.get("/v1/status", responses=answered)
    async def status() -> dict[str, Any]:
        """Versions by digest, limits, and what is switched on; `index` only of one that changes."""
        behind = door.current.now
        followed = await behind.retriever.followed()
        tree: dict[str, Any] = {
            "object": "status",
            "version": ragray.__version__,
            "model": door.model,
            "created": behind.created,
            "release": behind.number,
            "uptime_s": round(time.monotonic() - begun, 1),
            "lineage": {**behind.lineage, **(followed.lineage if followed else {})},
            "limits": {
                "question_chars": door.limits.max_question_chars,
                "answer_tokens": door.limits.max_new_tokens,
            },
            "feedback": door.feedback is not None,
            "condense": door.limits.condense,
        }
        if followed:
            tree["index"] = {"version": followed.version, "current": followed.is_current}
        return tree


def add_health(api: FastAPI, door: Door) -> None:
    """`GET /healthz` and `GET /readyz`."""

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while this replica runs."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> Response:
        """200 once retriever and generator answer, else 503; the release, and the version of an index that changes."""
        parts = {"retriever": door.retriever.ready} if door.parts != "generation" else {}
        parts |= {"generator": door.generator.ready} if door.parts != "retrieval" else {}
        states = await asyncio.gather(*(_is_ready(ready()) for ready in parts.values()))
        body: dict[str, Any] = {"status": "ready" if all(states) else "not ready"}
        body |= dict(zip(parts, states, strict=True)) | {"release": door.current.now.number}
        if body.get("retriever") and (followed := await door.retriever.followed()):
            body["index"] = {"version": followed.version, "current": followed.is_current}
        return JSONResponse(body, status_code=200 if all(states) else 503)


async def _is_ready(part: Awaitable[bool]) -> bool:
    try:
        return await asyncio.wait_for(part, READY_TIMEOUT_S)
    except (TimeoutError, ApiError):
        return False
