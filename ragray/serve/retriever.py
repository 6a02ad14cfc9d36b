"""Retrieval as a part of the served application.

In: questions. Out: what is shown to the model (`Retrieved`), or hits with their rank and score in each list, and for an
index that changes the version that gave them. `Retriever` is a plain class: a Serve deployment wraps it, and an ingress
may hold it in process; `RemoteRetriever` is the same interface over a deployment handle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from ragray.engine.assistant import Retrieved, retrieve
from ragray.serve.artifacts import open_artifact
from ragray.serve.calls import unary

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.current import CurrentIndex
    from ragray.retrieval.index import Hit, HybridIndex, TermContribution
    from ragray.retrieval.postings import QueryTerms


P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """One search hit with its passage: fused rank and score, and those of each list."""

    rank: int
    score: float
    prior: float  # the part of the score that a learned prior gave
    bm25_rank: int | None
    bm25_score: float
    tfidf_rank: int | None
    tfidf_score: float
    doc_id: str
    title: str
    text: str
    source: str
    kind: str
    lang: str
    dense_rank: int | None = None  # of embeddings, where the index has them
    dense_score: float | None = None
    rerank_score: float | None = None  # of the cross-encoder, where the index has one
    terms: tuple[TermContribution, ...] | None = None  # what each adds to the scores, where that was asked for

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        tree = asdict(self)
        if self.terms is None:
            del tree["terms"]
        return tree


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of a search, and of an index that changes what of it gave them."""

    hits: tuple[FoundPassage, ...]
    lineage: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a retriever has followed an index that changes."""

    version: int
    lineage: dict[str, str]
    is_current: bool  # False: a newer version cannot be opened


class Retrieval(Protocol):
    """What the ingress asks of a retriever, wherever it runs."""

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""

    async def followed(self) -> Followed | None:
        """The version that the next question is answered from; None for an index that never changes."""

    async def ready(self) -> bool:
        """True once questions can be answered."""


class Retriever:
    """The hybrid index with its calibrated confidence. A question is answered from one version of the index."""

    def __init__(self, index: HybridIndex | CurrentIndex, confidence: Confidence) -> None:
        from ragray.retrieval.current import CurrentIndex

        self._current = index if isinstance(index, CurrentIndex) else None
        self._index = index.index if isinstance(index, CurrentIndex) else index
        self._confidence = confidence

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        index = await self._latest()
        found = await _aside(index, retrieve, index, self._confidence, question)
        return replace(found, lineage=self._lineage(index))

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""
        index = await self._latest()
        hits = await _aside(index, index.search, query, top_k)
        terms = index.query_terms(query) if explain else None
        return Found(tuple(_found(index, hit, terms) for hit in hits), self._lineage(index))

    async def followed(self) -> Followed | None:
        """The version that the next question is answered from; None for an index that never changes."""
        if self._current is None:
            return None
        from ragray.retrieval.current import version_of

        index = await self._latest()
        return Followed(version_of(index), self._lineage(index), not self._current.failure)

    async def ready(self) -> bool:
        """True once questions can be answered."""
        return len(await self._latest()) > 0

    async def _latest(self) -> HybridIndex:
        """The index; a new version is opened beside the one that other questions are answered from meanwhile."""
        if self._current is not None:
            if self._current.is_behind():
                await asyncio.to_thread(self._current.follow)
            self._index = self._current.index
        return self._index

    def _lineage(self, index: HybridIndex) -> dict[str, str]:
        if self._current is None:
            return {}
        from ragray.retrieval.current import version_of

        return {"index": index.digest, "index_version": str(version_of(index))}


async def _aside(index: HybridIndex, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of a search; in a thread where it runs a model, so that other requests go on meanwhile."""
    return await asyncio.to_thread(call, *args, **kwargs) if index.runs_models else call(*args, **kwargs)


def _found(index: HybridIndex, hit: Hit, query: QueryTerms | None) -> FoundPassage:
    """A hit with its passage, and with what each term adds where a query is given."""
    terms = None if query is None else tuple(index.contributions(query, hit.doc_id))
    return FoundPassage(**{**asdict(index.passage(hit.doc_id)), **asdict(hit)}, terms=terms)


class RetrieverReplica(Retriever):
    """A retriever that opens its artifacts itself; replicas of one machine share the mapped index.

    Args:
        index_uri: an `index` artifact, or the folder of an index that changes.
        confidence_uri: the `calibrate` artifact that was fitted on it, or on what it was made of.
        follows: whether the index changes.

    Raises:
        ArtifactError: one of them is missing or damaged.
    """

    def __init__(self, index_uri: str, confidence_uri: str, follows: bool) -> None:
        from ragray.retrieval.confidence import Confidence
        from ragray.retrieval.current import WARM_UP, CurrentIndex
        from ragray.retrieval.index import HybridIndex

        index: HybridIndex | CurrentIndex
        if follows:
            index = CurrentIndex(Path(index_uri), logger=logging.getLogger("ray.serve"))
        else:
            index = HybridIndex.open(open_artifact(index_uri, "index").folder)
            index.search(WARM_UP, 1)  # what it loads is there when the first question comes
        super().__init__(index, Confidence.open(open_artifact(confidence_uri, "calibrate").folder))


class RemoteRetriever:
    """A `Retriever` behind a deployment handle.

    Args:
        handle: of the deployment.
        follows: whether its index changes.
    """

    def __init__(self, handle: DeploymentHandle[Retriever], follows: bool) -> None:
        self._handle = handle
        self._follows = follows

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        retrieved: Retrieved = await unary(self._handle.retrieve.remote(question))
        return retrieved

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""
        found: Found = await unary(self._handle.search.remote(query, top_k, explain))
        return found

    async def followed(self) -> Followed | None:
        """The version that the next question is answered from; None for an index that never changes."""
        if not self._follows:
            return None  # a cached answer needs no call
        followed: Followed | None = await unary(self._handle.followed.remote())
        return followed

    async def ready(self) -> bool:
        """True once questions can be answered."""
        return bool(await unary(self._handle.ready.remote()))
