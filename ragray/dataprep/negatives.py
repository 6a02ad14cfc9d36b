"""Negatives: passages that are no answer to a question, from nearly right to unrelated.

In: a record and passages with their scores. Out: the passages that may be taken, and for each other one the reason
why not. A passage that answers as well, but is not known to, would teach a retriever the wrong thing: so what stands
too near to the question or to its answer is refused. The files are laid out as sentence-transformers trains on them.

Source: margin and rank window: Moreira et al. 2024, "NV-Retriever: Improving text embedding models with effective
hard-negative mining", section 4, arXiv:2407.15831; the answer's own neighbours: this project (benchmarks/negatives.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ragray.config_data import GuardConfig
from ragray.dataprep.dedup import normalized
from ragray.dataprep.tokens import words
from ragray.schema import Passage, QARecord

COVERING = GuardConfig.model_fields["covering"].default
KINDS = ("hard", "topic", "random")

NEGATIVES = pa.schema(
    {
        "query_id": pa.string(),
        "question": pa.string(),
        "positive_id": pa.string(),
        "negative_ids": pa.list_(pa.string()),
        "negative_scores": pa.list_(pa.float64()),
        "negative_kinds": pa.list_(pa.string()),
        "positive_score": pa.float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Scored:
    """A passage as a negative for one question.

    `rank` counts from 1, 0 where the search did not find it. `bm25` and `cosine` are its scores for the question,
    `likeness` its TF-IDF cosine with the answer's passage.
    """

    passage: Passage
    rank: int
    bm25: float
    cosine: float
    likeness: float


@dataclass(frozen=True, slots=True)
class Negatives:
    """One question with passages that do not answer it, hard ones first; scores are TF-IDF cosines, descending."""

    query_id: str
    question: str
    positive_id: str
    negative_ids: list[str]
    negative_scores: list[float]
    negative_kinds: list[str]
    positive_score: float


def covers(passage: Passage, record: QARecord, covering: float = COVERING) -> bool:
    """Whether a passage holds such a share of the words of the record's answer."""
    wanted = set(words(record.answer))
    return bool(wanted) and len(wanted & set(words(passage.text))) >= covering * len(wanted)


def answers_too(passage: Passage, record: QARecord) -> bool:
    """Whether a passage says what the record's answer says: the same text, or most of its words."""
    return normalized(passage.text) == normalized(record.answer) or covers(passage, record)


def refusal(
    record: QARecord, found: Scored, positive: tuple[float, float], groups: Mapping[str, str], guard: GuardConfig
) -> str:
    """Why a passage is not taken as a negative, or "".

    Args:
        record: the question with its answer.
        found: the passage with its scores; where its rank is 0 the rank window is not asked.
        positive: BM25 score and cosine of the question and its answer's passage.
        groups: the group of each record id; a passage of the record's own group is an answer.
        guard: the limits.
    """
    passage = found.passage
    if passage.doc_id == record.id or groups.get(passage.doc_id, "") == record.group != "":
        return "same_group"
    if found.rank and not guard.first_rank <= found.rank <= guard.last_rank:
        return "rank_window"
    if found.likeness > guard.max_likeness:
        return "likeness"
    bound = 1.0 - guard.margin
    if guard.margin and (found.bm25 > bound * positive[0] or found.cosine > bound * positive[1]):
        return "margin"
    if normalized(passage.text) == normalized(record.answer):  # texts last: they take longest
        return "same_answer"
    return "containment" if covers(passage, record, guard.covering) else ""


def tuple_schema(negatives: int) -> pa.Schema:
    """Columns anchor, positive, negative_1 to negative_n, and label: scores of the positive and each negative."""
    texts = ["anchor", "positive", *(f"negative_{n}" for n in range(1, negatives + 1))]
    return pa.schema([*((name, pa.string()) for name in texts), ("label", pa.list_(pa.float64()))])


TRIPLES = pa.schema({"anchor": pa.string(), "positive": pa.string(), "negative": pa.string()})


def triples(rows: Sequence[Negatives], texts: Mapping[str, str]) -> pa.Table:
    """One row for each question and negative; `texts` holds the text of each document id."""
    listed = [
        {"anchor": row.question, "positive": texts[row.positive_id], "negative": texts[doc_id]}
        for row in rows
        for doc_id in row.negative_ids
    ]
    return pa.Table.from_pylist(listed, schema=TRIPLES)


def tuples(rows: Sequence[Negatives], texts: Mapping[str, str], count: int) -> pa.Table:
    """One row for each question that has at least `count` negatives, with the first `count` of them."""
    listed = [
        {
            "anchor": row.question,
            "positive": texts[row.positive_id],
            **{f"negative_{n}": texts[doc_id] for n, doc_id in enumerate(row.negative_ids[:count], 1)},
            "label": [row.positive_score, *row.negative_scores[:count]],
        }
        for row in rows
        if len(row.negative_ids) >= count
    ]
    return pa.Table.from_pylist(listed, schema=tuple_schema(count))
