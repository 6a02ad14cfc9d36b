"""The examples of a token store, each made when a step takes it.

In: the folder of a whole store (`token_store`). Out: `StoredExamples` of each split. The parts are mapped into memory,
so that workers of one machine share them; each worker holds four numbers of an example, and neither its start nor its
own memory grows with the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ragray.errors import ArtifactError
from ragray.train.examples import Example, check_some
from ragray.train.loading import load_tokenizer
from ragray.train.token_store import STORE, TokenSource, part_of

Ints = np.ndarray[Any, np.dtype[np.int32]]

_FIX = "run the command again: damaged parts are made anew; on several nodes, put `output` on storage that all share"


class _Part:
    """The rows of one split in a mapped part. All columns are views of the file."""

    def __init__(self, batch: pa.RecordBatch, split: str) -> None:
        here = pc.equal(batch.column("split"), split)
        self.reasons = batch.column("reason").filter(here)
        self.shortened = pc.sum(batch.column("shortened").filter(here)).as_py() or 0
        kept = pc.and_(here, pc.equal(batch.column("reason"), ""))
        self.rows: Ints = np.flatnonzero(kept).astype(np.int32)
        self._ids = batch.column("example_id")
        self._answer_starts = batch.column("answer_start").to_numpy()
        self._tokens, self._wrong = _Lists(batch.column("token_ids")), _Lists(batch.column("wrong_ids"))

    @property
    def lengths(self) -> Ints:
        """int32 [examples]: tokens of both sequences."""
        return self._tokens.lengths(self.rows) + self._wrong.lengths(self.rows)

    @property
    def wrong_lengths(self) -> Ints:
        """int32 [examples]: tokens of sequences with a wrong answer, 0 where there is none."""
        return self._wrong.lengths(self.rows)

    @property
    def answer_tokens(self) -> Ints:
        """int32 [examples]: tokens of right answers."""
        return self._tokens.lengths(self.rows) - np.asarray(self._answer_starts[self.rows], np.int32)

    @property
    def ids(self) -> list[str]:
        """The examples' ids."""
        ids: list[str] = self._ids.take(pa.array(self.rows)).to_pylist()
        return ids

    def example(self, number: int) -> Example:
        """One of the part's examples."""
        row = int(self.rows[number])
        start = int(self._answer_starts[row])
        return Example(self._ids[row].as_py(), self._tokens[row], start, self._wrong[row])


class _Lists:
    """A column of lists of numbers."""

    def __init__(self, column: pa.ListArray) -> None:
        self._values, self._edges = column.values.to_numpy(), column.offsets.to_numpy()

    def __getitem__(self, row: int) -> tuple[int, ...]:
        return tuple(self._values[self._edges[row] : self._edges[row + 1]].tolist())

    def lengths(self, rows: Ints) -> Ints:
        return np.asarray(self._edges[rows + 1] - self._edges[rows], np.int32)


class StoredExamples:
    """The examples of one split in the file's order, and what became of its other rows.

    `lengths` and `answer_tokens` are int32 [examples]: tokens in a row, and those of them that carry loss.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], split: str) -> None:
        self._parts = [_Part(batch, split) for batch in batches]
        self._starts = np.cumsum([0, *(len(part.rows) for part in self._parts)])
        self.lengths = _joined(part.lengths for part in self._parts)
        self.answer_tokens = _joined(part.answer_tokens for part in self._parts)
        self._wrong_lengths = _joined(part.wrong_lengths for part in self._parts)
        self.shortened = sum(part.shortened for part in self._parts)
        self.too_long = self._count("too_long")
        self.without_wrong = self._count("without_wrong")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Example:
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = int(np.searchsorted(self._starts, number, "right")) - 1
        return self._parts[part].example(number - int(self._starts[part]))

    @property
    def loss_tokens(self) -> Ints:
        """int32 [examples]: tokens of right and of wrong answers."""
        prompts = self.lengths - self._wrong_lengths - self.answer_tokens
        return self.answer_tokens + np.where(self._wrong_lengths > 0, self._wrong_lengths - prompts, 0)

    @property
    def pairs(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [examples]: the squares of the sequences' lengths, summed: what attention works through."""
        wrong = self._wrong_lengths.astype(np.int64)
        return (self.lengths - wrong) ** 2 + wrong**2

    @property
    def ids(self) -> Collection[str]:
        """The examples' ids, read anew each time they are gone through."""
        return _Ids(self._parts)

    def _count(self, reason: str) -> int:
        return sum(pc.sum(pc.equal(part.reasons, reason)).as_py() or 0 for part in self._parts)


class _Ids(Collection[str]):
    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part.ids

    def __contains__(self, example_id: object) -> bool:
        return any(found == example_id for found in self)


def _joined(parts: Iterable[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int32), *parts])


def stored_in_memory(source: TokenSource) -> tuple[StoredExamples, StoredExamples]:
    """The training and the validation examples of a store that is not written down.

    Raises:
        EngineError: the tokenizer or its chat template cannot be used.
        DataError: no example to train on.
    """
    tokenizer = load_tokenizer(source.model_folder)
    return _both([part_of(source, tokenizer, table) for _, table in source.tables(range(source.parts))], source)


def open_store(folder: Path, source: TokenSource) -> tuple[StoredExamples, StoredExamples]:
    """The training and the validation examples of a whole store.

    Raises:
        ArtifactError: a part is missing or cut short.
        DataError: no example to train on.
    """
    try:
        sizes = json.loads((folder / STORE).read_text(encoding="utf-8"))["bytes"]
        if cut := [name for name, size in sizes.items() if (folder / name).stat().st_size != size]:
            raise ArtifactError(f"{folder / cut[0]}: not as long as it was written", _FIX)
        batches = [pa.ipc.open_file(pa.memory_map(str(folder / name))).get_batch(0) for name in sizes]
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise ArtifactError(f"{folder}: the tokens of the examples cannot be read: {error}", _FIX) from error
    return _both(batches, source)


def _both(batches: Sequence[pa.RecordBatch], source: TokenSource) -> tuple[StoredExamples, StoredExamples]:
    train, valid = StoredExamples(batches, "train"), StoredExamples(batches, "valid")
    for split, found in (("train", train), ("valid", valid)):
        check_some(source.examples_file, split, len(found), found.too_long, found.without_wrong, source.max_length)
    return train, valid
