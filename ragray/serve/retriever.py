"""Retrieval as a part of the served application.

In: questions. Out: what is shown to the model (`Retrieved`), or hits with their rank and score in each list, and for an
index that changes the version that gave them. `Retriever` is a plain class: the ingress holds one in process, or a
deployment wraps it, which may also search in batches; `RemoteRetriever` is the same interface over a deployment handle.
`ClosedBook` stands where there is no index.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

from ragray.engine.assistant import Retrieved, retrieve_batch
from ragray.retrieval.index import Hit
from ragray.schema import Passage
from ragray.serve.artifacts import open_artifact
from ragray.serve.calls import unary
from ragray.serve.conversation import Word, weigh
from ragray.serve.together import Together

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.current import CurrentIndex
    from ragray.retrieval.index import HybridIndex, TermContribution
    from ragray.retrieval.postings import QueryTerms
    from ragray.retrieval.similar import Wording
    from ragray.serve.artifacts import Served
    from ragray.serve.replicas import RetrieverReplica


_TOGETHER = 32  # questions of one search: at 16 each costs a third of what it costs alone, and more gain little

P = ParamSpec("P")
R = TypeVar("R")


_OF_HIT = tuple(field.name for field in fields(Hit) if field.name != "doc_id")  # the passage has it, too
_OF_PASSAGE = tuple(field.name for field in fields(Passage))
_hit_values, _passage_values = attrgetter(*_OF_HIT), attrgetter(*_OF_PASSAGE)


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """One search hit with its passage."""

    hit: Hit
    passage: Passage
    terms: tuple[TermContribution, ...] | None = None  # what each adds to the scores, where that was asked for

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object: ranks and scores, then the passage."""
        tree: dict[str, Any] = dict(zip(_OF_HIT, _hit_values(self.hit), strict=True))
        tree.update(zip(_OF_PASSAGE, _passage_values(self.passage), strict=True))
        if self.terms is not None:
            tree["terms"] = [{"term": one.term, "bm25": one.bm25, "tfidf": one.tfidf} for one in self.terms]
        return tree


_KEPT_PASSAGES = 16_384  # some tens of MB with passages of a few hundred words


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of a search, and the digest of the index that gave them."""

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

    async def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of some texts, weighed by the index."""

    async def wording(self, question: str) -> Wording:
        """A question as the semantic cache compares it with others, by the index's terms and weights."""

    async def ready(self) -> bool:
        """True once questions can be answered."""


class Retriever:
    """The hybrid index with its calibrated confidence. A question is answered from one version of the index.

    Questions that come in one turn of the event loop are searched together, which costs a third; each gets
    what it would get alone.

    Args:
        index: what is searched.
        confidence: says whether passages answer a question; None where only searches are asked for.
        lineage: digests of the two; of an index that changes, the version's is put in its place.
    """

    def __init__(
        self, index: HybridIndex | CurrentIndex, confidence: Confidence | None, lineage: Mapping[str, str] | None = None
    ) -> None:
        from ragray.retrieval.current import CurrentIndex

        self._current = index if isinstance(index, CurrentIndex) else None
        self._index = index.index if isinstance(index, CurrentIndex) else index
        self._confidence = confidence
        known = lineage or {}
        self._of_index = {name: known[name] for name in ("index",) if name in known}
        self._of_confidence = {name: known[name] for name in ("confidence",) if name in known}
        self._passages = _Passages(self._index)
        self._retrieved: Callable[[str], Awaitable[tuple[HybridIndex, Retrieved]]]
        self._hits: Callable[[tuple[str, int]], Awaitable[tuple[HybridIndex, list[Hit]]]]
        self._retrieved, self._hits = Together(self._retrieve_all, _TOGETHER), Together(self._search_all, _TOGETHER)

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        index, found = await self._retrieved(question)
        return replace(found, lineage={**self._of_confidence, **self._lineage(index)})

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""
        index, hits = await self._hits((query, top_k))
        terms = index.query_terms(query) if explain else None
        if self._passages.index is not index:
            self._passages = _Passages(index)
        read = self._passages.read
        return Found(tuple(found_passage(index, hit, read(hit.doc_id), terms) for hit in hits), self._lineage(index))

    async def followed(self) -> Followed | None:
        """The version that the next question is answered from; None for an index that never changes."""
        if self._current is None:
            return None
        from ragray.retrieval.current import version_of

        index = await self._latest()
        return Followed(version_of(index), self._lineage(index), not self._current.failure)

    async def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of some texts, weighed by the index."""
        index = await self._latest()
        return [weigh(index, text) for text in texts]

    async def wording(self, question: str) -> Wording:
        """A question as the semantic cache compares it with others."""
        from ragray.retrieval.similar import wording_of

        return wording_of(await self._latest(), question)

    async def ready(self) -> bool:
        """True once questions can be answered."""
        return len(await self._latest()) > 0

    def wait_for(self, batches: Batches) -> None:
        """Let questions wait for others, by Serve."""
        from ray import serve

        together = serve.batch(max_batch_size=batches.size, batch_wait_timeout_s=batches.wait_s)
        self._retrieved = together(self._retrieve_all)
        self._hits = together(self._search_all)

    async def _retrieve_all(self, questions: Sequence[str]) -> list[tuple[HybridIndex, Retrieved]]:
        index = await self._latest()
        found = await _aside(index, retrieve_batch, index, self._confidence, questions)
        return [(index, one) for one in found]

    async def _search_all(self, asked: Sequence[tuple[str, int]]) -> list[tuple[HybridIndex, list[Hit]]]:
        index = await self._latest()
        found: dict[int, list[Hit]] = {}
        for top_k in {top_k for _, top_k in asked}:
            places = [place for place, (_, wanted) in enumerate(asked) if wanted == top_k]
            hits = await _aside(index, index.search_batch, [asked[place][0] for place in places], top_k)
            found |= dict(zip(places, hits, strict=True))
        return [(index, found[place]) for place in range(len(asked))]

    async def _latest(self) -> HybridIndex:
        """The index; a new version is opened beside the one that other questions are answered from meanwhile."""
        if self._current is not None:
            if self._current.is_behind():
                await asyncio.to_thread(self._current.follow)
            self._index = self._current.index
        return self._index

    def _lineage(self, index: HybridIndex) -> dict[str, str]:
        if self._current is None:
            return self._of_index
        from ragray.retrieval.current import version_of

        return {"index": index.digest, "index_version": str(version_of(index))}


async def _aside(index: HybridIndex, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of a search; in a thread where it runs a model, so that other requests go on meanwhile."""
    return await asyncio.to_thread(call, *args, **kwargs) if index.runs_models else call(*args, **kwargs)


