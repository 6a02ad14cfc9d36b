"""What a corpus answers, asked of shards that hold its segments: in few round trips, and nothing twice.

In: a way to ask the shards, and the statistics of the whole corpus. Out: `ShardedCorpus`, which `HybridIndex` takes for
a corpus of its own. Rankings, scores and passages are those of one corpus, as each shard scores with its statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from ragray.config import RetrievalConfig
from ragray.retrieval.corpus import merged, weigh
from ragray.retrieval.postings import Floats, Queries, QueryTerms, Ranked
from ragray.retrieval.segment import Ints
from ragray.schema import Passage

_REMEMBERED_TERMS, _REMEMBERED_PASSAGES = 1 << 18, 1 << 13


class Call(NamedTuple):
    """A method of one shard, with its arguments."""

    shard: int
    method: str
    arguments: tuple[Any, ...] = ()


class Shards(Protocol):
    """Some shards of one index, in document order."""

    def __len__(self) -> int:
        """How many."""

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """The results of some calls, made at the same time; raises where one is not answered."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What shards have told; threads may add to it."""

    terms: dict[str, tuple[int, int] | None] = field(default_factory=dict)  # place and frequency
    frequencies: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of places
    passages: dict[int, Passage] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # of these passages
    held: dict[tuple[int, int], bool] = field(default_factory=dict)  # whether a document holds a term

    @property
    def is_full(self) -> bool:
        """Whether it is time to forget."""
        terms = len(self.terms) > _REMEMBERED_TERMS or len(self.held) > _REMEMBERED_TERMS
        return terms or len(self.passages) > _REMEMBERED_PASSAGES


