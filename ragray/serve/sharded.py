"""Retrieval from an index whose segments are spread over deployments, so that each node holds a part of it.

In: handles of the shards' deployments. Out: a retriever with the answers of one that holds the whole index: it asks all
shards, merges their rankings, and reads the confidence off the result. A shard that does not answer fails the request,
by its name: fewer hits would look like an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from ragray.distributed.sharded_corpus import Call
from ragray.distributed.shards import Shard, ShardedIndex, open_over, segment_groups
from ragray.errors import ConfigError
from ragray.retrieval.agreement import read
from ragray.retrieval.confidence import Confidence
from ragray.retrieval.index import MAX_QUERY_CHARS, Hit, HybridIndex, described
from ragray.retrieval.similar import Wording, wording_of
from ragray.serve.api import ApiError, busy
from ragray.serve.artifacts import open_artifact
from ragray.serve.calls import cancel
from ragray.serve.conversation import Word, weigh
from ragray.serve.replicas import RetrieverReplica
from ragray.serve.retriever import Found, FoundPassage, Retriever, found_passage
from ragray.serve.shelf import Shelf

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.serve.artifacts import Served

_ANSWERED = frozenset(name for name in vars(Shard) if not name.startswith("_"))
_RESTS_S = 1.0  # how long a shard that was lost is not asked: who waits behind others learns it at once


def groups_of(index_uri: str, shards: int) -> list[list[int]]:
    """Which segments of an index artifact each shard holds.

    Raises:
        ArtifactError: there is none.
        ConfigError: it has too few segments, or embeddings.
    """
    return segment_groups(open_artifact(index_uri, "index").folder, shards)


def identity(digest: str, segments: Sequence[int]) -> str:
    """What a shard of an index is called by those who ask it: another index, or another share of it, is refused."""
    return f"{digest}/{segments[0]}-{segments[-1]}"


class ShardReplica:
    """Some segments of an index, in a replica of their own.

    Args:
        index_uri: an `index` artifact.
        segments: which of its segments.

    Raises:
        ArtifactError: it is missing or damaged.
    """

    def __init__(self, index_uri: str, segments: Sequence[int]) -> None:
        folder = open_artifact(index_uri, "index").folder
        self._identity = identity(described(folder)["digest"], segments)
        self._shard = Shard(str(folder), segments)

    def answer(self, of: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a method of `Shard`.

        Raises:
            ApiError: 503, this is another shard than `of`: parts are being replaced.
        """
        if of != self._identity or method not in _ANSWERED:
            raise ApiError(503, "the index is being replaced; try again", code="restarting", retry_after_s=2)
        return getattr(self._shard, method)(*arguments)