class _Passages:
    """The passages of an index. Those found last are kept: to read ten of them costs half as much as the search."""

    def __init__(self, index: HybridIndex) -> None:
        self.index = index
        self.read = lru_cache(_KEPT_PASSAGES)(index.passage)


def found_passage(index: HybridIndex, hit: Hit, passage: Passage, query: QueryTerms | None) -> FoundPassage:
    """A hit with its passage, and with what each term adds where a query is given."""
    return FoundPassage(hit, passage, None if query is None else tuple(index.contributions(query, hit.doc_id)))


class Batches(NamedTuple):
    """How questions wait for others, so that more of them are searched together."""

    size: int  # questions of one search at most
    wait_s: float


def open_retriever(served: Served, batches: Batches | None = None) -> Retriever:
    """Open the index and the confidence of a release, and try them; replicas of one machine share the mapped index.

    Raises:
        ArtifactError: one of them is missing or damaged.
    """
    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.current import WARM_UP, CurrentIndex
    from ragray.retrieval.index import HybridIndex

    assert served.index is not None
    index: HybridIndex | CurrentIndex
    if served.follows:
        index = CurrentIndex(Path(served.index), logger=logging.getLogger("ray.serve"))
    else:
        index = HybridIndex.open(open_artifact(served.index, "index").folder)
    confidence = None
    if served.confidence is not None:
        confidence = Confidence.open(open_artifact(served.confidence, "calibrate").folder)
    searched = index.index if isinstance(index, CurrentIndex) else index
    retrieve_batch(searched, confidence, [WARM_UP])  # what it loads is there when the first question comes
    retriever = Retriever(index, confidence, served.lineage)
    if batches is not None:
        retriever.wait_for(batches)
    return retriever


class RemoteRetriever:
    """The retriever of a release behind a deployment handle.

    Args:
        handle: of the deployment.
        follows: whether its index changes.
        release: number of the release.
    """

    def __init__(self, handle: DeploymentHandle[RetrieverReplica], follows: bool, release: int) -> None:
        self._handle = handle
        self._follows = follows
        self._release = release

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        retrieved: Retrieved = await unary(self._handle.retrieve.remote, question, self._release)
        return retrieved

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """The best `top_k` passages, with `explain` also what each term adds to their scores."""
        found: Found = await unary(self._handle.search.remote, query, top_k, explain, self._release)
        return found

    async def followed(self) -> Followed | None:
        """The version that the next question is answered from; None for an index that never changes."""
        if not self._follows:
            return None  # a cached answer needs no call
        followed: Followed | None = await unary(self._handle.followed.remote, self._release)
        return followed

    async def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of some texts, weighed by the index."""
        words: list[list[Word]] = await unary(self._handle.words.remote, list(texts), self._release)
        return words

    async def wording(self, question: str) -> Wording:
        """A question as the semantic cache compares it with others."""
        wording: Wording = await unary(self._handle.wording.remote, question, self._release)
        return wording

    async def ready(self) -> bool:
        """True once questions can be answered."""
        return bool(await unary(self._handle.ready.remote, self._release))
