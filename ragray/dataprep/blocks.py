"""Blocks: the cleaned rows of one part of the input, on disk.

In: a part of an input file. Out: files that hold its records with the keys that later steps compare, its rejected
rows, and counts. A block depends on its part alone, so parts can be done anywhere in any order, and one that
is done is not done again; its counts are written last. Blocks are mapped into memory, not read into it.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ragray.config_data import DataConfig
from ragray.dataprep.boilerplate import Digests, common_lines, lines_of, merge_lines, remove_lines
from ragray.dataprep.clean import Cleaned, clean_table
from ragray.dataprep.dedup import RecordKeys, record_keys
from ragray.dataprep.given import GIVEN, with_given
from ragray.dataprep.hashing import Hashes
from ragray.dataprep.read import FilePart, read_part
from ragray.dataprep.rows import in_one_piece
from ragray.dataprep.shingles import Texts
from ragray.errors import DataError
from ragray.schema import Rejected

BLOCK_ROWS = 16_384
LENGTH_BINS = 24  # of characters: bin k holds lengths from 2^k up to 2^(k+1), bin 0 also 0
STEP_EXAMPLES = 3

_PLAIN, _PLAIN_COUNTS = ".plain.arrow", ".plain.json"
_TEXTS = ("id", "question", "answer", "lang", "script", *GIVEN)
_PLACES = ("ordinal", "line")
_PAIR = ["question", "answer"]
_REJECTED = pa.schema(
    [("id", pa.string()), ("ordinal", pa.int64())]
    + [Rejected.schema.field(name) for name in ("line", "reason", "detail", "text")]
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an input file: `file` and `part` number it in source order."""

    file: int
    part: int
    content: FilePart

    @property
    def name(self) -> str:
        """The name of its block's files, without ending."""
        return f"{self.file:05d}-{self.part:05d}"


def write_block(part: Part, folder: Path, settings: DataConfig, block_rows: int = BLOCK_ROWS) -> None:
    """Read, clean and key the rows of a part. Nothing is done where its block exists.

    A file that cannot be used at all leaves counts with a `fault`: (message, fix), for the caller to raise.
    """
    if (folder / f"{part.name}.json").exists():
        return
    tally = _Tally(part.content.file.file.source)
    try:
        _write_rows(part, folder, settings, block_rows, tally)
    except DataError as error:
        tally.fault = (error.message, error.fix)
    counts = json.dumps(tally.as_json(), ensure_ascii=False)
    _replace(folder / f"{part.name}.json", lambda path: path.write_text(counts))


def _write_rows(part: Part, folder: Path, settings: DataConfig, block_rows: int, tally: _Tally) -> None:
    rejected: list[pa.Table] = []
    lines: list[pa.Table] = []
    aside = folder / f"{part.name}.arrow.aside"
    with pa.OSFile(str(aside), "wb") as sink:
        writer: pa.RecordBatchFileWriter | None = None
        for raw in read_part(part.content, block_rows):
            cleaned = clean_table(raw, part.content.file.file, settings.clean)
            kept, refused = divided(with_given(cleaned.table, raw))
            tally.add(raw, cleaned, kept, refused)
            rejected.append(refused)
            if "boilerplate" in settings.clean.steps:
                lines.append(lines_of(kept))
            keyed = with_keys(kept, settings)
            writer = writer or pa.ipc.new_file(sink, keyed.schema)
            writer.write_table(keyed)
        if writer is None:
            writer = pa.ipc.new_file(sink, with_keys(_KEPT.empty_table(), settings).schema)
        writer.close()
    aside.replace(folder / f"{part.name}.arrow")
    table = pa.concat_tables(rejected) if rejected else _REJECTED.empty_table()
    _replace(folder / f"{part.name}.rejected.arrow", lambda path: _write_ipc(path, table))
    _replace(folder / f"{part.name}.lines.arrow", lambda path: _write_ipc(path, merge_lines(lines)))


