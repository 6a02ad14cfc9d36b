"""Past questions that ask for the same: the nearest by the index's own term weights, if their readings agree.

In: questions, and the index that they are asked to. Out: for a question the most similar past one, with the cosine of
their TF-IDF vectors. A term that the index does not know counts as the rarest there is: two questions about different
unknown things are not alike.

Source: the bound that leaves out past questions which share none of the telling terms is the Cauchy-Schwarz inequality,
as in Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity Search", section 4.1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ragray.dataprep.language import detect_language
from ragray.retrieval import tfidf
from ragray.retrieval.agreement import Reading, agree, read

if TYPE_CHECKING:
    from ragray.retrieval.index import HybridIndex

MAX_QUERY_CHARS = 32_768  # as in a search


@dataclass(frozen=True, slots=True)
class Wording:
    """A question as it is compared with others."""

    text: str
    lang: str
    weights: Mapping[str, float]  # TF-IDF of its terms, at length 1; empty without a term
    reading: Reading

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        marks = [list(mark) for mark in self.reading.marks]
        return {
            "text": self.text, "lang": self.lang, "weights": dict(self.weights), "marks": marks,
            "asks": list(self.reading.asks),
        }  # fmt: skip

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Wording:
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        marks = tuple((str(kind), str(text)) for kind, text in tree["marks"])
        weights = {str(term): float(weight) for term, weight in tree["weights"].items()}
        return cls(str(tree["text"]), str(tree["lang"]), weights, Reading(marks, tuple(map(str, tree["asks"]))))


class Nearest(NamedTuple):
    """A past question that agrees."""

    key: str
    similarity: float  # cosine


def wording_of(index: HybridIndex, question: str) -> Wording:
    """A question with its vector by the index's analyzer and document frequencies, and its reading.

    Numbers, negations and other facts have no weight: two questions that agree have the same ones.
    """
    reading = read(question[:MAX_QUERY_CHARS], index.analyzer)
    counts = Counter(term for kind, text in reading.marks if kind != "fact" for term in _terms(index, text))
    places = [index.corpus.term(term) for term in counts]
    frequencies = [0 if place is None else index.corpus.frequency(place) for place in places]
    idf = tfidf.idf(len(index), np.array(frequencies, np.int64))
    raw = tfidf.raw_weights(np.array(list(counts.values()), np.float64), idf, index.settings.sublinear_tf)
    weights = raw / (float(np.linalg.norm(raw)) or 1.0)
    vector = dict(zip(counts, weights.tolist(), strict=True))
    return Wording(question, detect_language(question), vector, reading)


def _terms(index: HybridIndex, word: str) -> Sequence[str]:
    return (word,) if index.corpus.term(word) is not None else index.terms(word)


def cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Of two vectors of length 1."""
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    return min(1.0, sum(weight * long.get(term, 0.0) for term, weight in short.items()))


def similarity(one: Wording, other: Wording) -> float:
    """The cosine of two questions that agree; 0 of two that do not."""
    return cosine(one.weights, other.weights) if agree(one.reading, other.reading) else 0.0


class PastQuestions:
    """Questions that were asked before, each under a key, by their terms."""

    def __init__(self) -> None:
        self._wordings: dict[str, Wording] = {}
        self._keys: defaultdict[str, set[str]] = defaultdict(set)  # by term

    def put(self, key: str, wording: Wording) -> None:
        """Remember a question under `key`, in place of the one that was there."""
        self.remove(key)
        self._wordings[key] = wording
        for term in wording.weights:
            self._keys[term].add(key)

    def remove(self, key: str) -> None:
        """Forget the question under `key`, if there is one."""
        wording = self._wordings.pop(key, None)
        for term in wording.weights if wording else ():
            self._keys[term].discard(key)
            if not self._keys[term]:
                del self._keys[term]

    def nearest(self, asked: Wording, threshold: float, other_than: frozenset[str] = frozenset()) -> Nearest | None:
        """The most similar question that agrees with `asked` and is at least as similar as `threshold`.

        Args:
            asked: a question.
            threshold: cosine, above 0.
            other_than: keys that are passed over.
        """
        found = [
            (-near, key)
            for key in self._candidates(asked.weights, threshold)
            if key not in other_than and (near := cosine(asked.weights, self._wordings[key].weights)) >= threshold
        ]
        for near, key in sorted(found):
            if agree(asked.reading, self._wordings[key].reading):
                return Nearest(key, -near)
        return None

    def __len__(self) -> int:
        return len(self._wordings)

    def __getitem__(self, key: str) -> Wording:
        return self._wordings[key]

    def _candidates(self, weights: Mapping[str, float], threshold: float) -> set[str]:
        """All questions that may reach the threshold."""
        found: set[str] = set()
        for term in telling_terms(weights, threshold):
            found |= self._keys.get(term, set())
        return found


def telling_terms(weights: Mapping[str, float], threshold: float) -> list[str]:
    """The heaviest terms, so many that a question with none of them cannot be as similar as `threshold`."""
    left = 1.0  # of the squared length: the cosine with what the other terms alone reach is at most its root
    telling = []
    for term in sorted(weights, key=lambda term: (-weights[term], term)):
        if math.sqrt(max(left, 0.0)) < threshold - 1e-9:
            break
        telling.append(term)
        left -= weights[term] ** 2
    return telling
