"""The tokens of a run's examples on disk, mapped into memory by every worker.

In: examples.parquet and a tokenizer. Out: `tokens-<key>/` in the run's work folder. A part holds so many rows of the
examples in their order, as an Arrow IPC file of one batch whose name ends in the digest of its bytes:

    00000-<digest>.arrow   id, split, tokens, and why a row is no example
    store.json             the parts' names and sizes; written last: the store is whole

The key covers all that the tokens depend on, and a part's bytes depend on its rows alone, so parts can be made
anywhere in any order, and those that are whole are not made again. `distributed.tokens` makes them with Ray Data,
`stored_examples` reads them.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ragray.artifact import code_digest, explain_os_error, file_digest, sync
from ragray.errors import WorkError
from ragray.manifest import content_digest, package_versions
from ragray.train.examples import Example, Tokenized, Wrong, tokenize_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART_ROWS = 4096
STORE = "store.json"

_FORMAT = 1
_ASIDE = ".part-"
_CODE = ("prompt", "train.examples", "train.token_store")
_TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
PART_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("example_id", pa.string()),
        ("reason", pa.string()),  # as in `Tokenized`
        ("shortened", pa.bool_()),
        ("answer_start", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("wrong_ids", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class TokenSource:
    """What a store is made from: plain values, and files that every maker of parts can read."""

    examples_file: Path
    model_folder: Path
    max_length: int
    wrong: Wrong  # of the training split; validation takes right answers alone
    part_rows: int = PART_ROWS

    @cached_property
    def key(self) -> str:
        """The digest of all that the tokens depend on, 64 hexadecimal digits."""
        files = {f.name: file_digest(f) for p in _TOKENIZER_FILES for f in self.model_folder.glob(p) if f.is_file()}
        versions = package_versions()
        tree = {
            "format": _FORMAT,
            "examples": file_digest(self.examples_file),
            "tokenizer": content_digest(files),
            "code": code_digest(_CODE),
            "packages": [versions.get(name) for name in ("transformers", "tokenizers")],
            "settings": [self.max_length, self.wrong, self.part_rows],
        }
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    @cached_property
    def rows(self) -> int:
        """How many rows the examples file has."""
        return int(pq.read_metadata(self.examples_file).num_rows)

    @property
    def parts(self) -> int:
        """How many parts they make."""
        return -(-self.rows // self.part_rows)

    @property
    def wrong_by_split(self) -> Mapping[str, Wrong]:
        """The splits that are stored, and which of their examples have wrong answers."""
        return {"train": self.wrong, "valid": "none"}

    def tables(self, numbers: Collection[int]) -> Iterator[tuple[int, pa.Table]]:
        """The rows of some parts, with the parts' numbers, in order; row groups without any of them are not read."""
        wanted = set(numbers)
        waiting: dict[int, list[pa.RecordBatch]] = {}
        row = 0
        with pq.ParquetFile(self.examples_file) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                here = range(row // self.part_rows, -(-(row + size) // self.part_rows))
                if wanted.isdisjoint(here):
                    row += size
                    continue
                for batch in file.iter_batches(self.part_rows, [group]):
                    yield from self._sorted_in(batch, row, wanted, waiting)
                    row += batch.num_rows
                    if not wanted:
                        return

    def _sorted_in(
        self, batch: pa.RecordBatch, row: int, wanted: set[int], waiting: dict[int, list[pa.RecordBatch]]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Lay the rows from `row` on to their parts; those that are now complete."""
        end = row + batch.num_rows
        for number in range(row // self.part_rows, -(-end // self.part_rows)):
            first, last = number * self.part_rows, min((number + 1) * self.part_rows, self.rows)
            if number in wanted:
                held = waiting.setdefault(number, [])
                held.append(batch.slice(max(first - row, 0), min(last, end) - max(first, row)))
                if last <= end:
                    wanted.remove(number)
                    yield number, pa.Table.from_batches(waiting.pop(number))


def write_parts(source: TokenSource, folder: Path, numbers: Collection[int]) -> None:
    """Tokenize some parts, one after the other.

    Raises:
        EngineError: the tokenizer or its chat template cannot be used.
        WorkError: the disk is full, or writing is not permitted.
    """
    from ragray.train.loading import load_tokenizer

    tokenizer = load_tokenizer(source.model_folder)
    try:
        for number, table in source.tables(numbers):
            _write(folder, number, part_of(source, tokenizer, table))
    except OSError as error:
        raise explain_os_error(error, str(folder)) from error


def part_of(source: TokenSource, tokenizer: PreTrainedTokenizerBase, table: pa.Table) -> pa.RecordBatch:
    """Rows of examples.parquet as a part holds them."""
    found = list(tokenize_rows(table, tokenizer, source.max_length, source.wrong_by_split))
    columns = zip(*map(_values, found), strict=True) if found else [[] for _ in PART_SCHEMA]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PART_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PART_SCHEMA)


def _values(found: Tokenized) -> tuple[Any, ...]:
    example = found.example or Example(found.example_id, (), 0)
    told = (found.split, found.example_id, found.reason, found.shortened)
    return (*told, example.answer_start, example.token_ids, example.wrong_ids)


def _write(folder: Path, number: int, batch: pa.RecordBatch) -> None:
    """Write aside, then rename: the part is whole, on the disk, or absent."""
    aside = folder / f"{_ASIDE}{number:05d}.{uuid.uuid4().hex}"
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    sync(aside)
    aside.replace(folder / f"{number:05d}-{file_digest(aside)}.arrow")


Write = Callable[[TokenSource, Path, Collection[int]], None]


def make_store(source: TokenSource, work_folder: Path, write: Write = write_parts) -> Path:
    """The folder of the whole store; parts that are missing or damaged are made.

    Only one process may do this at a time.

    Args:
        source: what it is made from.
        work_folder: of the run.
        write: makes the parts with these numbers.

    Raises:
        EngineError: the tokenizer or its chat template cannot be used.
        WorkError: the disk is full, or parts were written where this process does not see them.
    """
    folder = work_folder / f"tokens-{source.key[:16]}"
    try:
        folder.mkdir(exist_ok=True)
        found = _parts_in(folder)
        for number, path in list(found.items()):
            if file_digest(path) != path.stem.partition("-")[2]:
                found.pop(number).unlink()
        left = [number for number in range(source.parts) if number not in found]
        if left:
            (folder / STORE).unlink(missing_ok=True)
            write(source, folder, left)
        if not (folder / STORE).exists():
            _finish(folder, source)
    except OSError as error:
        raise explain_os_error(error, str(folder)) from error
    return folder


def _parts_in(folder: Path) -> dict[int, Path]:
    """The parts that are there, by their numbers."""
    found = {int(path.name.partition("-")[0]): path for path in folder.glob("*-*.arrow")}
    return dict(sorted(found.items()))


def _finish(folder: Path, source: TokenSource) -> None:
    """Say that the store is whole; remove what killed makers left half written."""
    found = _parts_in(folder)
    if missing := [number for number in range(source.parts) if number not in found]:
        raise WorkError(
            f"{folder}: part {missing[0]} and {len(missing) - 1} others were written elsewhere",
            "set output to a folder that all nodes of the cluster share",
        )
    sizes = {path.name: path.stat().st_size for path in found.values()}
    aside = folder / f".{STORE}"
    aside.write_text(json.dumps({"bytes": sizes}, indent=2) + "\n", encoding="utf-8")
    sync(aside)
    aside.replace(folder / STORE)
    sync(folder)
    for path in folder.glob(f"{_ASIDE}*"):
        path.unlink()
