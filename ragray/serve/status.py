"""What the service is: versions, limits and what it offers, for the page and for people.

In: the door. Out: `GET /v1/status`, one JSON object without secrets.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

import ragray

if TYPE_CHECKING:
    from ragray.serve.ingress import Door

EXAMPLE = {
    "object": "status",
    "version": "0.1.0",
    "model": "ragray",
    "models": ["ragray", "support-zh"],
    "created": 1700000000,
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
        followed = await door.retriever.followed()
        tree: dict[str, Any] = {
            "object": "status",
            "version": ragray.__version__,
            "model": door.model,
            "models": [door.model, *door.adapters],
            "created": door.created,
            "uptime_s": round(time.monotonic() - begun, 1),
            "lineage": {**door.lineage, **(followed.lineage if followed else {})},
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