def write_plain(blocks: Blocks, block: int, lines: Digests, settings: DataConfig) -> None:
    """Take boilerplate lines out of the answers of a block. Nothing is done where that was done before."""
    path = blocks.folder / blocks.names[block]
    if path.with_suffix(_PLAIN_COUNTS).exists():
        return
    plain, changed = remove_lines(_open_ipc(path.with_suffix(".arrow")), lines)
    if changed:
        keyed = with_keys(plain.select(_KEPT.names), settings)
        _replace(path.with_suffix(_PLAIN), lambda aside: _write_ipc(aside, keyed))
    counts = json.dumps({"changed": len(changed), "examples": changed[:STEP_EXAMPLES]}, ensure_ascii=False)
    _replace(path.with_suffix(_PLAIN_COUNTS), lambda aside: aside.write_text(counts))


_KEPT = pa.schema([(name, pa.string()) for name in _TEXTS] + [(name, pa.int64()) for name in _PLACES])


def divided(outcomes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The kept and the rejected rows of a table of outcomes."""
    stays = pc.equal(outcomes.column("reason"), "")
    kept, refused = outcomes.filter(stays), outcomes.filter(pc.invert(stays))
    return kept.select(_KEPT.names).cast(_KEPT), refused.select(_REJECTED.names).cast(_REJECTED)


def with_keys(kept: pa.Table, settings: DataConfig) -> pa.Table:
    """Records with the keys that duplicates and groups are found by."""
    kept = kept.combine_chunks()
    question, answer = (in_one_piece(kept.column(name)) for name in ("question", "answer"))
    keys = record_keys((question, answer), settings.dedup)
    columns = {"question_hash": keys.question, "answer_hash": keys.answer}
    for by, bands in keys.bands.items():
        columns |= {f"{by}_{n:03d}": band for n, band in enumerate(bands)}
    for name, values in columns.items():
        kept = kept.append_column(name, pa.array(values, pa.uint64()))
    return kept


class _Tally:
    """Counts of one block, and of each cleaning step the first examples."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.fault: tuple[str, str] | None = None
        self.rows_in = self.kept = self.rejected = 0
        self.steps: Counter[str] = Counter()
        self.examples: dict[str, list[list[str]]] = {}
        self.languages: Counter[str] = Counter()
        self.lengths = {name: np.zeros(LENGTH_BINS, np.int64) for name in ("question", "answer")}

    def add(self, raw: pa.Table, cleaned: Cleaned, kept: pa.Table, refused: pa.Table) -> None:
        self.rows_in += len(raw)
        self.kept += len(kept)
        self.rejected += len(refused)
        self.steps += cleaned.changed
        for step, found in cleaned.examples.items():
            held = self.examples.setdefault(step, [])
            held += [list(pair) for pair in found[: STEP_EXAMPLES - len(held)]]
        self.languages += language_counts(kept)
        for name, counts in self.lengths.items():
            counts += length_counts(raw.column(name))

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source, "fault": self.fault, "rows_in": self.rows_in, "kept": self.kept,
            "rejected": self.rejected, "steps": dict(self.steps), "step_examples": self.examples,
            "languages": dict(self.languages), "lengths": {k: v.tolist() for k, v in self.lengths.items()},
        }  # fmt: skip


def language_counts(records: pa.Table) -> Counter[str]:
    """How many records are in each language and script."""
    joined = pc.binary_join_element_wise(records.column("lang"), records.column("script"), "-")
    return Counter({row["values"].rstrip("-"): row["counts"] for row in pc.value_counts(joined).to_pylist()})


