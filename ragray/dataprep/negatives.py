"""Hard negatives: passages that a retriever takes for an answer and that are none.

In: a question's record and what a retriever found for it. Out: the documents that are no answer, best first. It
exists to train and to measure how well right and nearly right are told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ragray.dataprep.dedup import normalized
from ragray.dataprep.shingles import words
from ragray.schema import Passage, QARecord

COVERING = 0.6  # a passage with such a share of an answer's words says it too

NEGATIVES = pa.schema(
    {
        "query_id": pa.string(),
        "question": pa.string(),
        "positive_id": pa.string(),
        "negative_ids": pa.list_(pa.string()),
        "negative_scores": pa.list_(pa.float64()),
    }
)


@dataclass(frozen=True, slots=True)
class Negatives:
    """One question with the documents that look like its answer; scores are the retriever's, descending."""

    query_id: str
    question: str
    positive_id: str
    negative_ids: list[str]
    negative_scores: list[float]


def answers_too(passage: Passage, record: QARecord) -> bool:
    """Whether a passage says what the record's answer says: the same text, or most of its words."""
    if normalized(passage.text) == normalized(record.answer):
        return True
    wanted = set(words(record.answer))
    return bool(wanted) and len(wanted & set(words(passage.text))) >= COVERING * len(wanted)


def choose_negatives(
    record: QARecord, found: Sequence[tuple[Passage, float]], groups: Mapping[str, str], count: int
) -> Negatives:
    """The first `count` documents that do not answer.

    Args:
        record: the question.
        found: passages with their scores, best first.
        groups: the group of each record id; a passage of the record's own group is an answer.
        count: how many at most.
    """
    wrong = [
        (passage.doc_id, score)
        for passage, score in found
        if groups.get(passage.doc_id) != record.group and not answers_too(passage, record)
    ][:count]
    return Negatives(record.id, record.question, record.id, [i for i, _ in wrong], [s for _, s in wrong])
