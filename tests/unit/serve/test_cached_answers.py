"""Answers that were given before: what is found, by whom, and what the answer says about it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ragray.config import ServeConfig
from ragray.config_cache import CacheConfig
from ragray.engine.assistant import Retrieved
from ragray.engine.protocol import SamplingParams
from ragray.retrieval.index import HybridIndex
from ragray.serve.answers import AnswerCache, Caches, KeptRetrievals
from ragray.serve.cache import MemoryCache
from ragray.serve.chat import Ask, Chat, Reply
from ragray.serve.current import Current
from ragray.serve.ingress import Door
from ragray.serve.retriever import Followed, Retriever

QUESTION, SAME, OTHER = "How do I install ragray?", "how can I install ragray", "How do I uninstall ragray?"
PARAMS = SamplingParams(max_new_tokens=64)


class Counted:
    """Looks into the caches, counted."""

    def __init__(self) -> None:
        self.looks: Counter[str] = Counter()

    def __call__(self, cache: str, use: str) -> None:
        self.looks[f"{cache} {use}"] += 1


def chat_of(door: Door, count: Counted, thresholds: dict[str, float] | None, **settings: Any) -> Chat:
    chosen = CacheConfig(**settings)
    caches = Caches(AnswerCache(chosen, thresholds, None, count), KeptRetrievals(chosen, count))
    return Chat(door.current, caches)


def behind(retriever: Retriever, door: Door) -> Current:
    return Current(replace(door.current.now, retriever=retriever))


def asked(chat: Chat, question: str, **more: Any) -> Reply:
    async def one() -> Reply:
        return await chat.answer(await chat.begin(Ask(question, PARAMS, **more)))

    return asyncio.run(one())


def test_a_near_question_gets_the_answer_and_is_told_whose(door: Door, engine: Any) -> None:
    count = Counted()
    chat = chat_of(door, count, {"en": 0.9})
    first, second, third = asked(chat, QUESTION), asked(chat, SAME), asked(chat, OTHER)
    assert [reply.cache for reply in (first, second, third)] == ["miss", "semantic", "miss"]
    assert first.cached is None and third.cached is None
    assert second.cached is not None and second.cached.similarity is not None and second.cached.similarity >= 0.9
    assert 0 <= second.cached.age_s < 60
    assert replace(second.answer, timings_ms={}) == replace(first.answer, timings_ms={})
    assert len(engine.handles) == 2
    again = asked(chat, QUESTION)
    assert again.cache == "hit" and again.cached is not None and again.cached.similarity is None
    assert count.looks == {
        "exact miss": 3, "exact hit": 1, "semantic miss": 2, "semantic hit": 1, "retrieval miss": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("thresholds", "settings"),
    [(None, {}), ({"zh": 0.5}, {}), ({"en": 0.5}, {"semantic": False}), ({"en": 1.0}, {"exact_mib": 0})],
    ids=["not shown", "not shown for the language", "off", "no cache"],
)
def test_near_questions_share_nothing_without_a_threshold(
    door: Door, thresholds: dict[str, float] | None, settings: dict[str, Any]
) -> None:
    chat = chat_of(door, Counted(), thresholds, **settings)
    asked(chat, QUESTION)
    assert asked(chat, SAME).cache in {"miss", "off"}


def test_other_parameters_share_nothing(door: Door) -> None:
    chat = chat_of(door, Counted(), {"en": 0.9})
    asked(chat, QUESTION)

    async def shorter() -> Reply:
        return await chat.answer(await chat.begin(Ask(SAME, replace(PARAMS, max_new_tokens=3))))

    assert asyncio.run(shorter()).cache == "miss"


def test_a_decline_is_given_to_the_same_question_alone(make_door: Callable[..., Door]) -> None:
    chat = chat_of(make_door(threshold=0.9), Counted(), {"en": 0.9})
    assert asked(chat, QUESTION).answer.declined
    assert [asked(chat, question).cache for question in (SAME, QUESTION)] == ["miss", "hit"]


def test_a_request_that_wants_no_cache_fills_and_finds_none(door: Door) -> None:
    count = Counted()
    chat = chat_of(door, count, {"en": 0.9})
    assert [asked(chat, QUESTION, cache=False).cache for _ in range(2)] == ["off", "off"]
    assert count.looks == {}
    assert asked(chat, QUESTION).cache == "miss"


def test_an_answer_that_cannot_be_read_is_a_miss(door: Door) -> None:
    chat = chat_of(door, Counted(), None)
    asked(chat, QUESTION)
    cache: MemoryCache = chat._answers._memory
    (entry,) = cache._entries.values()
    cache.put(replace(entry, value=b'{"question": 3}'))
    assert [asked(chat, QUESTION).cache for _ in range(2)] == ["miss", "hit"]


class Versions(Retriever):
    """A retriever whose index changes when it is told to, and that counts its searches."""

    version, searches = 1, 0

    async def followed(self) -> Followed:
        return Followed(self.version, self.lineage, True)

    @property
    def lineage(self) -> dict[str, str]:
        return {"index": "x", "index_version": str(self.version)}

    async def retrieve(self, question: str) -> Retrieved:
        self.searches += 1
        return replace(await super().retrieve(question), lineage=self.lineage)


def test_passages_are_kept_for_one_version_of_the_index(door: Door, index: HybridIndex) -> None:
    retriever = Versions(index, door.retriever._confidence)  # type: ignore[attr-defined]
    counted = Counted()
    kept = KeptRetrievals(CacheConfig(), counted)

    def passages() -> Retrieved:
        return asyncio.run(kept.retrieve(retriever, QUESTION))

    first, second = passages(), passages()
    assert replace(first, retrieve_ms=0.0) == replace(second, retrieve_ms=0.0)
    assert (retriever.searches, len(kept), counted.looks["retrieval hit"]) == (1, 1, 1)
    retriever.version = 2
    assert passages().lineage["index_version"] == "2"
    assert (retriever.searches, len(kept)) == (2, 1)  # those of version 1 are freed
    off = KeptRetrievals(CacheConfig(retrieval_mib=0))
    for _ in range(2):
        asyncio.run(off.retrieve(retriever, QUESTION))
    assert (retriever.searches, len(off)) == (4, 0)


def test_the_former_version_s_answers_are_freed_when_the_index_changes(door: Door, index: HybridIndex) -> None:
    retriever = Versions(index, door.retriever._confidence)  # type: ignore[attr-defined]
    answers = AnswerCache(CacheConfig(), {"en": 0.9})
    chat = Chat(behind(retriever, door), Caches(answers, KeptRetrievals(CacheConfig())))
    assert [asked(chat, question).cache for question in (QUESTION, SAME, OTHER)] == ["miss", "semantic", "miss"]
    assert answers.stats()["entries"] == 2
    retriever.version = 2
    assert asked(chat, SAME).cache == "miss"
    stats = answers.stats()
    assert (stats["entries"], stats["left.retired"], stats["exact.miss"]) == (1, 2, 4)


def test_an_answer_of_the_former_version_that_comes_late_is_not_kept(door: Door, index: HybridIndex) -> None:
    retriever = Versions(index, door.retriever._confidence)  # type: ignore[attr-defined]
    answers = AnswerCache(CacheConfig())
    chat = Chat(behind(retriever, door), Caches(answers, KeptRetrievals(CacheConfig())))

    async def overtaken() -> None:
        slow = await chat.begin(Ask(QUESTION, PARAMS))
        found = await retriever.retrieve(QUESTION)
        retriever.version = 2
        await chat.begin(Ask(OTHER, PARAMS))  # the new version is seen
        completion = await door.generator.complete(found, PARAMS)
        from ragray.engine.assistant import compose
        from ragray.serve.chat import _Clock

        await chat._reply(slow, found, compose(found, completion), completion, _Clock(0.0, 0.0))

    asyncio.run(overtaken())
    assert answers.stats()["entries"] == 0


def test_answers_tell_their_age_over_http(make_door: Callable[..., Door]) -> None:
    from test_ingress import Client  # type: ignore[import-not-found]

    client = Client(make_door(ServeConfig(max_new_tokens=64)))
    first, second = client.chat().json(), client.chat().json()
    assert (first["cache"], first["cached"]) == ("miss", None)
    assert second["cache"] == "hit" and set(second["cached"]) == {"age_s", "similarity"}
    assert second["cached"]["age_s"] >= 0
