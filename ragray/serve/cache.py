"""The inference cache: answers to questions that were asked before in the same words.

In: a question, the sampling parameters and the lineage of what answers. Out: the same answer again,
without retrieval and generation. A new index, model or engine has other digests, so nothing stale is found.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Generic, TypeVar

from ragray.engine.protocol import SamplingParams

V = TypeVar("V")


def normalise_question(question: str) -> str:
    """One spelling of a question: compatibility forms made equal (NFKC), white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", question).split())


def answer_key(question: str, params: SamplingParams, lineage: Mapping[str, str]) -> str:
    """The digest of all that an answer depends on; `question` is already normalised."""
    tree = {"question": question, "params": asdict(params), "lineage": dict(lineage)}
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class LruCache(Generic[V]):
    """At most `entries` values; the one not used for longest leaves first."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._values: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str) -> V | None:
        """The value kept under `key`, or None; it becomes the most recently used."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: str, value: V) -> None:
        """Keep `value` under `key`."""
        if self._entries == 0:
            return
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._entries:
            self._values.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)