class ShardedCorpus:
    """What `HybridIndex` asks of a corpus, answered by shards.

    Args:
        shards: that hold the segments.
        starts: the number of each shard's first document.
        numbers: those of the corpus.
        settings: of both models.
    """

    def __init__(
        self, shards: Shards, starts: Sequence[int], numbers: Mapping[str, Any], settings: RetrievalConfig
    ) -> None:
        self._shards, self._starts = shards, np.array(starts, np.int64)
        self._numbers, self._settings = numbers, settings
        self._memory = _Known()

    def __len__(self) -> int:
        return int(self._numbers["documents"])

    def queries(self, queries: Sequence[Sequence[str]]) -> Queries:
        """`Corpus.queries`."""
        known = self.places(term for terms in queries for term in terms)
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
        scores, owners = [np.zeros((2, len(held))) for held in documents], [self._place(held) for held in documents]
        asked = np.unique(np.concatenate([np.empty(0, np.int64), *owners])).tolist()
        parts = [[held[of == place] for held, of in zip(documents, owners, strict=True)] for place in asked]
        found = self._shards.ask(
            [Call(place, "scores_of_each", (queries, part)) for place, part in zip(asked, parts, strict=True)]
        )
        for place, of_shard in zip(asked, found, strict=True):
            for of_query, owner, part in zip(scores, owners, of_shard, strict=True):
                of_query[:, owner == place] = part
        return scores

    def doc_ids(self, numbers: Sequence[int]) -> list[str]:
        """`Corpus.doc_ids`."""
        return [passage.doc_id for passage in self.passages(numbers)]

    def passages(self, numbers: Sequence[int]) -> list[Passage]:
        """The passages of some documents."""
        memory = self._remembering()
        new = [number for number in dict.fromkeys(numbers) if number not in memory.passages]
        owners = self._place(np.array(new, np.int64)).tolist()
        asked = {place: [n for n, of in zip(new, owners, strict=True) if of == place] for place in set(owners)}
        found = self._shards.ask([Call(place, "passages", (held,)) for place, held in asked.items()])
        for held, passages in zip(asked.values(), found, strict=True):
            for number, passage in zip(held, passages, strict=True):
                memory.passages[number] = passage
                memory.numbers[passage.doc_id] = number
        return [memory.passages[number] for number in numbers]

    def number(self, doc_id: str) -> int | None:
        """`Corpus.number`."""
        if (known := self._memory.numbers.get(doc_id)) is not None:
            return known
        held = [numbers[0] for numbers in self._all("numbers", [doc_id])]
        return next((number for number in reversed(held) if number is not None), None)

    def passage(self, number: int) -> Passage:
        """`Corpus.passage`."""
        return self.passages([number])[0]

    def contributions(self, query: QueryTerms, document: int) -> list[tuple[int, float, float]]:
        """`Corpus.contributions`."""
        asked = [Call(self._owner(document), "contributions", (query, document))]
        parts: list[tuple[int, float, float]] = self._shards.ask(asked)[0]
        return parts

    def term_at(self, place: int) -> str:
        """`Corpus.term_at`."""
        if (known := self._memory.names.get(place)) is not None:
            return known
        found: str = next(terms[0] for terms in self._all("terms", [place]) if terms[0] is not None)
        return found

    def term(self, term: str) -> int | None:
        """`Corpus.term`."""
        found = self.places([term])[term]
        return None if found is None else found[0]

    def frequency(self, place: int) -> int:
        """`Corpus.frequency`."""
        known = self._memory.frequencies.get(place)
        return int(self._shards.ask([Call(0, "frequency", (place,))])[0]) if known is None else known

    def held(self, places: Iterable[int], document: int) -> list[int]:
        """`Corpus.held`."""
        asked = list(places)
        return self.held_each([(asked, document)])[0]

    def held_each(self, asked: Sequence[tuple[Sequence[int], int]], terms: Iterable[str] = ()) -> list[list[int]]:
        """`held` for some terms and a document, each; and in the same round trip the places of `terms`, as `places`."""
        memory = self._remembering()
        new = [
            (document, missing)
            for places, document in asked
            if (missing := [place for place in places if (document, place) not in memory.held])
        ]
        unknown = [term for term in dict.fromkeys(terms) if term not in memory.terms]
        calls = [Call(self._owner(document), "held", ([(missing, document)],)) for document, missing in new]
        found = self._shards.ask(calls + self._calls_for(unknown))
        for (document, missing), ((held,)) in zip(new, found[: len(calls)], strict=True):
            has = set(held)
            memory.held.update({(document, place): place in has for place in missing})
        self._note(memory, unknown, found[len(calls) :])
        return [[place for place in places if memory.held[document, place]] for places, document in asked]

    def places(self, terms: Iterable[str]) -> dict[str, tuple[int, int] | None]:
        """Place and frequency of each term, None where no shard knows it."""
        memory, wanted = self._remembering(), list(dict.fromkeys(terms))
        new = [term for term in wanted if term not in memory.terms]
        self._note(memory, new, self._shards.ask(self._calls_for(new)))
        return {term: memory.terms[term] for term in wanted}

    def _remembering(self) -> _Known:
        """What is known; whoever has it may add and look up, also when others begin anew."""
        if self._memory.is_full:
            self._memory = _Known()
        return self._memory

    def _calls_for(self, terms: Sequence[str]) -> list[Call]:
        return [Call(shard, "places", (terms,)) for shard in range(len(self._shards))] if terms else []

    @staticmethod
    def _note(memory: _Known, terms: Sequence[str], of_shards: Sequence[Any]) -> None:
        """Remember what the shards said of terms."""
        for term, *held in zip(terms, *of_shards, strict=bool(terms)):
            found = next((one for one in held if one is not None), None)
            if found is not None:
                memory.names[found[0]], memory.frequencies[found[0]] = term, found[1]
            memory.terms[term] = found

    def _place(self, numbers: Ints) -> Ints:
        return np.asarray(np.searchsorted(self._starts, numbers, "right") - 1, np.int64)

    def _owner(self, number: int) -> int:
        return int(self._place(np.array([number]))[0])

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._shards.ask([Call(shard, method, arguments) for shard in range(len(self._shards))])
