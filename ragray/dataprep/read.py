"""Reading question-answer pairs from files of ten formats.

In: one input file and its settings. Out: rows in file order, the unreadable ones with a reason, so
that every row of the file is accounted for: as `RawRow`s one by one, or as Arrow tables, which is the fast way and
gives the same rows. Large files can be read in parts. A file as a whole fails only where nothing in it can be
trusted: wrong columns, invalid JSON, unreadable.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator

import pyarrow as pa

from ragray.config_data import FaqSourceConfig
from ragray.dataprep.csv_rows import CsvReader
from ragray.dataprep.faq_file import FaqFile, FilePart
from ragray.dataprep.json_rows import json_rows, jsonl_rows, jsonl_tables
from ragray.dataprep.line_chunks import line_parts
from ragray.dataprep.office import outline_of
from ragray.dataprep.outline import sections
from ragray.dataprep.parquet_rows import parquet_parts, parquet_rows, parquet_tables
from ragray.dataprep.qa_text import heading_rows, outline_rows, qa_text_rows
from ragray.dataprep.rows import RawRow, numbered, raw_tables, renumbered
from ragray.dataprep.sources import (
    InputFile,
    Place,
    check_readable,
    ending_of,
    expand,
    identity_of,
    lines_of,
    read_text,
    unique_labels,
)
from ragray.errors import DataError

__all__ = [
    "FORMAT_OF_ENDING", "FaqFile", "FilePart", "faq_files", "parts_of", "read_part", "read_rows",
    "read_tables",
]  # fmt: skip

FORMAT_OF_ENDING = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "qa_text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
PART_BYTES = 32 << 20  # of a JSONL or Parquet file that is read in parts


def faq_files(sources: Collection[FaqSourceConfig]) -> list[FaqFile]:
    """All files that the configuration names, in the order of the sources and sorted within each.

    Raises:
        DataError: a file is missing, empty, unreadable, of unknown format, or named twice.
    """
    found: list[tuple[Place, str, FaqSourceConfig]] = []
    owners: dict[Place, str] = {}
    for n, source in enumerate(sources):
        setting = f"data.faq.{n}"
        for path in expand(source.path, tuple(FORMAT_OF_ENDING), f"{setting}.path"):
            identity = identity_of(path)
            if identity in owners:
                raise DataError(
                    f"{path}: named by {owners[identity]} and by {setting}", f"narrow {setting}.path or remove it"
                )
            owners[identity] = setting
            check_readable(path)
            found.append((path, setting, source))
    labels = unique_labels([path for path, _, _ in found])
    return [
        FaqFile(
            InputFile(path, str(path), label), setting, _format(path, source, setting), source.encoding, source.columns
        )
        for (path, setting, source), label in zip(found, labels, strict=True)
    ]


def _format(path: Place, source: FaqSourceConfig, setting: str) -> str:
    if source.format != "auto":
        return source.format
    try:
        return FORMAT_OF_ENDING[ending_of(path)]
    except KeyError:
        raise DataError(
            f"{path}: its ending does not tell the format",
            f"set {setting}.format to one of {', '.join(sorted(set(FORMAT_OF_ENDING.values())))}",
        ) from None


def parts_of(file: FaqFile, part_bytes: int = PART_BYTES) -> list[FilePart]:
    """The parts that a file can be read in, in order: JSONL at lines, Parquet at row groups, others as a whole.

    Args:
        file: a file of `faq_files`.
        part_bytes: about so many bytes a part; of Parquet, unpacked.

    Raises:
        DataError: the file cannot be read.
    """
    if file.format == "jsonl":
        return line_parts(file, part_bytes)
    return parquet_parts(file, part_bytes) if file.format == "parquet" else [FilePart(file)]


def read_rows(file: FaqFile) -> Iterator[RawRow]:
    """The rows of a file in order, numbered from 1, the unreadable ones included, one by one.

    Raises:
        DataError: the file cannot be read, or does not have the columns.
    """
    return numbered(_READERS[file.format](FilePart(file)))


def read_tables(file: FaqFile, block_rows: int) -> Iterator[pa.Table]:
    """The same rows as tables of `rows.RAW_SCHEMA` with `block_rows` rows each, the last one fewer.

    Raises:
        DataError: the file cannot be read, or does not have the columns.
    """
    return read_part(FilePart(file), block_rows)


def read_part(part: FilePart, block_rows: int) -> Iterator[pa.Table]:
    """The rows of a part as tables, numbered as in the whole file.

    Raises:
        DataError: the file cannot be read, or does not have the columns.
    """
    if part.file.format in _TABLE_READERS:
        tables = _TABLE_READERS[part.file.format](part)
    else:
        tables = raw_tables(_READERS[part.file.format](part), block_rows)
    return renumbered(tables, block_rows, part.first_ordinal)


def _markdown(part: FilePart) -> Iterator[RawRow]:
    text = read_text(part.file.file.path, part.file.encoding)
    return heading_rows(sections(io.StringIO(text)))


def _qa_text(part: FilePart) -> Iterator[RawRow]:
    return qa_text_rows(enumerate(lines_of(part.file.file.path, part.file.encoding), 1))


def _outlined(part: FilePart) -> Iterator[RawRow]:
    return outline_rows(outline_of(part.file.file.path, part.file.format, part.file.encoding))


def _csv(part: FilePart) -> CsvReader:
    return CsvReader(part.file, "\t" if part.file.format == "tsv" else ",")


_READERS: dict[str, Callable[[FilePart], Iterator[RawRow]]] = {
    "jsonl": jsonl_rows,
    "json": lambda part: json_rows(part.file),
    "csv": lambda part: _csv(part).rows(),
    "tsv": lambda part: _csv(part).rows(),
    "parquet": parquet_rows,
    "qa_text": _qa_text,
    "markdown": _markdown,
    "html": _outlined,
    "pdf": _outlined,
    "docx": _outlined,
}
_TABLE_READERS: dict[str, Callable[[FilePart], Iterator[pa.Table]]] = {
    "jsonl": jsonl_tables,
    "csv": lambda part: _csv(part).tables(),
    "tsv": lambda part: _csv(part).tables(),
    "parquet": parquet_tables,
}
