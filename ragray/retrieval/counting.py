"""How often which terms occur in which texts, counted in compiled code.

In: columns of text, and an analyzer. Out: the terms in order, and for each its documents and counts.

Most analyzers make no term across white space. With these a text is taken for a sequence of runs, what stands between
ASCII white space, and the analyzer is asked once for each distinct run: in a large corpus nearly all runs were met
before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ragray.compiled import inlined, kernel
from ragray.dataprep.hashing import spread
from ragray.dataprep.scan import buffers
from ragray.retrieval.strings import byte_order, encoded

Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]
Runs = NDArray[np.uint64]  # [slots, 3], a power of two of them: two hashes of a run, and one more than its number or 0
TermsOf = Callable[[str], Sequence[str]]  # of a text, repeated as they occur
Field = tuple[pa.Array, int]  # texts, and how often each of their terms counts

_DOCUMENTS = 1 << 15  # that are counted together


class TermCounts(NamedTuple):
    """Postings, ordered by term, then document."""

    vocabulary: pa.Array  # UTF-8, sorted by bytes, large_binary [terms]
    starts: Ints  # [terms + 1]: where the postings of each term begin
    documents: Numbers  # [postings]
    counts: Numbers  # [postings]: how often the document holds the term
    lengths: Ints  # [documents]: terms, repeated ones included


def count_terms(fields: Sequence[Field], terms_of: TermsOf) -> TermCounts:
    """Count the terms of documents, each of which has a text in every field.

    Args:
        fields: string columns of equal length, without nulls, with weights.
        terms_of: the analyzer; no term of a text reaches across white space.
    """
    runs = _RunTerms(terms_of)
    total = len(fields[0][0])
    blocks = [
        _count_block([(column.slice(start, _DOCUMENTS), weight) for column, weight in fields], runs)
        for start in range(0, total, _DOCUMENTS)
    ]
    sizes = np.concatenate([np.empty(0, np.int64), *(block.sizes for block in blocks)])
    terms, counts = (
        np.concatenate([np.empty(0, np.int32), *parts])
        for parts in ([block.terms for block in blocks], [block.counts for block in blocks])
    )
    lengths = np.concatenate([np.empty(0, np.int64), *(block.lengths for block in blocks)])
    del blocks
    found = encoded(list(runs.numbers))
    order = byte_order(found)
    rank = np.empty(len(found), np.int32)
    rank[order] = np.arange(len(found), dtype=np.int32)
    starts = np.concatenate(([0], np.cumsum(np.bincount(terms, minlength=len(found))[order])))
    starts = starts.astype(np.int64)
    documents, often = np.empty(len(terms), np.int32), np.empty(len(terms), np.int32)
    _by_term(rank, terms, counts, sizes, starts.copy(), documents, often)
    return TermCounts(found.take(pa.array(order)), starts, documents, often, lengths)


def count_texts(fields: Sequence[Field], terms_of: TermsOf) -> TermCounts:
    """`count_terms` for an analyzer whose terms may reach across white space: it is asked for each text.

    Args:
        fields: as there.
        terms_of: the analyzer; no term holds white space.
    """
    told = [(pa.array([" ".join(terms_of(text)) for text in texts.to_pylist()], pa.large_string()), weight)
            for texts, weight in fields]  # fmt: skip
    return count_terms(told, str.split)


class _RunTerms:
    """The terms of all runs that were met so far, as numbers in the order in which they first occurred."""

    def __init__(self, terms_of: TermsOf) -> None:
        self.numbers: dict[str, int] = {}  # of terms
        self.terms: Numbers = np.empty(0, np.int32)  # of runs, end to end
        self.starts: Ints = np.zeros(1, np.int64)  # of each run's terms
        self._terms_of = terms_of
        self._slots: Runs = np.zeros((1 << 16, 3), np.uint64)

    def of(self, column: pa.Array) -> tuple[Numbers, Ints]:
        """The runs of texts, end to end, and where those of each text begin."""
        data, ends = buffers(column)
        room = (int(ends[-1] - ends[0]) + len(column) + 1) // 2 + 1
        found, starts = np.empty(room, np.int32), np.zeros(len(column) + 1, np.int64)
        new = np.empty((room, 2), np.int64)
        count = before = len(self.starts) - 1
        done = 0
        while done < len(column):
            done, count = _number_runs(data, ends, done, self._slots, count, before, new, found, starts)
            if done < len(column):
                self._slots = _larger(self._slots, count + int(ends[done + 1] - ends[done]))
        self._analyze(data, new[: count - before])
        return found[: starts[-1]], starts

    def _analyze(self, data: NDArray[np.uint8], places: Ints) -> None:
        view, terms, sizes = data.data, list[int](), np.empty(len(places), np.int64)
        numbers, terms_of = self.numbers, self._terms_of
        for run, (begin, end) in enumerate(places.tolist()):
            held = terms_of(str(view[begin:end], "utf-8"))
            sizes[run] = len(held)
            terms += [numbers.setdefault(term, len(numbers)) for term in held]
        self.terms = np.concatenate([self.terms, np.array(terms, np.int32)])
        self.starts = np.concatenate([self.starts, self.starts[-1] + np.cumsum(sizes)])


class _Block(NamedTuple):
    """Terms of some documents, end to end, and how often each occurs; distinct terms and lengths of the documents."""

    terms: Numbers
    counts: Numbers
    sizes: Ints
    lengths: Ints


def _count_block(fields: Sequence[Field], runs: _RunTerms) -> _Block:
    found = [runs.of(column) for column, _ in fields]
    places = np.cumsum([0, *(len(held) for held, _ in found)])
    held = np.concatenate([part for part, _ in found])
    starts = np.stack([begins + place for (_, begins), place in zip(found, places, strict=False)])
    weights = np.array([weight for _, weight in fields], np.int32)
    room, documents = int(np.diff(runs.starts)[held].sum()), starts.shape[1] - 1
    terms, counts = np.empty(room, np.int32), np.empty(room, np.int32)
    sizes, lengths = np.zeros(documents, np.int64), np.zeros(documents, np.int64)
    often = np.zeros(len(runs.numbers), np.int32)
    count = _count(held, starts, weights, runs.terms, runs.starts, often, terms, counts, sizes, lengths)
    return _Block(terms[:count].copy(), counts[:count].copy(), sizes, lengths)


def _larger(slots: Runs, least: int) -> Runs:
    size = 2 * len(slots)
    while size < 2 * least:
        size *= 2
    larger = np.zeros((size, 3), np.uint64)
    _move(slots, larger)
    return larger


@inlined
def _is_white(byte: int) -> bool:
    return byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31


@inlined
def _slot_of(first: np.uint64, second: np.uint64, slots: Runs) -> np.uint64:
    """Where a run is, or has to go."""
    mask = np.uint64(len(slots) - 1)
    slot = first & mask
    while slots[slot, 2] and (slots[slot, 0] != first or slots[slot, 1] != second):
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def _move(slots: Runs, larger: Runs) -> None:
    for old in range(len(slots)):
        if slots[old, 2]:
            slot = _slot_of(slots[old, 0], slots[old, 1], larger)
            for part in range(3):
                larger[slot, part] = slots[old, part]


@kernel
def _number_runs(
    data: NDArray[np.uint8], ends: Ints, done: int, slots: Runs, count: int, before: int, new: Ints, found: Numbers,
    starts: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Number the runs of texts from `done` on, until slots are short: (texts done, distinct runs).

    Runs are told apart by 128 bits of hashes.
    """
    total = starts[done]
    for text in range(done, len(ends) - 1):
        if 2 * (count + ((ends[text + 1] - ends[text]) >> 1) + 1) > len(slots):
            return text, count
        i, end = ends[text], ends[text + 1]
        while i < end:
            if _is_white(data[i]):
                i += 1
                continue
            begin = i
            first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0)
            while i < end and not _is_white(data[i]):
                byte = np.uint64(data[i])
                first = (first ^ byte) * np.uint64(0x100000001B3)
                first ^= first >> np.uint64(32)
                second = (second + byte + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
                i += 1
            first, second = spread(first), spread(second ^ np.uint64(i - begin))
            slot = _slot_of(first, second, slots)
            if slots[slot, 2] == 0:
                new[count - before, 0], new[count - before, 1] = begin, i
                count += 1
                slots[slot, 0], slots[slot, 1], slots[slot, 2] = first, second, np.uint64(count)
            found[total] = np.int64(slots[slot, 2]) - 1
            total += 1
        starts[text + 1] = total
    return len(ends) - 1, count


@kernel
def _count(
    runs: Numbers, starts: Ints, weights: Numbers, run_terms: Numbers, run_starts: Ints, often: Numbers,
    terms: Numbers, counts: Numbers, sizes: Ints, lengths: Ints,
) -> int:  # fmt: skip
    """Write the distinct terms of each document with their counts. How many there are in all."""
    done = 0
    for document in range(len(sizes)):
        begin = done
        for field in range(len(weights)):
            for place in range(starts[field, document], starts[field, document + 1]):
                for k in range(run_starts[runs[place]], run_starts[runs[place] + 1]):
                    term = run_terms[k]
                    if often[term] == 0:
                        terms[done] = term
                        done += 1
                    often[term] += weights[field]
        for k in range(begin, done):
            counts[k] = often[terms[k]]
            lengths[document] += counts[k]
            often[terms[k]] = 0
        sizes[document] = done - begin
    return done


@kernel
def _by_term(
    rank: Numbers, terms: Numbers, counts: Numbers, sizes: Ints, following: Ints, documents: Numbers, often: Numbers
) -> None:
    """Order postings by the ranks of their terms; within a term the documents stay in order."""
    k = 0
    for document in range(len(sizes)):
        for _ in range(sizes[document]):
            place = following[rank[terms[k]]]
            documents[place], often[place] = document, counts[k]
            following[rank[terms[k]]] += 1
            k += 1
