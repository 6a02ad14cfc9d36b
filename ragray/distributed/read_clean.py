"""Reading and cleaning with Ray Data: the row-wise part of stage prepare.

In: input files. Out: a record or a rejection for each of their rows, in source order. A file is read by one
task, streaming; its rows are cleaned in blocks wherever the cluster has room. Workers import this module,
so it imports nothing that they do not need.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import pyarrow as pa

from ragray.config import CleanConfig
from ragray.dataprep.clean import clean_row
from ragray.dataprep.read import FaqFile, read_rows
from ragray.dataprep.rows import RawRow, raw_rows, raw_table
from ragray.distributed.session import connect
from ragray.errors import DataError
from ragray.schema import QARecord, Rejected

BLOCK_ROWS = 8192

_UNUSABLE = "unusable_file"
_FILE, _ORDINAL, _REASON = "file", "ordinal", "reason"
_OUTCOME = pa.schema(
    [(_FILE, pa.int64()), (_ORDINAL, pa.int64())]
    + [(name, QARecord.schema.field(name).type) for name in ("id", "question", "answer", "lang", "source", "line")]
    + [(name, Rejected.schema.field(name).type) for name in ("reason", "detail", "text")]
)


@dataclass(frozen=True)
class Outcomes:
    """What became of every row, in source order. `rejected_ids` gives the reasons of rejected rows by their ids."""

    records: list[QARecord]
    rejected: list[Rejected]
    rejected_ids: dict[str, str]


def read_and_clean(files: Sequence[FaqFile], settings: CleanConfig, block_rows: int = BLOCK_ROWS) -> Outcomes:
    """Read and clean all rows of all files with Ray Data; the result does not depend on `block_rows`.

    Raises:
        DataError: a file cannot be used.
    """
    connect()
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    listed = ray.data.from_items([{_FILE: n} for n in range(len(files))], override_num_blocks=len(files))
    rows = listed.map_batches(
        functools.partial(_read_blocks, list(files), block_rows), batch_size=1, batch_format="pyarrow"
    ).repartition(target_num_rows_per_block=block_rows)
    cleaned = rows.map_batches(
        functools.partial(_clean_block, list(files), settings), batch_size=None, batch_format="pyarrow"
    )
    blocks = cast(Iterator[pa.Table], cleaned.iter_batches(batch_size=None, batch_format="pyarrow"))
    return _collect([block for block in blocks if block.num_rows])


def _read_blocks(files: Sequence[FaqFile], block_rows: int, batch: pa.Table) -> Iterator[pa.Table]:
    """Tables of raw rows of the files that a batch lists, at most `block_rows` at once in memory."""
    for number in batch.column(_FILE).to_pylist():
        rows = _rows_or_fault(files[number])
        while block := list(islice(rows, block_rows)):
            yield raw_table(block).append_column(_FILE, pa.array([number] * len(block), pa.int64()))


def _rows_or_fault(file: FaqFile) -> Iterator[RawRow]:
    """The rows of a file; a fault of the whole file becomes a row, for Ray logs the stack of an exception."""
    try:
        yield from read_rows(file)
    except DataError as error:
        yield RawRow(0, 0, reason=_UNUSABLE, detail=error.message, text=error.fix)


def _clean_block(files: Sequence[FaqFile], settings: CleanConfig, block: pa.Table) -> pa.Table:
    """One outcome for each raw row of a block."""
    numbers = block.column(_FILE).to_pylist() if block.num_columns else []
    columns: dict[str, list[Any]] = {name: [] for name in _OUTCOME.names}
    for number, row in zip(numbers, raw_rows(block) if numbers else [], strict=True):
        outcome = clean_row(row, files[number].file, settings)
        given_id = row.id or f"{files[number].file.label}-{row.ordinal:04d}"
        for name in _OUTCOME.names:
            columns[name].append(getattr(outcome, name, ""))
        columns[_FILE][-1], columns[_ORDINAL][-1], columns["id"][-1] = number, row.ordinal, given_id
    return pa.table(columns, schema=_OUTCOME)


def _collect(tables: Sequence[pa.Table]) -> Outcomes:
    """Outcomes in source order; a row whose id was taken before is rejected.

    Raises:
        DataError: of the first file that could not be used.
    """
    table = pa.concat_tables(tables).select(_OUTCOME.names) if tables else _OUTCOME.empty_table()
    table = table.sort_by([(_FILE, "ascending"), (_ORDINAL, "ascending")])
    outcomes = Outcomes([], [], {})
    places: dict[str, str] = {}
    for row in table.to_pylist():
        source, line = row["source"], row["line"]
        if row[_REASON] == _UNUSABLE:
            raise DataError(row["detail"], row["text"])
        if not row[_REASON] and row["id"] in places:
            detail = f"the id {row['id']!r} was taken by {places[row['id']]}"
            row |= {_REASON: "duplicate_id", "detail": detail, "text": row["question"]}
        if row[_REASON]:
            outcomes.rejected.append(Rejected(source, line, row[_REASON], row["detail"], row["text"]))
            outcomes.rejected_ids.setdefault(row["id"], row[_REASON])
            continue
        places[row["id"]] = f"{source}:{line}"
        outcomes.records.append(QARecord(row["id"], row["question"], row["answer"], row["lang"], source, line))
    return outcomes
