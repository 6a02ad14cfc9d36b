"""One question from request to answer: cache, retrieval, decline or generation.

In: a checked question with its sampling parameters. Out: a `Reply`, whole or after its text piece by piece.
Both ways give the same text. No HTTP and no Ray here: the ingress brings both.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from ragray.engine.assistant import Answer, Retrieved, compose
from ragray.engine.protocol import Completion, SamplingParams
from ragray.errors import EngineError
from ragray.prompt import parse_answer
from ragray.retrieval.similar import Wording
from ragray.serve.answers import Caches, Recalled, Stored
from ragray.serve.cache import Place, normalise_question, place_of
from ragray.serve.current import Behind, Current
from ragray.serve.retriever import Retrieval
from ragray.serve.stream import AnswerText

CacheUse = Literal["hit", "semantic", "miss", "off"]  # semantic: the answer to a past question that asks for the same
_NOT_PARAMETERS = {"question", "cache", "asked"}  # of what is asked: all else decides the answer


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that stands alone, how to answer it, and whether the cache may be used."""

    question: str
    params: SamplingParams
    cache: bool = True
    stop: tuple[str, ...] = ()  # strings before which the answer ends
    asked: str = ""  # as the user wrote it, where the question was made from the conversation


@dataclass(frozen=True, slots=True)
class Cached:
    """Where an answer from the cache comes from."""

    age_s: float  # since it was made
    similarity: float | None  # of the question that it was made to with this one; None where they are the same


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, why it ended, and what the cache did. Times are those of this request."""

    answer: Answer
    finish_reason: Literal["stop", "length"]
    cache: CacheUse
    lineage: Mapping[str, str]  # digests of all that the answer came from
    cached: Cached | None = None  # None where it was made for this request


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, what the cache has for it, and what answers it otherwise."""

    ask: Ask
    cache: CacheUse
    kept: Recalled | None
    begun: float  # seconds of `time.perf_counter`
    behind: Behind
    looked: Mapping[str, str] = field(default_factory=dict)  # lineage of the look into the cache
    wording: Wording | None = None  # by which the answer may be found again, with a semantic cache

    @property
    def lineage(self) -> Mapping[str, str]:
        """Of the answer, as far as it is known before it."""
        return self.behind.lineage_of(self.ask.params.adapter) if self.kept is None else self.kept.stored.lineage


