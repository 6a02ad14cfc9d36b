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
from ragray.serve.generator import Generation
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
    question: str  # to which it was made
    similarity: float | None  # of that question with this one; None where they are the same


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
    """A question, and what the cache has for it."""

    ask: Ask
    cache: CacheUse
    kept: Recalled | None
    begun: float  # seconds of `time.perf_counter`
    of_index: Mapping[str, str] = field(default_factory=dict)  # of an index that changes: the version of the look
    wording: Wording | None = None  # by which the answer may be found again, with a semantic cache


class Chat:
    """Answers questions from the documents.

    Args:
        retriever: finds the passages.
        generator: writes the answer.
        caches: answers that were given and passages that were found before.
        lineage: digests of everything that an answer depends on; the retriever has those of an index that changes.
        seen: hears of each reply, with what the engine wrote for it.
        adapters: digests of those that a question may be answered with in place of the engine's own, by name.
    """

    def __init__(
        self,
        retriever: Retrieval,
        generator: Generation,
        caches: Caches,
        lineage: Mapping[str, str],
        seen: Callable[[Reply, Completion | None], None] = lambda reply, completion: None,
        adapters: Mapping[str, str] | None = None,
    ) -> None:
        self._retriever = retriever
        self._generator = generator
        self._answers, self._retrievals = caches
        self._lineages: dict[str | None, Mapping[str, str]] = {None: lineage}  # of each adapter's answers
        self._lineages |= {name: {**lineage, "adapter": digest} for name, digest in (adapters or {}).items()}
        self._seen = seen
        self._followed: Mapping[str, str] = {}  # of an index that changes: the version last seen

    async def begin(self, ask: Ask) -> Turn:
        """Look into the cache; sampled answers are never cached.

        Raises:
            ApiError: a part of the server is busy or away.
        """
        begun = time.perf_counter()
        if not ask.cache or ask.params.temperature > 0 or not self._answers.is_on:
            return Turn(ask, "off", None, begun)
        followed = await self._retriever.followed()
        of_index = followed.lineage if followed else {}
        await self._follow(of_index)
        place = self._place(ask, of_index)
        if (kept := await self._answers.find(place)) is not None:
            return Turn(ask, "hit", kept, begun)
        if not self._answers.is_semantic:
            return Turn(ask, "miss", None, begun, of_index)
        wording = await self._retriever.wording(normalise_question(ask.question))
        kept = await self._answers.find_near(place, wording)
        return Turn(ask, "miss" if kept is None else "semantic", kept, begun, of_index, wording)

    async def answer(self, turn: Turn) -> Reply:
        """The whole answer.

        Raises:
            ApiError: a part of the server is busy or away.
            EngineError: the engine cannot answer.
        """
        if turn.kept is not None:
            return self._recalled(turn)
        retrieved, ask = await self._retrieve(turn.ask), turn.ask
        completion = await self._generator.complete(retrieved, ask.params, ask.stop) if retrieved.answerable else None
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
        retrieved = await self._retrieve(turn.ask)
        clock = _Clock(turn.begun, retrieved.retrieve_ms)
        text = AnswerText(retrieved)
        completion: Completion | None = None
        if retrieved.answerable:
            async with aclosing(self._generator.stream(retrieved, turn.ask.params, turn.ask.stop)) as items:
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

    async def _retrieve(self, ask: Ask) -> Retrieved:
        question = normalise_question(ask.question)
        if not ask.cache:
            return await self._retriever.retrieve(question)
        return await self._retrievals.retrieve(self._retriever, question)

    async def _follow(self, of_index: Mapping[str, str]) -> None:
        """Free the answers of the version of the index that was followed before."""
        if of_index != self._followed:
            former, self._followed = self._followed, of_index
            if former:
                for lineage in self._lineages.values():
                    await self._answers.retire({**lineage, **former})

    def _place(self, ask: Ask, of_index: Mapping[str, str]) -> Place:
        """Where the answer belongs."""
        parameters = {name: value for name, value in asdict(ask).items() if name not in _NOT_PARAMETERS}
        lineage = {**self._lineages[ask.params.adapter], **of_index}
        return place_of(normalise_question(ask.question), parameters, lineage)

    async def _reply(
        self, turn: Turn, retrieved: Retrieved, answer: Answer, completion: Completion | None, clock: _Clock
    ) -> Reply:
        reason = "stop" if completion is None else completion.finish_reason
        if reason == "cancelled":
            raise EngineError("the engine stopped before the answer was complete", "ask again")
        answer = replace(answer, timings_ms=clock.timings_ms())
        reply = Reply(answer, reason, turn.cache, {**self._lineages[turn.ask.params.adapter], **retrieved.lineage})
        is_current = retrieved.lineage != turn.of_index or turn.of_index == self._followed
        if turn.cache == "miss" and is_current:
            place = self._place(turn.ask, retrieved.lineage)  # of the version that was searched, not that of the turn
            stored = Stored(normalise_question(turn.ask.question), answer, reason, dict(reply.lineage))
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
    cached = Cached(turn.kept.age_s, stored.question, turn.kept.similarity)
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
