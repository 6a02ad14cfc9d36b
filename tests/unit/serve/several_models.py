"""A door with several models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ragray.serve.answers import AnswerCache, Caches, KeptRetrievals
from ragray.serve.chat import Chat
from ragray.serve.current import Current
from ragray.serve.ingress import Door


def with_adapters(door: Door, digests: Mapping[str, str], answers: AnswerCache | None = None) -> Door:
    """The same parts, with adapters by the id of their model and a cache of its own."""
    current = Current(replace(door.current.now, adapters=digests))
    cache = door.limits.cache
    caches = Caches(answers or AnswerCache(cache, {"en": 0.9}), KeptRetrievals(cache))
    return replace(door, current=current, chat=Chat(current, caches))
