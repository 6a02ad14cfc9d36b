"""One question from request to answer: cache, retrieval, decline or generation.

In: a checked question with its sampling parameters. Out: a `Reply`, whole or after its text piece by piece.
Both ways give the same text. No HTTP and no Ray here: the ingress brings both.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from ragray.engine.assistant import Answer, Retrieved, compose
from ragray.engine.protocol import Completion, SamplingParams
from ragray.errors import EngineError
from ragray.serve.cache import LruCache, answer_key, normalise_question
from ragray.serve.generator import Generation
from ragray.serve.retriever import Retrieval
from ragray.serve.stream import AnswerText

CacheUse = Literal["hit", "miss", "off"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, how to answer it, and whether the cache may be used."""

    question: str
    params: SamplingParams
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, why it ended, and what the cache did. Times are those of this request."""

    answer: Answer
    finish_reason: Literal["stop", "length"]
    cache: CacheUse
    lineage: Mapping[str, str]  # digests of all that the answer came from


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, and what the cache has for it."""

    ask: Ask
    cache: CacheUse
    kept: Reply | None
    begun: float  # seconds of `time.perf_counter`


class Chat:
    """Answers questions from the documents.

    Args:
        retriever: finds the passages.
        generator: writes the answer.
        cache_entries: answers kept; 0 keeps none.
        lineage: digests of everything that an answer depends on; the retriever has those of an index that changes.
    """

    def __init__(
        self, retriever: Retrieval, generator: Generation, cache_entries: int, lineage: Mapping[str, str]
    ) -> None:
        self._retriever = retriever
        self._generator = generator
        self._cache: LruCache[Reply] = LruCache(cache_entries)
        self._cache_entries = cache_entries
        self._lineage = lineage

    async def begin(self, ask: Ask) -> Turn:
        """Look into the cache; sampled answers are never cached.

        Raises:
            ApiError: a part of the server is busy or away.
        """
        begun = time.perf_counter()
        if not ask.cache or ask.params.temperature > 0 or self._cache_entries == 0:
            return Turn(ask, "off", None, begun)
        followed = await self._retriever.followed()
        kept = self._cache.get(self._key(ask, followed.lineage if followed else {}))
        return Turn(ask, "miss" if kept is None else "hit", kept, begun)

    async def answer(self, turn: Turn) -> Reply:
        """The whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        if turn.kept is not None:
            return _recalled(turn.kept, turn.begun)
        retrieved = await self._retriever.retrieve(normalise_question(turn.ask.question))
        completion = await self._generator.complete(retrieved, turn.ask.params) if retrieved.answerable else None
        clock = _Clock(turn.begun, retrieved.retrieve_ms)
        return self._reply(turn, retrieved, compose(retrieved, completion), completion, clock)

    async def stream(self, turn: Turn) -> AsyncGenerator[str | Reply, None]:
        """Pieces of the answer's text, then the whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        if turn.kept is not None:
            yield turn.kept.answer.text
            yield _recalled(turn.kept, turn.begun)
            return
        retrieved = await self._retriever.retrieve(normalise_question(turn.ask.question))
        clock = _Clock(turn.begun, retrieved.retrieve_ms)
        text = AnswerText(retrieved)
        completion: Completion | None = None
        if retrieved.answerable:
            async with aclosing(self._generator.stream(retrieved, turn.ask.params)) as items:
                async for item in items:
                    clock.see_first()
                    if isinstance(item, Completion):
                        completion = item
                    elif piece := text.feed(item):
                        yield piece
        answer = compose(retrieved, completion)
        if piece := text.finish(answer):
            yield piece
        yield self._reply(turn, retrieved, answer, completion, clock)

    def _key(self, ask: Ask, of_index: Mapping[str, str]) -> str:
        return answer_key(normalise_question(ask.question), ask.params, {**self._lineage, **of_index})

    def _reply(
        self, turn: Turn, retrieved: Retrieved, answer: Answer, completion: Completion | None, clock: _Clock
    ) -> Reply:
        reason = "stop" if completion is None else completion.finish_reason
        if reason == "cancelled":
            raise EngineError("the engine stopped before the answer was complete", "ask again")
        answer = replace(answer, timings_ms=clock.timings_ms())
        reply = Reply(answer, reason, turn.cache, {**self._lineage, **retrieved.lineage})
        if turn.cache == "miss":  # kept for the version that was searched, which may be newer than that of the turn
            self._cache.put(self._key(turn.ask, retrieved.lineage), reply)
        return reply


def _recalled(kept: Reply, begun: float) -> Reply:
    return replace(kept, answer=replace(kept.answer, timings_ms={"total": _ms_since(begun)}), cache="hit")


class _Clock:
    """Where the time of one request went, milliseconds."""

    def __init__(self, begun: float, retrieve_ms: float) -> None:
        self._begun = begun
        self._times = {"retrieve": round(retrieve_ms, 3)}

    def see_first(self) -> None:
        """Note the first token, once."""
        self._times.setdefault("first_token", _ms_since(self._begun))

    def timings_ms(self) -> dict[str, float]:
        """All times so far, and the total until now."""
        return {**self._times, "total": _ms_since(self._begun)}


def _ms_since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1e3, 3)
