"""An index that is too large for one machine: other processes hold its segments, and their rankings are merged.

In: the folder of an index of several segments, which every machine can read. Out: a `HybridIndex` whose documents are
elsewhere: in Ray actors (`open_sharded`), or wherever `Shards` reaches. Every shard scores with the statistics of the
whole corpus, so results equal those of an unsharded index.

Queries that are asked together take five round trips: their terms, the best documents of each shard, scores that these
lists do not tell, the passages that are shown, and what a confidence looks at in the first of them. What shards have
told is known from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ragray.config import RetrievalConfig
from ragray.distributed.sharded_corpus import Call, ShardedCorpus, Shards
from ragray.distributed.task_errors import plain_errors
from ragray.errors import ConfigError
from ragray.retrieval.corpus import Corpus
from ragray.retrieval.index import Hit, HybridIndex, described, open_corpus, version_folder
from ragray.retrieval.postings import Floats, Queries, QueryTerms, Ranked
from ragray.retrieval.segment import Ints
from ragray.schema import Passage

_LOOKED_INTO = 3  # hits of a query whose titles and terms a confidence asks for


class ActorShards:
    """Shards in Ray actors.

    Args:
        actors: handles of `Shard` actors.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)

    def __len__(self) -> int:
        return len(self._actors)

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """See `Shards.ask`.

        Raises:
            WorkError: a shard was lost.
        """
        import ray

        with plain_errors("searching a shard"):
            asked = [getattr(self._actors[one.shard], one.method).remote(*one.arguments) for one in calls]
            return list(ray.get(asked))


class Shard:
    """Some segments of an index.

    Args:
        folder: of the index.
        segments: which of its segments.

    Raises:
        ArtifactError: a file is missing or damaged.
    """

    def __init__(self, folder: str, segments: Sequence[int]) -> None:
        place = Path(folder)
        self._corpus = open_corpus(place, described(place), segments)

    def places(self, terms: Sequence[str]) -> list[tuple[int, int] | None]:
        """The place of each term and how many documents of the whole corpus hold it, where the shard knows it."""
        places = [self._corpus.term(term) for term in terms]
        return [None if place is None else (place, self._corpus.frequency(place)) for place in places]

    def terms(self, places: Sequence[int]) -> list[str | None]:
        """The terms at some places, where the shard holds them."""
        return [self._corpus.term_at(place) for place in places]

    def search(self, queries: Queries, depth: int | None, absent: Sequence[Ints] | None) -> list[tuple[Ranked, Ranked]]:
        """`Corpus.search_each`."""
        return list(self._corpus.search_each(queries, depth, absent))

    def scores_of_each(self, queries: Queries, documents: Sequence[Ints]) -> list[Floats]:
        """`Corpus.scores_of_each`."""
        return self._corpus.scores_of_each(queries, documents)

    def passages(self, numbers: Sequence[int]) -> list[Passage]:
        """The passages of some documents."""
        return [self._corpus.passage(number) for number in numbers]

    def numbers(self, doc_ids: Sequence[str]) -> list[int | None]:
        """The numbers of live documents, where the shard holds them."""
        return [self._corpus.number(doc_id) for doc_id in doc_ids]

    def frequency(self, place: int) -> int:
        """`Corpus.frequency`."""
        return self._corpus.frequency(place)

    def held(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[list[int]]:
        """`Corpus.held` for some terms and a document, each."""
        return [self._corpus.held(places, document) for places, document in asked]

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """`Corpus.contributions`."""
        return self._corpus.contributions(query, document)


class ShardedIndex(HybridIndex):
    """An index whose documents other processes hold: each call may wait for them, so none belongs in an event loop."""

    sharded: ShardedCorpus

    @property
    def runs_models(self) -> bool:
        """True: a search takes long beside the rest, as it waits for shards."""
        return True

    def search_batch(
        self, queries: Sequence[str], top_k: int, exclude: Sequence[Collection[str]] = ()
    ) -> list[list[Hit]]:
        """See `HybridIndex.search_batch`; what a confidence will ask for is fetched for all queries together."""
        found = super().search_batch(queries, top_k, exclude)
        asked, titles = [], []
        for query, hits in zip(queries, found, strict=True):
            known = self.sharded.places(self.terms(query)).values()
            places = [place[0] for place in known if place is not None]
            for hit in hits[:_LOOKED_INTO]:
                asked.append((places, self.number(hit.doc_id)))
                titles += self.terms(self.passage(hit.doc_id).title)
        self.sharded.held_each(asked, titles)
        return found


def segment_groups(folder: Path, shards: int) -> list[list[int]]:
    """Which segments of an index each of `shards` shards holds.

    Raises:
        ArtifactError: there is no index, or it is damaged.
        ConfigError: the index has embeddings, or fewer segments.
    """
    description = described(folder)
    if "dense" in description:
        raise ConfigError(
            f"{folder}: has embeddings, which shards do not search",
            "open it whole by `HybridIndex.open`, or index without `retrieval.dense`",
        )
    segments = len(description["segments"])
    if segments < shards:
        raise ConfigError(
            f"{folder}: has {segments} segments, too few for {shards} shards",
            f"set retrieval.segments to {shards} and build the index again, or ask for fewer shards",
        )
    return [group.tolist() for group in np.array_split(np.arange(segments), shards)]


def open_over(folder: Path, shards: Shards, groups: Sequence[Sequence[int]]) -> ShardedIndex:
    """The index in `folder` whose segments `shards` hold, as `groups` says.

    Raises:
        ArtifactError: there is no index, or it is damaged.
    """
    description = described(folder)
    starts = np.cumsum([0, *(segment["documents"] for segment in description["segments"])])
    settings = RetrievalConfig.model_validate(description["settings"])
    corpus = ShardedCorpus(shards, [int(starts[group[0]]) for group in groups], description["corpus"], settings)
    index = ShardedIndex(folder, description, cast(Corpus, corpus))  # it answers all that the index asks
    index.sharded = corpus
    return index


def open_sharded(folder: Path, shards: int, options: Mapping[str, Any] | None = None) -> ShardedIndex:
    """Open an index whose segments are held by actors; they end when the result is no longer used.

    Args:
        folder: of an index, or of one that changes, which every machine can read.
        shards: how many actors; no more than the index has segments are started.
        options: Ray's options for each.

    Raises:
        ArtifactError: there is no index, or it is damaged.
        ConfigError: the index has embeddings.
    """
    import ray

    place = version_folder(Path(folder)).absolute()
    groups = segment_groups(place, min(shards, len(described(place)["segments"])))
    actor: Any = ray.remote(Shard)
    with plain_errors("opening a shard"):
        actors = [actor.options(**(options or {})).remote(str(place), group) for group in groups]
        ray.get([shard.numbers.remote([]) for shard in actors])
    return open_over(place, ActorShards(actors), groups)
