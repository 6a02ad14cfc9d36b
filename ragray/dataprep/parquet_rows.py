"""Question-answer pairs from Parquet.

In: a file or some of its row groups. Out: rows one by one, or tables made of whole columns. A batch in which
anything is unusual is read row by row, so both ways give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ragray.dataprep.faq_file import FaqFile, FilePart, check_columns, root_of, row_of_values, wanted_columns
from ragray.dataprep.rows import FIELDS, RawRow, columns_table, raw_table
from ragray.dataprep.sources import explained, is_packed, read_bytes
from ragray.errors import DataError

_BATCH_ROWS = 4096


def parquet_rows(part: FilePart) -> Iterator[RawRow]:
    """The rows of a part, without ordinals.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    for first, batch in _batches(part):
        yield from _rows(batch, part.file, first)


def parquet_tables(part: FilePart) -> Iterator[pa.Table]:
    """The same rows in tables.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    for first, batch in _batches(part):
        table = _converted(batch, part.file, first)
        yield raw_table(_rows(batch, part.file, first)) if table is None else table


def parquet_parts(file: FaqFile, part_bytes: int) -> list[FilePart]:
    """Runs of row groups of about `part_bytes` unpacked, with the numbers of their first rows.

    Raises:
        DataError: the file cannot be read.
    """
    if is_packed(file.file.path):
        return [FilePart(file)]
    parts: list[FilePart] = []
    with explained(file.file.path):
        metadata = _open(file).metadata
    start = row = rows = size = 0
    for n in range(metadata.num_row_groups):
        group = metadata.row_group(n)
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if size >= part_bytes or n == metadata.num_row_groups - 1:
            parts.append(FilePart(file, start, n + 1, row + 1, row + 1))
            start, row, rows, size = n + 1, row + rows, 0, 0
    return parts or [FilePart(file)]


def _open(file: FaqFile) -> pa.parquet.ParquetFile:
    import pyarrow.parquet as pq

    place = file.file.path
    try:
        if is_packed(place):
            return pq.ParquetFile(pa.BufferReader(read_bytes(place)))
        return pq.ParquetFile(place if isinstance(place, Path) else place.open())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.file.source}: not a readable Parquet file: {error}", "export the file again") from None


def _batches(part: FilePart) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row, batch with the wanted columns) of the row groups of a part."""
    table = _open(part.file)
    check_columns(part.file, table.schema_arrow.names)
    known = set(table.schema_arrow.names)
    wanted = [name if name in known else root_of(name) for name in wanted_columns(part.file.columns)]
    groups = range(part.start, table.num_row_groups if part.end is None else part.end)
    number = part.first_line
    with explained(part.file.file.path):
        for batch in table.iter_batches(
            _BATCH_ROWS, row_groups=list(groups), columns=list(dict.fromkeys(wanted)), use_threads=False
        ):
            yield number, batch
            number += batch.num_rows


def _rows(batch: pa.RecordBatch, file: FaqFile, first: int) -> Iterator[RawRow]:
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    for number in range(batch.num_rows):
        values = {name: column[number] for name, column in zip(names, columns, strict=True)}
        row = row_of_values(values, file.columns, first + number, "")
        yield row_of_values(values, file.columns, first + number, str(values)) if row.reason else row


def _values(column: pa.Array) -> list[object]:
    """The values of a column; bytes that are no UTF-8 become U+FFFD in theirs."""
    column = _plain(column)
    if pa.types.is_large_string(column.type):
        binary = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "replace") for value in binary]
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):  # times beyond what Python knows, or bad text within a nested value
        return [object() if is_valid else None for is_valid in column.is_valid().to_pylist()]


def _plain(column: pa.Array) -> pa.Array:
    """The column with its dictionary applied, and any kind of string as large strings."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    is_string = pa.types.is_string(kind) or pa.types.is_string_view(kind)
    return column.cast(pa.large_string()) if is_string else column


def _converted(batch: pa.RecordBatch, file: FaqFile, first: int) -> pa.Table | None:
    """The rows of a batch by whole columns; None where that might differ from reading them one by one."""
    found = {}
    for field in FIELDS:
        name = getattr(file.columns, field)
        if name is None:
            continue
        if name not in batch.schema.names:
            return None
        column = _plain(batch.column(name))
        kind = column.type
        if not (pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            return None
        found[field] = column.cast(pa.string()).fill_null("")
    return columns_table(found, pa.array(np.arange(first, first + batch.num_rows)))
