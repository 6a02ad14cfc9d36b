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

from ragray.engine.assistant import Answer, compose
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


class Chat:
    """Answers questions from the documents.

    Args:
        retriever: finds the passages.
        generator: writes the answer.
        cache_entries: answers kept; 0 keeps none.
        lineage: digests of everything that an answer depends on.
    """

    def __init__(
        self, retriever: Retrieval, generator: Generation, cache_entries: int, lineage: Mapping[str, str]
    ) -> None:
        self._retriever = retriever
        self._generator = generator
        self._cache: LruCache[Reply] = LruCache(cache_entries)
        self._cache_entries = cache_entries
        self._lineage = lineage

    def cache_use(self, ask: Ask) -> CacheUse:
        """What the cache will do for this question; sampled answers are never cached."""
        if not ask.cache or ask.params.temperature > 0 or self._cache_entries == 0:
            return "off"
        return "hit" if self._key(ask) in self._cache else "miss"

    async def answer(self, ask: Ask) -> Reply:
        """The whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        begun = time.perf_counter()
        use = self.cache_use(ask)
        if use == "hit" and (kept := self._recall(ask, begun)):
            return kept
        retrieved = await self._retriever.retrieve(normalise_question(ask.question))
        completion = await self._generator.complete(retrieved, ask.params) if retrieved.answerable else None
        return self._reply(ask, use, compose(retrieved, completion), completion, _Clock(begun, retrieved.retrieve_ms))

    async def stream(self, ask: Ask) -> AsyncGenerator[str | Reply, None]:
        """Pieces of the answer's text, then the whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        begun = time.perf_counter()
        use = self.cache_use(ask)
        if use == "hit" and (kept := self._recall(ask, begun)):
            yield kept.answer.text
            yield kept
            return
        retrieved = await self._retriever.retrieve(normalise_question(ask.question))
        clock = _Clock(begun, retrieved.retrieve_ms)
        text = AnswerText(retrieved)
        completion: Completion | None = None
        if retrieved.answerable:
            async with aclosing(self._generator.stream(retrieved, ask.params)) as items:
                async for item in items:
                    clock.see_first()
                    if isinstance(item, Completion):
                        completion = item
                    elif piece := text.feed(item):
                        yield piece
        answer = compose(retrieved, completion)
        if piece := text.finish(answer):
            yield piece
        yield self._reply(ask, use, answer, completion, clock)

    def _key(self, ask: Ask) -> str:
        return answer_key(normalise_question(ask.question), ask.params, self._lineage)

    def _recall(self, ask: Ask, begun: float) -> Reply | None:
        kept = self._cache.get(self._key(ask))
        if kept is None:
            return None
        answer = replace(kept.answer, timings_ms={"total": _ms_since(begun)})
        return replace(kept, answer=answer, cache="hit")

    def _reply(self, ask: Ask, use: CacheUse, answer: Answer, completion: Completion | None, clock: _Clock) -> Reply:
        reason = "stop" if completion is None else completion.finish_reason
        if reason == "cancelled":
            raise EngineError("the engine stopped before the answer was complete", "ask again")
        reply = Reply(replace(answer, timings_ms=clock.timings_ms()), reason, use)
        if use == "miss":
            self._cache.put(self._key(ask), reply)
        return reply


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
