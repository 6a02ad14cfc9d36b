"""The models of one server: the engine's own, and those by its adapters.

In: the door. Out: `GET /v1/models` with the digests behind each id, and the adapter behind the id that a request names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from ragray.serve.api import ApiError

if TYPE_CHECKING:
    from ragray.serve.ingress import Door

_PARTS = ("engine", "model", "adapter")  # of the lineage: what makes one model another


def adapter_of(model: str | None, door: Door) -> str | None:
    """The adapter behind a model's id; None is the engine's own model.

    Raises:
        ApiError: 404, there is no such model.
    """
    if model is None or model == door.model:
        return None
    if model not in door.adapters:
        served = ", ".join(map(repr, (door.model, *door.adapters)))
        raise ApiError(404, f"no model {model!r}; this server has {served}", param="model", code="model_not_found")
    return model


def add_models(api: FastAPI, door: Door) -> None:
    """`GET /v1/models` and `GET /v1/models/{id}`."""

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The models that answer here, the one that is asked by default first."""
        return {"object": "list", "data": [_model(door, name) for name in (None, *door.adapters)]}

    @api.get("/v1/models/{model}")
    async def get_model(model: str) -> dict[str, Any]:
        """One model."""
        return _model(door, adapter_of(model, door))


def _model(door: Door, adapter: str | None) -> dict[str, Any]:
    behind = door.current.now
    lineage = behind.lineage_of(adapter)
    model = {"id": adapter or door.model, "object": "model", "created": behind.created, "owned_by": "ragray"}
    return {**model, "lineage": {part: lineage[part] for part in _PARTS if part in lineage}}