class Chat:
    """Answers questions from the documents.

    Args:
        current: what finds the passages and writes the answer, and the digests of that.
        caches: answers that were given and passages that were found before.
        seen: hears of each reply, with what the engine wrote for it.
    """

    def __init__(
        self,
        current: Current,
        caches: Caches,
        seen: Callable[[Reply, Completion | None], None] = lambda reply, completion: None,
    ) -> None:
        self._current = current
        self._answers, self._retrievals = caches
        self._seen = seen
        self._followed: list[dict[str, str]] = []  # the lineages last looked for, of each model

    async def begin(self, ask: Ask) -> Turn:
        """Look into the cache; sampled answers are never cached.

        Raises:
            ApiError: a part of the server is busy or away.
        """
        begun = time.perf_counter()
        if not ask.cache or ask.params.temperature > 0 or not self._answers.is_on:
            return Turn(ask, "off", None, begun, self._current.now)
        with self._current.used(self._current.now) as behind:
            followed = await behind.retriever.followed()
            of_index = followed.lineage if followed else {}
            looked = {**behind.lineage_of(ask.params.adapter), **of_index}
            await self._follow(behind, of_index)
            place = self._place(ask, looked)
            if (kept := await self._answers.find(place)) is not None:
                return Turn(ask, "hit", kept, begun, behind)
            if not self._answers.is_semantic:
                return Turn(ask, "miss", None, begun, behind, looked)
            wording = await behind.retriever.wording(normalise_question(ask.question))
            kept = await self._answers.find_near(place, wording)
            return Turn(ask, "miss" if kept is None else "semantic", kept, begun, behind, looked, wording)

    async def answer(self, turn: Turn) -> Reply:
        """The whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        if turn.kept is not None:
            return self._recalled(turn)
        ask, completion = turn.ask, None
        with self._current.used(turn.behind) as behind:
            retrieved = await self._retrieve(behind.retriever, ask)
            if retrieved.answerable:
                completion = await behind.generator.complete(retrieved, ask.params, ask.stop)
        clock = _Clock(turn.begun, retrieved.retrieve_ms)
        return await self._reply(turn, retrieved, _composed(retrieved, completion, ask), completion, clock)

    async def stream(self, turn: Turn) -> AsyncGenerator[str | Reply, None]:
        """Pieces of the answer's text, then the whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        if turn.kept is not None:
            yield turn.kept.stored.answer.text
            yield self._recalled(turn)
            return
        completion: Completion | None = None
        with self._current.used(turn.behind) as behind:
            retrieved = await self._retrieve(behind.retriever, turn.ask)
            clock = _Clock(turn.begun, retrieved.retrieve_ms)
            text = AnswerText(retrieved)
            if retrieved.answerable:
                async with aclosing(behind.generator.stream(retrieved, turn.ask.params, turn.ask.stop)) as items:
                    async for item in items:
                        clock.see_first()
                        if isinstance(item, Completion):
                            completion = item
                        elif piece := text.feed(item):
                            yield piece
        answer = _composed(retrieved, completion, turn.ask)
        if piece := text.finish(answer):
            yield piece
        yield await self._reply(turn, retrieved, answer, completion, clock)

    async def _retrieve(self, retriever: Retrieval, ask: Ask) -> Retrieved:
        question = normalise_question(ask.question)
        if not ask.cache:
            return await retriever.retrieve(question)
        return await self._retrievals.retrieve(retriever, question)

    async def _follow(self, behind: Behind, of_index: Mapping[str, str]) -> None:
        """Free the answers of the release, or of the version of the index, that was followed before."""
        lineages = [{**behind.lineage_of(adapter), **of_index} for adapter in (None, *behind.adapters)]
        if lineages != self._followed:
            former, self._followed = self._followed, lineages
            for one in former:
                if one not in lineages:
                    await self._answers.retire(one)

    @staticmethod
    def _place(ask: Ask, lineage: Mapping[str, str]) -> Place:
        """Where the answer belongs."""
        parameters = {name: value for name, value in asdict(ask).items() if name not in _NOT_PARAMETERS}
        return place_of(normalise_question(ask.question), parameters, lineage)

    async def _reply(
        self, turn: Turn, retrieved: Retrieved, answer: Answer, completion: Completion | None, clock: _Clock
    ) -> Reply:
        reason = "stop" if completion is None else completion.finish_reason
        if reason == "cancelled":
            raise EngineError("the engine stopped before the answer was complete", "ask again")
        answer = replace(answer, timings_ms=clock.timings_ms())
        wrote = {} if completion is None else completion.lineage
        lineage = {**turn.behind.lineage_of(turn.ask.params.adapter), **retrieved.lineage, **wrote}
        reply = Reply(answer, reason, turn.cache, lineage)
        if turn.cache == "miss" and (lineage != turn.looked or turn.looked in self._followed):
            place = self._place(turn.ask, lineage)  # of what answered, not of the look
            stored = Stored(normalise_question(turn.ask.question), answer, reason, lineage)
            await self._answers.keep(place, stored, turn.wording)
        self._seen(reply, completion)
        return reply

    def _recalled(self, turn: Turn) -> Reply:
        reply = _recalled(turn)
        self._seen(reply, None)
        return reply


def _composed(retrieved: Retrieved, completion: Completion | None, ask: Ask) -> Answer:
    """The answer; one that a stop string ended before its first word is empty and no decline."""
    answer = compose(retrieved, completion)
    if completion is not None and ask.stop and not parse_answer(completion.text).text:
        return replace(answer, text="", declined=False, declined_by="")
    return answer


def _recalled(turn: Turn) -> Reply:
    assert turn.kept is not None
    stored = turn.kept.stored
    answer = replace(stored.answer, timings_ms={"total": _ms_since(turn.begun)})
    cached = Cached(turn.kept.age_s, turn.kept.similarity)
    return Reply(answer, stored.finish_reason, turn.cache, stored.lineage, cached)


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