class ServedShards:
    """`Shards` behind deployment handles. Asked from threads; the calls are made in the replica's event loop.

    Args:
        handles: of the shards' deployments, in document order.
        identities: of the shards.
        timeout_s: after which one that does not answer counts as lost, seconds.
    """

    def __init__(self, handles: Sequence[DeploymentHandle[Any]], identities: Sequence[str], timeout_s: float) -> None:
        self._handles, self._identities, self._timeout_s = list(handles), list(identities), timeout_s
        self._lost_until = [0.0] * len(self._handles)  # seconds of `time.monotonic`
        self.loop: asyncio.AbstractEventLoop | None = None  # that of the replica, once it answers

    def __len__(self) -> int:
        return len(self._handles)

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """See `Shards.ask`.

        Raises:
            ApiError: 503, a shard is lost; 429, its queue is full.
        """
        if not calls:
            return []
        assert self.loop is not None and not _is_in_a_loop(), "shards are asked from threads: their loop would wait"
        return asyncio.run_coroutine_threadsafe(self._ask(calls), self.loop).result()

    async def _ask(self, calls: Sequence[Call]) -> list[Any]:
        tasks = [asyncio.ensure_future(self._answer(call)) for call in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, call: Call) -> Any:
        if self._lost_until[call.shard] > time.monotonic():
            raise self._lost(call.shard)
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._called(call)
                except RayActorError:  # a search changes nothing, and another replica may be there
                    return await self._called(call)
        except (RayActorError, DeploymentUnavailableError, TaskCancelledError, TimeoutError):
            self._lost_until[call.shard] = time.monotonic() + _RESTS_S
            raise self._lost(call.shard) from None
        except BackPressureError:
            raise busy() from None
        except ApiError as error:
            raise getattr(error, "cause", error) from None  # as the shard raised it, not as Ray brought it

    async def _called(self, call: Call) -> Any:
        response = self._handles[call.shard].answer.remote(self._identities[call.shard], call.method, call.arguments)
        try:
            return await response
        finally:
            cancel(response)

    def _lost(self, shard: int) -> ApiError:
        message = f"shard {shard + 1} of {len(self)} of the index does not answer; try again"
        return ApiError(503, message, code="restarting", retry_after_s=2)


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class ShardedRetriever(Retriever):
    """A retriever over shards. All that asks them runs in threads, so that the event loop can make their calls.

    Args:
        served: the index, and the confidence that was fitted on it.
        timeout_s: after which a shard that does not answer counts as lost, seconds.
        handles: of the deployments of its shards, in order.

    Raises:
        ArtifactError: an artifact is missing or damaged.
        ConfigError: the index has too few segments, or embeddings.
    """

    def __init__(self, served: Served, timeout_s: float, handles: Sequence[DeploymentHandle[Any]]) -> None:
        assert served.index is not None
        folder = open_artifact(served.index, "index").folder
        groups, digest = segment_groups(folder, len(handles)), described(folder)["digest"]
        self._shards = ServedShards(handles, [identity(digest, group) for group in groups], timeout_s)
        self._sharded: ShardedIndex = open_over(folder, self._shards, groups)
        confidence = None
        if served.confidence is not None:
            confidence = Confidence.open(open_artifact(served.confidence, "calibrate").folder)
        super().__init__(self._sharded, confidence, served.lineage)

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""
        index, hits = await self._hits((query, top_k))
        return Found(await asyncio.to_thread(self._told, query, hits, explain), self._lineage(index))

    async def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of some texts, weighed by the index."""
        await self._latest()
        return await asyncio.to_thread(self._weighed, texts)

    async def wording(self, question: str) -> Wording:
        """A question as the semantic cache compares it with others."""
        await self._latest()
        return await asyncio.to_thread(self._worded, question)

    async def ready(self) -> bool:
        """True once all shards answer."""
        await self._latest()
        calls = [Call(shard, "numbers", ([],)) for shard in range(len(self._shards))]
        try:
            await asyncio.to_thread(self._shards.ask, calls)
        except ApiError:
            return False
        return True

    async def _latest(self) -> HybridIndex:
        self._shards.loop = asyncio.get_running_loop()
        return self._sharded

    def _told(self, query: str, hits: Sequence[Hit], explain: bool) -> tuple[FoundPassage, ...]:
        index = self._sharded
        terms = index.query_terms(query) if explain else None
        return tuple(found_passage(index, hit, self._passages.read(hit.doc_id), terms) for hit in hits)

    def _weighed(self, texts: Sequence[str]) -> list[list[Word]]:
        self._sharded.sharded.places(term for text in texts for term in self._sharded.terms(text))  # at once
        return [weigh(self._sharded, text) for text in texts]

    def _worded(self, question: str) -> Wording:
        index = self._sharded
        marks = read(question[:MAX_QUERY_CHARS], index.analyzer).marks
        index.sharded.places([*index.terms(question), *(text for _, text in marks)])  # at once
        return wording_of(index, question)


class ShardedRetrieverReplica(RetrieverReplica):
    """The retriever over shards in a replica of its own; its index stays what the application was deployed with.

    Args:
        served: what the application was deployed with.
        timeout_s: after which a shard that does not answer counts as lost, seconds.
        handles: of the deployments of its shards, in order.

    Raises:
        ArtifactError: an artifact is missing or damaged.
        ConfigError: the index has too few segments, or embeddings.
    """

    def __init__(self, served: Served, timeout_s: float, *handles: DeploymentHandle[Any]) -> None:
        def opened(wanted: Served) -> Retriever:
            if wanted.of_retriever != served.of_retriever:
                raise ConfigError(
                    "the index of this application is searched in shards, which hold the one that it was deployed with",
                    "swap its engine alone, or deploy it again",
                )
            return ShardedRetriever(served, timeout_s, handles)

        self._follow(served, Shelf(opened, lambda wanted: wanted.of_retriever))
