"""Answers that were given before, found again by the question's own words or by a near question.

In: a question with its parameters and the lineage of what answers. Out: an earlier answer with its age, and with the
question that it was given to. Answers are kept as JSON; one that cannot be read is a miss. An answer that says that the
documents hold none is never given to another question: other words may find something.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ragray.config_cache import CacheConfig
from ragray.engine.assistant import Answer, Retrieved
from ragray.retrieval.similar import Wording
from ragray.serve.cache import Entry, MemoryCache, Place, place_of
from ragray.serve.cache_store import Layers, Store
from ragray.serve.retriever import Retrieval

Count = Callable[[str, str], None]  # (which cache, hit or miss or failed)
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer as it is kept."""

    question: str
    answer: Answer
    finish_reason: Literal["stop", "length"]
    lineage: dict[str, str]


@dataclass(frozen=True, slots=True)
class Recalled:
    """An answer that was given before."""

    stored: Stored
    age_s: float
    similarity: float | None = None  # of the two questions; None where they are the same


class AnswerCache:
    """Finds answers that were given before.

    Args:
        settings: sizes and ages.
        thresholds: from which similarity on, by language, a near question's answer is given; empty: never.
        shared: a cache behind that of this process.
        count: told of each look.
    """

    def __init__(
        self,
        settings: CacheConfig,
        thresholds: Mapping[str, float] | None = None,
        shared: Store | None = None,
        count: Count = lambda cache, use: None,
    ) -> None:
        self.is_on = settings.exact_mib > 0
        self._semantic = settings.semantic
        self.retune(thresholds or {})
        self._memory = MemoryCache(int(settings.exact_mib * MIB), settings.ttl_s)
        self._layers = Layers(self._memory, shared, lambda: self._tell("shared", "failed"))
        self._count = count
        self.counts: Counter[str] = Counter()

    @property
    def is_semantic(self) -> bool:
        """Whether near questions share answers."""
        return self.is_on and bool(self._thresholds)

    async def find(self, place: Place) -> Recalled | None:
        """The answer to the same question."""
        found = _recalled(await self._layers.get(place.key))
        self._tell("exact", "miss" if found is None else "hit")
        return found

    async def find_near(self, place: Place, asked: Wording) -> Recalled | None:
        """The answer to a past question that asks for the same."""
        threshold = self._thresholds.get(asked.lang)
        if threshold is None:
            return None
        near = await self._layers.near(place.room, asked, threshold)
        found = None if near is None else _recalled(near.entry, round(near.similarity, 4))
        self._tell("semantic", "miss" if found is None else "hit")
        return found

    def retune(self, thresholds: Mapping[str, float]) -> None:
        """Other thresholds for near questions, as another release answers."""
        self._thresholds = dict(thresholds) if self._semantic else {}

    async def keep(self, place: Place, stored: Stored, wording: Wording | None) -> None:
        """Keep an answer; with a `wording` it may be given to near questions, too."""
        shown = None if stored.answer.declined else wording
        await self._layers.put(Entry(place, _adapter().dump_json(stored), time.time(), shown))

    async def retire(self, lineage: Mapping[str, str]) -> None:
        """Free the answers of what answers no more."""
        await self._layers.retire(place_of("", {}, lineage).scope)

    def stats(self) -> dict[str, int]:
        """Looks by cache and outcome, entries and bytes in this process, and how many left for which reason."""
        left = {f"left.{why}": count for why, count in self._memory.counts.items()}
        return {**self.counts, **left, "entries": len(self._memory), "bytes": self._memory.size}

    def _tell(self, cache: str, use: str) -> None:
        self.counts[f"{cache}.{use}"] += 1
        self._count(cache, use)


def _recalled(entry: Entry | None, similarity: float | None = None) -> Recalled | None:
    if entry is None:
        return None
    try:
        stored = _adapter().validate_json(entry.value)
    except ValidationError:  # of another version of ragray
        return None
    return Recalled(stored, round(max(0.0, time.time() - entry.stored), 3), similarity)


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Stored]:
    return TypeAdapter(Stored)


class KeptRetrievals:
    """Passages that were found before for the same question, in the same version of the index.

    Args:
        settings: size and age.
        count: told of each look.
    """

    def __init__(self, settings: CacheConfig, count: Count = lambda cache, use: None) -> None:
        self.is_on = settings.retrieval_mib > 0
        self._memory = MemoryCache(int(settings.retrieval_mib * MIB), settings.ttl_s)
        self._count = count
        self._scope = ""
        self._of: Retrieval | None = None
        self._adapter = TypeAdapter(Retrieved)

    async def retrieve(self, retriever: Retrieval, question: str) -> Retrieved:
        """The passages for a question, with the time that this took now."""
        if not self.is_on:
            return await retriever.retrieve(question)
        begun = time.perf_counter()
        followed = await retriever.followed()
        looked = followed.lineage if followed else {}
        place = place_of(question, {}, looked)
        if place.scope != self._scope or retriever is not self._of:  # another version of the index, or release
            self._memory.retire(self._scope)
            self._scope, self._of = place.scope, retriever
        if (entry := self._memory.get(place.key)) is not None:
            self._count("retrieval", "hit")
            retrieved = self._adapter.validate_json(entry.value)
            return replace(retrieved, retrieve_ms=(time.perf_counter() - begun) * 1e3)
        self._count("retrieval", "miss")
        retrieved = await retriever.retrieve(question)
        is_of_look = looked.items() <= retrieved.lineage.items()
        if is_of_look and place.scope == self._scope and retriever is self._of:  # else it changed meanwhile
            self._memory.put(Entry(place, self._adapter.dump_json(retrieved), time.time()))
        return retrieved

    def __len__(self) -> int:
        return len(self._memory)


class Caches(NamedTuple):
    """All that a chat need not do again."""

    answers: AnswerCache
    retrievals: KeptRetrievals
