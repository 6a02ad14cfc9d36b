"""The records that travel between rooms, each with its Arrow schema.

In: nothing. Out: frozen dataclasses (`QARecord`, `Rejected`, `Duplicate`, `Passage`, `EvalQuestion`)
and `table_of` / `records_of`, which turn lists of them into Arrow tables and back without loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import pyarrow as pa

Lang = Literal["zh", "en", "other"]
Split = Literal["train", "valid", "test"]

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class QARecord:
    """One question with its answer. `parent` and `method` are empty for a record read from a source."""

    id: str
    question: str
    answer: str
    lang: str
    source: str  # file name as the user gave it
    line: int  # first line (text formats) or row (tables) of the record in its source, from 1
    group: str = ""  # records of one group never straddle a split
    split: str = ""
    parent: str = ""  # id of the record that this one was made from
    method: str = ""  # how it was made
    script: str = ""  # "Hans" or "Hant" for Chinese
    also_from: tuple[str, ...] = ()  # "source:line" of each duplicate that this record stands for

    schema: ClassVar[pa.Schema]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An input row that did not become a record, with the reason."""

    source: str
    line: int
    reason: str  # a short code, such as "empty_answer"; counted in the manifest
    detail: str  # one sentence for a person
    text: str  # the row's first characters

    schema: ClassVar[pa.Schema]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A record left out because another says the same."""

    id: str
    duplicate_of: str
    method: str  # "exact" or "near"
    similarity: float  # Jaccard similarity of the shingle sets, 1.0 for exact
    source: str
    line: int
    question: str = ""

    schema: ClassVar[pa.Schema]


@dataclass(frozen=True, slots=True)
class Passage:
    """What is indexed, retrieved, shown to the model and cited."""

    doc_id: str
    title: str  # the question of an FAQ, the heading path of a document
    text: str
    lang: str
    source: str
    kind: str  # "faq" or "document"

    schema: ClassVar[pa.Schema]


@dataclass(frozen=True, slots=True)
class EvalQuestion:
    """A held-out question. No `answer_ids` means that nothing in the corpus answers it."""

    query_id: str
    question: str
    lang: str
    answer_ids: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()  # reference texts; filled from the records when empty

    schema: ClassVar[pa.Schema]


_ARROW: dict[str, pa.DataType] = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "tuple[str, ...]": pa.list_(pa.string()),
}
for _record in (QARecord, Rejected, Duplicate, Passage, EvalQuestion):
    _record.schema = pa.schema([(f.name, _ARROW[str(f.type)]) for f in fields(_record)])

R = TypeVar("R", QARecord, Rejected, Duplicate, Passage, EvalQuestion)


def table_of(kind: type[R], records: Iterable[R]) -> pa.Table:
    """An Arrow table of `records` in their order, with the schema of `kind` even when there are none."""
    rows = list(records)
    columns = {name: [getattr(row, name) for row in rows] for name in kind.schema.names}
    return pa.table(columns, schema=kind.schema)


def records_of(kind: type[R], table: pa.Table) -> list[R]:
    """The records of a table that `table_of` made."""
    names: Sequence[str] = kind.schema.names
    lists: list[list[Any]] = [
        [tuple(v) for v in column.to_pylist()] if pa.types.is_list(column.type) else column.to_pylist()
        for column in (table.column(name) for name in names)
    ]
    return [kind(**dict(zip(names, row, strict=True))) for row in zip(*lists, strict=True)]


def stable_digest(*parts: str | int) -> int:
    """A 64-bit number that depends on `parts` alone: the source of all randomness per record.

    Unlike `hash`, it is the same in every process and on every machine.
    """
    return int.from_bytes(hashlib.blake2b(_joined(parts), digest_size=_DIGEST_BYTES).digest(), "big")


def stable_digests(parts: Sequence[str | int], ends: Iterable[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """uint64: `stable_digest(*parts, end)` of each end, in a quarter of the time."""
    beginning, blake2b = _joined((*parts, "")), hashlib.blake2b
    digests = b"".join([blake2b(beginning + end.encode(), digest_size=_DIGEST_BYTES).digest() for end in ends])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _joined(parts: Iterable[str | int]) -> bytes:
    return "\x1f".join(str(part) for part in parts).encode()
