"""Part of an index that never changes: some documents, their passages, and the postings of their terms.

In: a table of passages, or segments to be merged. Out: a folder whose arrays open memory-mapped. Nothing in it depends
on what other segments there are. Terms follow their bytes and documents their order, so the same passages give
the same bytes, also where they were merged from parts.

    vocabulary.*       terms, sorted by their bytes
    packed.npy         uint16  postings, see `chunks`
    pointers.npy       uint32 or int64 [terms + 1]   where each term begins in `packed`
    lengths.npy        uint32  [documents]  terms of each document
    ids.*, ids.order.npy   ids of the documents, and their numbers sorted by id
    passages.parquet   the passages
    digest.txt         SHA-256 over the names and bytes of the other files
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ragray.compiled import kernel
from ragray.errors import DataError
from ragray.manifest import folder_digest
from ragray.retrieval.chunks import Packed, chunk_size, pack, unpack
from ragray.retrieval.counting import TermCounts, TermsOf, count_terms, count_texts
from ragray.retrieval.strings import Strings, byte_order, write_strings
from ragray.schema import Passage, records_of

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_DIGEST = "digest.txt"
_ROWS_PER_GROUP = 256  # passages that are read from disk together
_REMEMBERED_GROUPS = 256
_FEW = 32  # postings that are ordered by insertion


def write_segment(
    passages: pa.Table, terms_of: TermsOf, folder: Path, title_weight: int = 1, whole: bool = False
) -> None:
    """Write a segment of passages in their order.

    Args:
        passages: with the schema of `Passage`.
        terms_of: the analyzer.
        folder: an empty folder.
        title_weight: how often each term of a title counts; 0: titles are not searched.
        whole: a term may reach across white space, so texts are analyzed one by one, which takes longer.

    Raises:
        DataError: two passages have the same id, or one repeats a term too often.
    """
    title, text = (_single(passages.column(name)) for name in ("title", "text"))
    fields = [(title, title_weight), (text, 1)] if title_weight else [(text, 1)]
    write_counts((count_texts if whole else count_terms)(fields, terms_of), folder)
    _write_passages(passages, folder)
    _seal(folder)


def _seal(folder: Path) -> None:
    """Write the digest of all files."""
    digest = folder_digest(folder)
    (folder / _DIGEST).write_text(digest + "\n")


def write_counts(counts: TermCounts, folder: Path) -> None:
    """Write what `Postings` reads of a segment."""
    packed, pointers = pack(counts.starts, counts.documents, counts.counts)
    write_strings(counts.vocabulary, folder, "vocabulary")
    np.save(folder / "packed.npy", packed)
    np.save(folder / "pointers.npy", pointers.astype(np.uint32) if len(packed) < 1 << 32 else pointers)
    np.save(folder / "lengths.npy", counts.lengths.astype(np.uint32))


def _write_passages(passages: pa.Table, folder: Path) -> None:
    ids = _single(passages.column("doc_id"))
    order = byte_order(ids)
    ordered = ids.take(pa.array(order))
    if len(ids) > 1 and (same := np.flatnonzero(np.asarray(pc.equal(ordered[1:], ordered[:-1])))).size:
        raise DataError(f"two passages have the id {ordered[int(same[0])].as_py()!r}", "give every record its own id")
    write_strings(ids, folder, "ids")
    np.save(folder / "ids.order.npy", order)
    table = passages.select(Passage.schema.names).cast(Passage.schema).combine_chunks()
    pq.write_table(
        table, folder / "passages.parquet", compression="zstd", row_group_size=_ROWS_PER_GROUP,
        use_dictionary=["lang", "source", "kind"], write_statistics=False,
    )  # fmt: skip


class Segment:
    """An opened segment: memory-mapped, read-only, safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = (folder / _DIGEST).read_text().strip()
        self.vocabulary = Strings(folder, "vocabulary")
        self.packed: Packed = mapped(folder, "packed")
        self.pointers: Ints = mapped(folder, "pointers")
        self.lengths: NDArray[np.uint32] = mapped(folder, "lengths")
        self.ids = Strings(folder, "ids")
        self._order: Ints = mapped(folder, "ids.order")
        self._table = pq.ParquetFile(folder / "passages.parquet", memory_map=True)
        self._lock = threading.Lock()
        self._group: Callable[[int], list[Passage]] = lru_cache(maxsize=_REMEMBERED_GROUPS)(
            partial(_read_group, self._table, self._lock)  # a method here would keep files mapped until the next gc
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def find(self, doc_id: str) -> int | None:
        """The number of a document in this segment, or None."""
        return self.ids.find(doc_id, self._order)

    def passage(self, number: int) -> Passage:
        """The passage of a document."""
        group, row = divmod(number, _ROWS_PER_GROUP)
        return self._group(group)[row]

    def table(self) -> pa.Table:
        """All passages."""
        with self._lock:
            return self._table.read()

    def frequencies(self, live: Flags) -> Ints:
        """int64 [terms]: how many documents hold each term, of those that are live."""
        found = np.zeros(len(self.vocabulary), np.int64)
        _live_frequencies(self.packed, self.pointers, live, *self._room(), found)
        return found

    def norms(self, idf: NDArray[np.float64], tf_weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [documents]: Euclidean length of each TF-IDF vector; 1 for an empty one.

        Args:
            idf: float64 [terms].
            tf_weights: float64 [65,536], by how often a document holds the term.
        """
        squares = np.zeros(len(self))
        _add_squares(self.packed, self.pointers, idf, tf_weights, *self._room(), squares)
        return np.sqrt(np.where(squares > 0.0, squares, 1.0))

    def _room(self) -> tuple[Ints, Ints]:
        """For the documents of a term and how often they hold it; twice, to order them."""
        return np.empty(2 * len(self), np.int64), np.empty(2 * len(self), np.int64)


def merge_segments(parts: Sequence[tuple[Segment, Flags]], folder: Path) -> None:
    """Write one segment of the live documents of several, in their order: the same as if it had been made of them.

    Args:
        parts: segments, and which of their documents are live, bool [documents].
        folder: an empty folder.
    """
    vocabulary, places, total = joined_terms(parts)
    kept = np.flatnonzero(total)  # terms that no live document holds are gone
    rank = np.cumsum(total > 0) - 1
    starts = np.concatenate(([0], np.cumsum(total[kept]))).astype(np.int64)
    following = starts[:-1].copy()
    documents, counts = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    first = 0
    for (segment, live), of_terms in zip(parts, places, strict=True):
        numbers = first + np.cumsum(live) - 1
        _append(
            segment.packed, segment.pointers, live, numbers, rank[of_terms], *segment._room(), following, documents,
            counts,
        )  # fmt: skip
        first += int(live.sum())
    lengths = np.concatenate([np.empty(0, np.int64), *(segment.lengths[live] for segment, live in parts)])
    write_counts(
        TermCounts(vocabulary.take(pa.array(kept)), starts, documents, counts, lengths.astype(np.int64)), folder
    )
    tables = [segment.table().filter(pa.array(live)) for segment, live in parts]
    _write_passages(pa.concat_tables([Passage.schema.empty_table(), *tables]), folder)
    _seal(folder)


def joined_terms(parts: Sequence[tuple[Segment, Flags]]) -> tuple[pa.Array, list[Ints], Ints]:
    """(all terms, sorted by their bytes, as large_binary; the places of each segment's terms among them; how many live
    documents hold each, int64 [terms])."""
    vocabularies = [segment.vocabulary for segment, _ in parts]
    joined = pa.concat_arrays([pa.array([], pa.large_binary()), *(part.encoded() for part in vocabularies)])
    coded = joined.dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[np.asarray(order)] = np.arange(len(order))
    edges = np.cumsum([len(part) for part in vocabularies])
    places = np.split(rank[np.asarray(coded.indices)], edges)[: len(parts)]
    total = np.zeros(len(order), np.int64)
    for of_terms, (segment, live) in zip(places, parts, strict=True):
        total[of_terms] += segment.frequencies(live)
    return coded.dictionary.take(order), places, total


def mapped(folder: Path, name: str) -> Any:
    """An array of a folder, memory-mapped."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _read_group(table: pq.ParquetFile, lock: threading.Lock, group: int) -> list[Passage]:
    with lock:  # one reader at a time: an open Parquet file keeps its place
        return records_of(Passage, table.read_row_group(group))


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.cast(pa.large_string()).combine_chunks()


@kernel
def _live_frequencies(packed, pointers, live, documents, counts, found):  # type: ignore[no-untyped-def]
    for term in range(len(pointers) - 1):
        for k in range(unpack(packed, np.int64(pointers[term]), np.int64(pointers[term + 1]), documents, counts)):
            found[term] += live[documents[k]]


@kernel
def _add_squares(packed, pointers, idf, tf_weights, documents, counts, squares):  # type: ignore[no-untyped-def]
    for term in range(len(pointers) - 1):
        for k in range(unpack(packed, np.int64(pointers[term]), np.int64(pointers[term + 1]), documents, counts)):
            squares[documents[k]] += (tf_weights[counts[k]] * idf[term]) ** 2


@kernel
def _append(  # type: ignore[no-untyped-def]
    packed, pointers, live, numbers, rank, documents, counts, following, found, often
):  # fmt: skip
    """Add the live postings of a segment behind those of the segments before it."""
    for term in range(len(pointers) - 1):
        at, end = np.int64(pointers[term]), np.int64(pointers[term + 1])
        while at < end:
            until = at + chunk_size(packed, at)
            count = unpack(packed, at, until, documents, counts)
            _order(documents, counts, count)
            for k in range(count):
                if live[documents[k]]:
                    place = following[rank[term]]
                    found[place], often[place] = numbers[documents[k]], counts[k]
                    following[rank[term]] += 1
            at = until


@kernel
def _order(documents, counts, count):  # type: ignore[no-untyped-def]
    """Order the postings of a chunk by document; those that hold the term once came first, in order."""
    if count <= _FEW:
        for k in range(1, count):
            document, often, at = documents[k], counts[k], k
            while at > 0 and documents[at - 1] > document:
                documents[at], counts[at] = documents[at - 1], counts[at - 1]
                at -= 1
            documents[at], counts[at] = document, often
        return
    once = 1
    while once < count and documents[once] > documents[once - 1]:
        once += 1
    left, right, at = 0, once, count  # merged behind what is there, then moved to the front
    while left < once or right < count:
        if right == count or (left < once and documents[left] < documents[right]):
            documents[at], counts[at] = documents[left], counts[left]
            left += 1
        else:
            documents[at], counts[at] = documents[right], counts[right]
            right += 1
        at += 1
    for k in range(count):
        documents[k], counts[k] = documents[count + k], counts[count + k]
