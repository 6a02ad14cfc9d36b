"""Finding negatives with the hybrid index: hard ones, ones of the same topic, and random ones.

In: an opened index and records whose answers it holds. Out: for each record passages that do not answer it.

- hard: what the question finds, best first.
- topic: passages nearest to the answer's passage (TF-IDF cosine of its title and text) that the question does not find
  within the rank window.
- random: any others; they also take the place of hard and topic ones that are missing.

All must pass `dataprep.negatives.refusal`, so that what may be an answer itself is left out.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from ragray.config_data import GuardConfig
from ragray.dataprep.negatives import Negatives, Scored, refusal
from ragray.retrieval.corpus import ranked
from ragray.retrieval.index import Hit, HybridIndex
from ragray.retrieval.postings import Floats
from ragray.schema import QARecord, stable_digest

_BATCH = 1000  # questions searched together
_TOPIC_CANDIDATES = 50  # looked at for each record
_DRAWS = 20  # of a random passage, for each that is wanted


@dataclass
class Mined:
    """Negatives of each record in order, and the passages that were refused, by reason."""

    rows: list[Negatives] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Question:
    """What is known of one question: scores of all documents for it, float64 [documents] each.

    `likeness` are the documents' cosines with the answer's passage; `ranks` those of the found ones, by number.
    """

    record: QARecord
    bm25: Floats
    cosine: Floats
    likeness: Floats
    ranks: Mapping[int, int]


class Miner:
    """Mines an index.

    Args:
        index: holds the records' answers by their ids.
        groups: the group of each record id.
        guard: the limits.
        seed: of the random ones.
    """

    def __init__(self, index: HybridIndex, groups: Mapping[str, str], guard: GuardConfig, seed: int) -> None:
        self._index, self._groups, self._guard, self._seed = index, groups, guard, seed
        self._number = functools.cache(index.number)  # looking ids up would take a quarter of the time

    def mine(self, records: Sequence[QARecord], hard: int, topic: int = 0, random: int = 0) -> Mined:
        """So many negatives of each kind for each record, as far as there are any.

        Raises:
            DataError: the index does not hold a record.
        """
        mined = Mined()
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            hits = self._index.search_batch([record.question for record in batch], self._guard.last_rank)
            for record, found in zip(batch, hits, strict=True):
                mined.rows.append(self._mine_one(self._question(record, found), (hard, topic, random), mined.refused))
        return mined

    def _question(self, record: QARecord, found: Sequence[Hit]) -> Question:
        score = self._index.corpus.score
        bm25, cosine = score(self._index.query_terms(record.question))
        answer = self._index.passage(record.id)
        _, likeness = score(self._index.query_terms(f"{answer.title}\n{answer.text}"))
        return Question(record, bm25, cosine, likeness, {self._number(hit.doc_id): hit.rank for hit in found})

    def _mine_one(self, question: Question, wanted: tuple[int, int, int], refused: Counter[str]) -> Negatives:
        hard, topic, random = wanted
        taken: dict[int, str] = {}  # number -> kind
        self._take("hard", question.ranks, hard, question, taken, refused)
        if topic:
            self._take("topic", self._near_the_answer(question), topic, question, taken, refused)
        if random:
            left = sum(wanted) - len(taken)
            self._take("random", self._drawn(question.record, left), left, question, taken, refused)
        return self._row(question, taken)

    def _take(
        self, kind: str, numbers: Iterable[int], count: int, question: Question, taken: dict[int, str],
        refused: Counter[str],
    ) -> None:  # fmt: skip
        """Add the first `count` of the documents that are no answers to `taken`."""
        own = self._number(question.record.id)
        positive = float(question.bm25[own]), float(question.cosine[own])
        for number in numbers:
            if count == 0:
                return
            if number in taken or number == own:
                continue
            found = Scored(
                self._index.passage_at(number), question.ranks.get(number, 0),
                float(question.bm25[number]), float(question.cosine[number]), float(question.likeness[number]),
            )  # fmt: skip
            reason = refusal(question.record, found, positive, self._groups, self._guard)
            if reason:
                refused[f"{kind}.{reason}"] += 1
                continue
            taken[number] = kind
            count -= 1

    def _near_the_answer(self, question: Question) -> list[int]:
        """The documents nearest to the answer, of those that may be taken and that the question does not find."""
        likeness = question.likeness
        near = np.flatnonzero((likeness > 0.0) & (likeness <= self._guard.max_likeness))
        unfound = np.setdiff1d(near, np.fromiter(question.ranks, np.int64, len(question.ranks)))
        return [int(number) for number in ranked(likeness, unfound, _TOPIC_CANDIDATES)]

    def _drawn(self, record: QARecord, count: int) -> list[int]:
        """Random documents, several for each that is wanted, in an order that depends on seed and record alone."""
        chance = Random(stable_digest(self._seed, "negatives", record.id))
        corpus = self._index.corpus
        drawn = chance.sample(range(corpus.size), min(corpus.size, count * _DRAWS))
        return [number for number in drawn if not corpus.is_gone(number)]

    def _row(self, question: Question, taken: Mapping[int, str]) -> Negatives:
        """The negatives from the highest cosine with the question to the lowest."""
        record, cosine = question.record, question.cosine
        order = sorted(taken, key=lambda number: (-cosine[number], number))
        return Negatives(
            record.id,
            record.question,
            record.id,
            [self._index.passage_at(number).doc_id for number in order],
            [float(cosine[number]) for number in order],
            [taken[number] for number in order],
            float(cosine[self._number(record.id)]),
        )
