"""What the service is and whether it answers: for the page, for people and for probes.

In: the door. Out: `GET /v1/status`, one JSON object without secrets; `GET /healthz` and `GET /readyz`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

import ragray
from ragray.serve.readiness import Readiness

if TYPE_CHECKING:
    from ragray.serve.ingress import Door

EXAMPLE = {
    "object": "status",
    "version": "0.1.0",
    "model": "ragray",
    "models": ["ragray", "support-zh"],
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
            "models": [door.model, *door.adapters],
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
    readiness = Readiness(door)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while this replica runs."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> Response:
        """200 once retriever and generator answer, else 503; the release, and the version of an index that changes."""
        states = await readiness.states()
        body: dict[str, Any] = {"status": "ready" if all(states.values()) else "not ready", **states}
        body["release"] = door.current.now.number
        if states.get("retriever") and (followed := await readiness.followed()):
            body["index"] = {"version": followed.version, "current": followed.is_current}
        return JSONResponse(body, status_code=200 if all(states.values()) else 503)
