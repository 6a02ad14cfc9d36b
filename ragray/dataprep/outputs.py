"""The tables of stage prepare, written from blocks and decisions.

In: blocks and what was decided about each of their records. Out: Parquet files in source order, with row groups of
a fixed size, so that blocks do not show in them. One block at a time is in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ragray.dataprep.blocks import Blocks, language_counts, length_counts, record_columns
from ragray.dataprep.decisions import Decisions
from ragray.dataprep.dedup import EXACT, NEAR
from ragray.dataprep.hashing import Ints
from ragray.dataprep.leakage import WORST
from ragray.dataprep.split import SPLITS, TEST
from ragray.schema import Duplicate, QARecord, Rejected

ROW_GROUP = 65_536
NOT_SAMPLED = "not_sampled"  # left out by data.max_records; no fault of the row
DUPLICATE_ID = "duplicate_id"
LEAKAGE = pa.schema(
    [(name, pa.string()) for name in ("test_id", "test_question", "train_id", "train_question")]
    + [("jaccard", pa.float64()), ("cosine", pa.float64()), ("leaked", pa.bool_())]
)

_SHOWN_CHARS = 200


@dataclass
class Written:
    """Counts of what was written, by source and in all."""

    sources: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Any] = field(default_factory=dict)


class RowGroups:
    """A Parquet file that is written table by table in row groups of a fixed size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self._rows += len(table)
        while self._rows >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def close(self) -> None:
        """Write what is left and end the file."""
        if self._rows:
            self._flush(self._rows)
        self._writer.close()

    def _flush(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._waiting = [table.slice(rows)]
        self._rows -= rows


def write_tables(blocks: Blocks, decided: Decisions, limit: int | None, folder: Path) -> Written:
    """Write `records`, `rejected` and `duplicates` below `folder`; `limit` is data.max_records, for the reason."""
    files = {
        name: RowGroups(folder / f"{name}.parquet", schema)
        for name, schema in (
            ("records", QARecord.schema), ("rejected", Rejected.schema), ("duplicates", Duplicate.schema),
        )
    }  # fmt: skip
    written = Written()
    ids = blocks.column("id").cast(pa.large_string()).combine_chunks()  # taking from many chunks would copy all of them
    merged = _Merged(blocks, decided)
    for n, (start, table) in enumerate(zip(blocks.starts, blocks.tables, strict=False)):
        source = blocks.tallies[n]["source"]
        rows = np.arange(start, start + len(table))
        parts = {
            "records": _records(table, source, rows, decided, ids, merged),
            "rejected": _rejected(blocks.rejected(n), table, source, rows, decided, limit),
            "duplicates": _duplicates(table, source, rows, decided, ids),
        }
        _count(written, source, blocks.tallies[n]["rows_in"], parts)
        for name, part in parts.items():
            files[name].write(part)
    for file in files.values():
        file.close()
    return written


def test_records(blocks: Blocks, decided: Decisions) -> pa.Table:
    """What questions of the test split are made from: its records with the number of a record of their group."""
    names = ["id", "question", "answer", "lang"]
    parts = []
    for start, table in zip(blocks.starts, blocks.tables, strict=False):
        rows = slice(start, start + len(table))
        is_test = decided.split[rows] == TEST
        part = table.select(names).filter(pa.array(is_test))
        parts.append(part.append_column("group", pa.array(decided.group[rows][is_test], pa.int64())))
    schema = pa.schema([(name, pa.string()) for name in names] + [("group", pa.int64())])
    return pa.concat_tables([schema.empty_table(), *parts])


def leakage_table(blocks: Blocks, decided: Decisions) -> pa.Table:
    """The worst pairs of the audit."""
    worst = decided.audit.worst(WORST)
    leaked = set(decided.audit.test[decided.audit.leaked].tolist())
    columns: dict[str, Any] = {}
    for side, at in (("test", 0), ("train", 1)):
        rows = [int(pair[at]) for pair in worst]
        columns[f"{side}_id"] = pa.array(blocks.values("id", rows), pa.string())
        columns[f"{side}_question"] = pa.array(blocks.values("question", rows), pa.string())
    columns |= {"jaccard": [pair[2] for pair in worst], "cosine": [pair[3] for pair in worst]}
    columns["leaked"] = [pair[0] in leaked for pair in worst]
    return pa.table(columns).select(LEAKAGE.names).cast(LEAKAGE)


class _Merged:
    """For each record that stays, where the duplicates stood that it stands for."""

    def __init__(self, blocks: Blocks, decided: Decisions) -> None:
        places = [pa.array([], pa.string())]
        for tally, start, table in zip(blocks.tallies, blocks.starts, blocks.tables, strict=False):
            rows = _within(decided.duplicates, start, len(table))
            lines = table.column("line").take(pa.array(rows)).cast(pa.string())
            places += pc.binary_join_element_wise(pa.scalar(tally["source"]), lines, ":").chunks
        kept = decided.verdicts.kept[decided.duplicates]
        order = np.argsort(kept, kind="stable")
        self._kept = kept[order]
        self._places = pa.chunked_array(places).combine_chunks().take(pa.array(order))

    def of(self, rows: Ints) -> pa.Array:
        """list<string> [rows]."""
        begins, ends = np.searchsorted(self._kept, rows), np.searchsorted(self._kept, rows, "right")
        offsets = np.concatenate(([0], np.cumsum(ends - begins))).astype(np.int32)
        taken = np.repeat(begins - offsets[:-1], ends - begins) + np.arange(offsets[-1])
        return pa.ListArray.from_arrays(pa.array(offsets), self._places.take(pa.array(taken)))


def _within(ascending: Ints, start: int, count: int) -> Ints:
    """The members of `ascending` from `start` on, among `count`, as places from 0."""
    begin, end = np.searchsorted(ascending, (start, start + count))
    return ascending[begin:end] - start


def _records(
    table: pa.Table, source: str, rows: Ints, decided: Decisions, ids: pa.Array, merged: _Merged
) -> pa.Table:  # fmt: skip
    places = _within(decided.chosen, rows[0] if len(rows) else 0, len(rows))
    chosen = rows[places]
    columns = record_columns(table.take(pa.array(places)), source)
    columns["group"] = ids.take(pa.array(decided.group[chosen]))
    columns["split"] = pa.array(np.array(SPLITS)[decided.split[chosen]], pa.string())
    columns["also_from"] = merged.of(chosen)
    return pa.table(columns).select(QARecord.schema.names)


def _duplicates(table: pa.Table, source: str, rows: Ints, decided: Decisions, ids: pa.Array) -> pa.Table:
    places = _within(decided.duplicates, rows[0] if len(rows) else 0, len(rows))
    taken, found = table.take(pa.array(places)), decided.verdicts
    numbers = rows[places]
    return pa.table(
        {
            "id": taken.column("id"),
            "duplicate_of": ids.take(pa.array(found.kept[numbers])),
            "method": pa.array(np.where(found.exact[numbers], EXACT, NEAR), pa.string()),
            "similarity": found.similarity[numbers],
            "source": pa.repeat(source, len(places)),
            "line": taken.column("line"),
            "question": taken.column("question"),
        }
    )


def _rejected(
    refused: pa.Table, table: pa.Table, source: str, rows: Ints, decided: Decisions, limit: int | None
) -> pa.Table:
    """Rows that cleaning rejected, and records that were left out later, by their place in the file."""
    start = rows[0] if len(rows) else 0
    parts = [refused.select(["ordinal", "line", "reason", "detail", "text"])]
    for reason, detail, numbers in (
        (DUPLICATE_ID, "another row before took this id", np.flatnonzero(decided.repeated_id[rows]) + start),
        (NOT_SAMPLED, f"left out by data.max_records = {limit}", decided.left_out),
    ):
        taken = table.take(pa.array(_within(numbers, start, len(rows))))
        text = taken.column("id") if reason == DUPLICATE_ID else taken.column("question")
        columns = {
            "ordinal": taken.column("ordinal"), "line": taken.column("line"),
            "reason": pa.repeat(reason, len(taken)), "detail": pa.repeat(detail, len(taken)),
            "text": pc.utf8_slice_codeunits(text, 0, _SHOWN_CHARS),
        }  # fmt: skip
        parts.append(pa.table(columns).cast(parts[0].schema))
    joined = pa.concat_tables(parts).sort_by("ordinal")
    return joined.append_column("source", pa.repeat(source, len(joined)))


def _count(written: Written, source: str, rows_in: int, parts: dict[str, pa.Table]) -> None:
    counts = written.sources.setdefault(source, Counter())
    counts.update(rows_in=rows_in, **{name: len(part) for name, part in parts.items()})
    written.reasons += Counter(parts["rejected"].column("reason").to_pylist())
    written.methods += Counter(parts["duplicates"].column("method").to_pylist())
    written.languages += language_counts(parts["records"])
    for name in ("question", "answer"):
        found = length_counts(parts["records"].column(name))
        written.lengths[name] = written.lengths.get(name, 0) + found
