"""What is kept in memory: answers and retrieval results by exact key, and past questions that may stand for new ones.

In: JSON texts under keys. Out: the same texts with their age. The key is a digest of all that a result depends on:
question, parameters, the lineage of what answers and the release of ragray; a new index, model, engine or release has
other digests, so nothing stale is found. Everything is bounded by the bytes that it takes and by age; what was not used
for longest leaves first.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import unicodedata
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ragray import __version__
from ragray.retrieval.agreement import READING_VERSION
from ragray.retrieval.similar import PastQuestions, Wording

_ENTRY_BYTES = 600  # measured: an entry, its places in dictionaries and sets, and the smallest question
_TERM_BYTES = 160  # of a question: a term's place in the dictionary and in the set of questions that have it


def normalise_question(question: str) -> str:
    """One spelling of a question: compatibility forms made equal (NFKC), white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", question).split())


def digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, the same for equal trees."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Place(NamedTuple):
    """Where an answer belongs."""

    scope: str  # digest of the lineage and of the release; all of it is dropped together
    room: str  # digest of lineage and parameters: questions of one room may share answers
    key: str  # digest of lineage, parameters and question


def place_of(question: str, parameters: Mapping[str, Any], lineage: Mapping[str, str]) -> Place:
    """The digests of all that an answer depends on, this release too; `question` is already normalised."""
    scope = digest({**lineage, "ragray": __version__, "reading": READING_VERSION})
    room = digest({"scope": scope, "parameters": dict(parameters)})
    return Place(scope, room, digest({"room": room, "question": question}))


@dataclass(frozen=True, slots=True)
class Entry:
    """A result to keep. With a `wording` it may also answer other questions of its room."""

    place: Place
    value: bytes  # JSON
    stored: float  # seconds since 1970
    wording: Wording | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory: its texts as Python holds them, and its places in the cache."""
        texts = sys.getsizeof(self.value) + sum(map(sys.getsizeof, self.place))
        return _ENTRY_BYTES + texts + (0 if self.wording is None else _wording_bytes(self.wording))


class Similar(NamedTuple):
    """A past question's result."""

    entry: Entry
    similarity: float


def _wording_bytes(wording: Wording) -> int:
    terms = sum(sys.getsizeof(term) + _TERM_BYTES for term in wording.weights)
    marks = sum(sys.getsizeof(text) + sys.getsizeof(("", "")) for _, text in wording.reading.marks)
    return sys.getsizeof(wording.text) + terms + marks


class MemoryCache:
    """Entries of at most `capacity` bytes together, none older than `ttl_s`.

    Args:
        capacity: bytes; 0 keeps nothing.
        ttl_s: seconds from when an entry was stored.
        clock: seconds since 1970.
    """

    def __init__(self, capacity: int, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._capacity, self._ttl_s, self._clock = capacity, ttl_s, clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._scopes: defaultdict[str, set[str]] = defaultdict(set)
        self._rooms: defaultdict[str, PastQuestions] = defaultdict(PastQuestions)
        self._sizes: dict[str, int] = {}  # as they were counted: Python's texts can grow by a copy in UTF-8
        self._bytes = 0
        self.counts: Counter[str] = Counter()  # evicted, expired, too_large, retired

    def get(self, key: str) -> Entry | None:
        """What is kept under `key`, or None; it becomes the most recently used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._is_old(entry):
            self._drop(key, "expired")
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of the one with its key."""
        key, size = entry.place.key, entry.size
        if key in self._entries:
            self._drop(key, "replaced")
        if size > self._capacity or self._is_old(entry):
            self.counts["too_large" if size > self._capacity else "expired"] += 1
            return
        while self._bytes + size > self._capacity:
            self._drop(next(iter(self._entries)), "evicted")
        self._entries[key] = entry
        self._scopes[entry.place.scope].add(key)
        if entry.wording is not None:
            self._rooms[entry.place.room].put(key, entry.wording)
        self._sizes[key] = size
        self._bytes += size

    def near(self, room: str, asked: Wording, threshold: float) -> Similar | None:
        """The entry of a room's nearest question that asks for the same, at least as similar as `threshold`."""
        while (past := self._rooms.get(room)) is not None:
            nearest = past.nearest(asked, threshold)
            if nearest is None:
                return None
            entry = self.get(nearest.key)
            if entry is not None:  # else it had expired, and is gone now
                return Similar(entry, nearest.similarity)
        return None

    def retire(self, scope: str) -> None:
        """Free all entries of a lineage that answers no more."""
        for key in list(self._scopes.get(scope, ())):
            self._drop(key, "retired")

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return self._bytes

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _is_old(self, entry: Entry) -> bool:
        return self._clock() - entry.stored > self._ttl_s

    def _drop(self, key: str, why: str) -> None:
        entry = self._entries.pop(key)
        self._bytes -= self._sizes.pop(key)
        place = entry.place
        self._scopes[place.scope].discard(key)
        if not self._scopes[place.scope]:
            del self._scopes[place.scope]
        if entry.wording is not None:
            self._rooms[place.room].remove(key)
            if not len(self._rooms[place.room]):
                del self._rooms[place.room]
        self.counts[why] += 1
