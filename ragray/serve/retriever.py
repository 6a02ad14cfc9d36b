"""Retrieval as a part of the served application.

In: questions. Out: what is shown to the model (`Retrieved`), or hits with the ranks and scores of both
retrievers. `Retriever` is a plain class: a Serve deployment wraps it, and an ingress may hold it in process;
`RemoteRetriever` is the same interface over a deployment handle.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ragray.engine.assistant import Retrieved, retrieve
from ragray.serve.artifacts import open_artifact
from ragray.serve.calls import unary

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.index import HybridIndex


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """One search hit with its passage: fused rank and score, and those of each retriever."""

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

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        return asdict(self)


class Retrieval(Protocol):
    """What the ingress asks of a retriever, wherever it runs."""

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""

    async def search(self, query: str, top_k: int) -> list[FoundPassage]:
        """The best `top_k` passages."""

    async def ready(self) -> bool:
        """True once questions can be answered."""


class Retriever:
    """The hybrid index with its calibrated confidence."""

    def __init__(self, index: HybridIndex, confidence: Confidence) -> None:
        self._index = index
        self._confidence = confidence

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        return retrieve(self._index, self._confidence, question)

    async def search(self, query: str, top_k: int) -> list[FoundPassage]:
        """The best `top_k` passages."""
        found = []
        for hit in self._index.search(query, top_k):
            passage = self._index.passage(hit.doc_id)
            found.append(
                FoundPassage(
                    rank=hit.rank,
                    score=hit.score,
                    prior=hit.prior,
                    bm25_rank=hit.bm25_rank,
                    bm25_score=hit.bm25_score,
                    tfidf_rank=hit.tfidf_rank,
                    tfidf_score=hit.tfidf_score,
                    doc_id=passage.doc_id,
                    title=passage.title,
                    text=passage.text,
                    source=passage.source,
                    kind=passage.kind,
                    lang=passage.lang,
                )
            )
        return found

    async def ready(self) -> bool:
        """True once questions can be answered."""
        return len(self._index) > 0


class RetrieverReplica(Retriever):
    """A retriever that opens its artifacts itself; replicas of one machine share the mapped index.

    Args:
        index_uri: an `index` artifact.
        confidence_uri: the `calibrate` artifact that was fitted on it.

    Raises:
        ArtifactError: one of them is missing or damaged.
    """

    def __init__(self, index_uri: str, confidence_uri: str) -> None:
        from ragray.retrieval.confidence import Confidence
        from ragray.retrieval.index import HybridIndex

        index = HybridIndex.open(open_artifact(index_uri, "index").folder)
        index.search("warm up 预热", 1)  # both languages' tokenizers are loaded now, not during the first question
        super().__init__(index, Confidence.open(open_artifact(confidence_uri, "calibrate").folder))


class RemoteRetriever:
    """A `Retriever` behind a deployment handle."""

    def __init__(self, handle: DeploymentHandle[Retriever]) -> None:
        self._handle = handle

    async def retrieve(self, question: str) -> Retrieved:
        """The passages that the model reads, and whether they answer the question."""
        retrieved: Retrieved = await unary(self._handle.retrieve.remote(question))
        return retrieved

    async def search(self, query: str, top_k: int) -> list[FoundPassage]:
        """The best `top_k` passages."""
        found: list[FoundPassage] = await unary(self._handle.search.remote(query, top_k))
        return found

    async def ready(self) -> bool:
        """True once questions can be answered."""
        return bool(await unary(self._handle.ready.remote()))