def length_counts(texts: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [LENGTH_BINS]: how many texts have each length, by the power of two."""
    lengths = np.asarray(pc.utf8_length(texts))
    return np.bincount(np.log2(np.maximum(lengths, 1)).astype(np.int64), minlength=LENGTH_BINS)[:LENGTH_BINS]


class Blocks:
    """The blocks of all parts in source order; records are numbered through."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, list(names)

    def __reduce__(self) -> tuple[Any, ...]:
        return Blocks, (self.folder, self.names)  # never the tables

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(tally["kept"] for tally in self.tallies)

    @cached_property
    def tallies(self) -> list[dict[str, Any]]:
        """The counts of each block, as `_Tally.as_json` wrote them."""
        return [_with_plain(self.folder / name) for name in self.names]

    @cached_property
    def tables(self) -> list[pa.Table]:
        """The records of each block, without boilerplate where that was taken out."""
        return [_open_ipc(path) for path in self._paths]

    @property
    def _paths(self) -> Iterator[Path]:
        for name in self.names:
            path = self.folder / name
            plain = path.with_suffix(_PLAIN)
            yield plain if plain.exists() else path.with_suffix(".arrow")

    def boilerplate(self, settings: DataConfig) -> Digests:
        """The digests of lines that stand in so many answers of all blocks that they are boilerplate."""
        counts = [_open_ipc(self.folder / f"{name}.lines.arrow") for name in self.names]
        return common_lines(counts, [tally["kept"] for tally in self.tallies], settings.clean)

    @property
    def starts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [blocks + 1]: the number of each block's first record."""
        return np.concatenate(([0], np.cumsum([len(table) for table in self.tables]))).astype(np.int64)

    def rejected(self, block: int) -> pa.Table:
        """The rejected rows of a block."""
        return _open_ipc(self.folder / f"{self.names[block]}.rejected.arrow")

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all records."""
        chunks = [chunk for table in self.tables for chunk in table.column(name).chunks]
        return pa.chunked_array(chunks, type=_KEPT.field(name).type if name in _KEPT.names else pa.uint64())

    def values(self, name: str, rows: Iterable[int]) -> list[Any]:
        """The values of a few records in a column; taking them from all chunks at once would copy these."""
        starts, found = self.starts, []
        for row in rows:
            block = int(np.searchsorted(starts, row, "right")) - 1
            found.append(self.tables[block].column(name)[int(row - starts[block])].as_py())
        return found

    def numbers(self, name: str) -> Hashes:
        """A column of numbers as one array."""
        chunks = [np.asarray(chunk) for chunk in self.column(name).chunks]
        return np.concatenate(chunks) if chunks else np.empty(0, np.uint64)

    def texts(self) -> Texts:
        """Questions and answers, for reading here and there."""
        pairs = [_open_ipc(path, here_and_there=True).select(_PAIR).to_batches() for path in self._paths]
        return Texts([(batch.column(0), batch.column(1)) for batches in pairs for batch in batches])

    def keys(self, kinds: Iterable[str]) -> RecordKeys:
        """The keys of all records; bands are read one at a time."""
        bands = {by: _Bands(self, by) for by in kinds}
        return RecordKeys(self.numbers("question_hash"), self.numbers("answer_hash"), bands)


class _Bands(Iterable[Hashes]):
    """The band keys of one kind, each read when its turn comes."""

    def __init__(self, blocks: Blocks, kind: str) -> None:
        self._blocks, self._kind = blocks, kind

    def __iter__(self) -> Iterator[Hashes]:
        known: Mapping[str, Any] = {name: None for table in self._blocks.tables[:1] for name in table.column_names}
        for name in known:
            if name.startswith(f"{self._kind}_") and name[-3:].isdigit():
                yield self._blocks.numbers(name)


def record_columns(table: pa.Table, source: str) -> dict[str, pa.Array]:
    """Columns of `schema.QARecord`: those that a block knows."""
    known = {name: in_one_piece(table.column(name)) for name in ("id", "question", "answer", "lang", "line", "script")}
    constant = {"source": source, "parent": "", "method": ""}
    return known | {name: pa.repeat(value, len(table)) for name, value in constant.items()}


def _with_plain(path: Path) -> dict[str, Any]:
    """The counts of a block, with those of the boilerplate taken out."""
    tally: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    plain = path.with_suffix(_PLAIN_COUNTS)
    if plain.exists():
        found = json.loads(plain.read_text())
        if found["changed"]:
            tally["steps"]["boilerplate"] = found["changed"]
            tally["step_examples"]["boilerplate"] = found["examples"]
    return tally


def _write_ipc(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _open_ipc(path: Path, here_and_there: bool = False) -> pa.Table:
    """A table that is mapped into memory; `here_and_there` spares reading ahead what is not asked for."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if here_and_there and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def _replace(path: Path, write: Any) -> None:
    """Write aside, then rename: the file is whole or absent."""
    aside = path.with_name(f"{path.name}.aside")
    write(aside)
    aside.replace(path)
