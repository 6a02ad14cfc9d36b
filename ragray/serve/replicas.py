"""Replicas of a retriever or a generator that run apart from the ingress.

In: calls of ingresses, each with the number of the release that it answers from. Out: what that release's part says.
Between two releases both are there, so that an answer begins and ends on one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from ragray.config import EngineConfig
from ragray.engine.assistant import Retrieved
from ragray.engine.protocol import Completion, SamplingParams
from ragray.serve.conversation import Word
from ragray.serve.follower import Follower
from ragray.serve.held import generators, retrievers
from ragray.serve.retriever import Batches, Followed, Found, Retriever
from ragray.serve.shelf import Shelf

if TYPE_CHECKING:
    from ragray.retrieval.similar import Wording
    from ragray.serve.artifacts import Served


class RetrieverReplica:
    """Retrievers by release.

    Args:
        served: what the application was deployed with.
        batches: how questions wait for others, so that more of them are searched together; None: they do not.

    Raises:
        ArtifactError: the index or the confidence is missing or damaged.
    """

    def __init__(self, served: Served, batches: Batches | None) -> None:
        self._follow(served, retrievers(batches))

    def _follow(self, served: Served, shelf: Shelf[Retriever]) -> None:
        self._retrievers = shelf
        self._follower = Follower("retriever", served, shelf)
        self._follower.start()

    async def retrieve(self, question: str, release: int) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        return await self._retrievers[release].retrieve(question)

    async def search(self, query: str, top_k: int, explain: bool, release: int) -> Found:
        """The best `top_k` passages."""
        return await self._retrievers[release].search(query, top_k, explain)

    async def followed(self, release: int) -> Followed | None:
        """The version of an index that changes."""
        return await self._retrievers[release].followed()

    async def words(self, texts: Sequence[str], release: int) -> list[list[Word]]:
        """The words of some texts, weighed by the index."""
        return await self._retrievers[release].words(texts)

    async def wording(self, question: str, release: int) -> Wording:
        """A question as the semantic cache compares it with others."""
        return await self._retrievers[release].wording(question)

    async def ready(self, release: int) -> bool:
        """True once questions can be answered."""
        return await self._retrievers[release].ready()

    def __del__(self) -> None:
        """Serve calls this where a replica ends in order."""
        if hasattr(self, "_follower"):
            self._follower.leave()


class GeneratorReplica:
    """Generators by release.

    Args:
        served: what the application was deployed with.
        settings: threads, batch size and memory of the engines.
        stream_every_s: least time between two pieces of one stream, seconds.

    Raises:
        ArtifactError: the engine is missing or damaged.
        EngineError: it does not run on this device.
    """

    def __init__(self, served: Served, settings: EngineConfig, stream_every_s: float) -> None:
        self._generators = generators(settings, stream_every_s)
        self._follower = Follower("generator", served, self._generators)
        self._follower.start()

    async def stream(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str], release: int
    ) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, then its completion."""
        async with aclosing(self._generators[release].stream(retrieved, params, stop)) as items:
            async for item in items:
                yield item

    async def complete(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str], release: int
    ) -> Completion:
        """The whole answer."""
        return await self._generators[release].complete(retrieved, params, stop)

    async def ready(self, release: int) -> bool:
        """True once answers can be generated."""
        return await self._generators[release].ready()

    async def stats(self) -> dict[str, float]:
        """The current engine's counts: requests, active, prompt_tokens, completion_tokens."""
        return await self._generators[self._generators.oldest()].stats()

    def __del__(self) -> None:
        """Serve calls this where a replica ends in order."""
        if hasattr(self, "_follower"):
            self._follower.leave()
