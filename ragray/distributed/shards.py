"""An index that is too large for one machine: Ray actors hold its segments, and their rankings are merged.

In: the folder of an index of several segments, which every machine can read. Out: a `HybridIndex` whose documents are
elsewhere. Every shard scores with the statistics of the whole corpus, so results equal those of an unsharded index.

Queries that are asked together take four round trips: their terms, the best documents of each shard, scores that these
lists do not tell, the ids of what is shown. Terms that were asked for before are known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ragray.config import RetrievalConfig
from ragray.distributed.task_errors import plain_errors
from ragray.errors import ConfigError
from ragray.retrieval.corpus import Corpus, merged, weigh
from ragray.retrieval.index import HybridIndex, described, open_corpus, version_folder
from ragray.retrieval.postings import Floats, Queries, QueryTerms, Ranked
from ragray.retrieval.segment import Ints
from ragray.schema import Passage

_REMEMBERED_TERMS = 1 << 18


class _Shard:
    """Some segments of an index, in an actor."""

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

    def doc_ids(self, numbers: Sequence[int]) -> list[str]:
        """`Corpus.doc_ids`."""
        return self._corpus.doc_ids(numbers)

    def numbers(self, doc_ids: Sequence[str]) -> list[int | None]:
        """The numbers of live documents, where the shard holds them."""
        return [self._corpus.number(doc_id) for doc_id in doc_ids]

    def frequency(self, place: int) -> int:
        """`Corpus.frequency`."""
        return self._corpus.frequency(place)

    def held(self, places: Sequence[int], document: int) -> list[int]:
        """`Corpus.held`."""
        return self._corpus.held(places, document)

    def passage(self, number: int) -> Passage:
        """The passage of a document."""
        return self._corpus.passage(number)

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """`Corpus.contributions`."""
        return self._corpus.contributions(query, document)


class ShardedCorpus:
    """What `HybridIndex` asks of a corpus, answered by shards.

    Args:
        shards: handles of `_Shard` actors, in document order.
        starts: the number of each shard's first document.
        numbers: those of the corpus.
        settings: of both models.
    """

    def __init__(
        self, shards: Sequence[Any], starts: Sequence[int], numbers: Mapping[str, Any], settings: RetrievalConfig
    ) -> None:
        self._shards, self._starts = list(shards), np.array(starts, np.int64)
        self._numbers, self._settings = numbers, settings
        self._known: dict[str, tuple[int, int] | None] = {}

    def __len__(self) -> int:
        return int(self._numbers["documents"])

    def queries(self, queries: Sequence[Sequence[str]]) -> Queries:
        """`Corpus.queries`."""
        known = self._places(queries)
        held = [[found[0] for term in terms if (found := known[term]) is not None] for terms in queries]
        frequencies = dict(found for found in known.values() if found is not None)
        return weigh(
            held, lambda places: np.array([frequencies[place] for place in places.tolist()], np.int64), self._numbers,
            self._settings,
        )  # fmt: skip

    def query(self, terms: Sequence[str]) -> QueryTerms:
        """`Corpus.query`."""
        return self.queries([terms])[0]

    def search_each(
        self, queries: Queries, depth: int | None, absent: Sequence[Ints] | None = None
    ) -> Iterator[tuple[Ranked, Ranked]]:
        """`Corpus.search_each`."""
        for of_shards in zip(*self._all("search", queries, depth, absent), strict=True):
            by_bm25, by_tfidf = zip(*of_shards, strict=True)
            yield merged(by_bm25, depth), merged(by_tfidf, depth)

    def scores_of_each(self, queries: Queries, documents: Sequence[Ints]) -> list[Floats]:
        """`Corpus.scores_of_each`."""
        import ray

        scores, owners = [np.zeros((2, len(held))) for held in documents], [self._place(held) for held in documents]
        asked = np.unique(np.concatenate([np.empty(0, np.int64), *owners])).tolist()
        parts = [[held[of == place] for held, of in zip(documents, owners, strict=True)] for place in asked]
        with plain_errors("searching a shard"):
            found = ray.get([
                self._shards[place].scores_of_each.remote(queries, part)
                for place, part in zip(asked, parts, strict=True)
            ])  # fmt: skip
        for place, of_shard in zip(asked, found, strict=True):
            for of_query, owner, part in zip(scores, owners, of_shard, strict=True):
                of_query[:, owner == place] = part
        return scores

    def doc_ids(self, numbers: Sequence[int]) -> list[str]:
        """`Corpus.doc_ids`."""
        import ray

        owners = self._place(np.array(numbers, np.int64)).tolist()
        asked = {place: [n for n, of in zip(numbers, owners, strict=True) if of == place] for place in set(owners)}
        with plain_errors("searching a shard"):
            found = ray.get([self._shards[place].doc_ids.remote(held) for place, held in asked.items()])
        ids = {place: iter(named) for place, named in zip(asked, found, strict=True)}
        return [next(ids[place]) for place in owners]

    def number(self, doc_id: str) -> int | None:
        """`Corpus.number`."""
        held = [numbers[0] for numbers in self._all("numbers", [doc_id])]
        return next((number for number in reversed(held) if number is not None), None)

    def passage(self, number: int) -> Passage:
        """`Corpus.passage`."""
        found: Passage = self._owner("passage", number, number)
        return found

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """`Corpus.contributions`."""
        parts: list[tuple[int, float, float]] = self._owner("contributions", document, query, document)
        return parts

    def term_at(self, place: int) -> str:
        """`Corpus.term_at`."""
        found: str = next(terms[0] for terms in self._all("terms", [place]) if terms[0] is not None)
        return found

    def term(self, term: str) -> int | None:
        """`Corpus.term`."""
        found = self._places([[term]])[term]
        return None if found is None else found[0]

    def frequency(self, place: int) -> int:
        """`Corpus.frequency`."""
        return int(self._all("frequency", place)[0])

    def held(self, places: Iterable[int], document: int) -> list[int]:
        """`Corpus.held`."""
        held: list[int] = self._owner("held", document, list(places), document)
        return held

    def _places(self, queries: Iterable[Iterable[str]]) -> dict[str, tuple[int, int] | None]:
        """Place and frequency of each term of the queries, None where no shard knows it."""
        terms = list(dict.fromkeys(term for query in queries for term in query))
        new = [term for term in terms if term not in self._known]
        if len(self._known) + len(new) > _REMEMBERED_TERMS:
            self._known, new = {}, terms
        if new:
            for term, *held in zip(new, *self._all("places", new), strict=True):
                self._known[term] = next((found for found in held if found is not None), None)
        return {term: self._known[term] for term in terms}

    def _place(self, numbers: Ints) -> Ints:
        return np.asarray(np.searchsorted(self._starts, numbers, "right") - 1, np.int64)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        import ray

        with plain_errors("searching a shard"):
            return list(ray.get([getattr(shard, method).remote(*arguments) for shard in self._shards]))

    def _owner(self, method: str, number: int, *arguments: Any) -> Any:
        import ray

        shard = self._shards[int(self._place(np.array([number]))[0])]
        with plain_errors("searching a shard"):
            return ray.get(getattr(shard, method).remote(*arguments))


def open_sharded(folder: Path, shards: int, options: Mapping[str, Any] | None = None) -> HybridIndex:
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
    description = described(place)
    if "dense" in description:
        raise ConfigError(
            f"{place}: has embeddings, which shards do not search",
            "open it whole by `HybridIndex.open`, or index without `retrieval.dense`",
        )
    sizes = [segment["documents"] for segment in description["segments"]]
    groups = [group for group in np.array_split(np.arange(len(sizes)), shards) if len(group)]
    starts = np.cumsum([0, *sizes])
    actor: Any = ray.remote(_Shard)
    with plain_errors("opening a shard"):
        actors = [actor.options(**(options or {})).remote(str(place), group.tolist()) for group in groups]
        ray.get([shard.numbers.remote([]) for shard in actors])
    settings = RetrievalConfig.model_validate(description["settings"])
    firsts = [int(starts[group[0]]) for group in groups]
    sharded = ShardedCorpus(actors, firsts, description["corpus"], settings)
    return HybridIndex(place, description, cast(Corpus, sharded))  # it answers all that the index asks
