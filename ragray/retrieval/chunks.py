"""Postings as packed 16-bit numbers: which documents hold a term, and how often.

In: postings, ordered by term, then document. Out: one array of `uint16`, and where each term begins in it. Nothing
in it depends on the statistics of the corpus, so they can change without it.

Documents are divided into blocks of 16,384. Of each term and block that has postings there is one chunk, in the order
of terms, then blocks:

    block, single, several, most                     header
    documents of the block that hold the term once   `single` numbers, ascending; from 1,024 on a bitmap of 1,024
    documents that hold it more than once            `several` numbers, ascending
    how often they do                                `several` numbers; `most` is the largest
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragray.compiled import inlined, kernel
from ragray.errors import DataError

Packed = NDArray[np.uint16]
Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]

BLOCK_LOG = 14
BLOCK = 1 << BLOCK_LOG  # documents
HEADER = 4
BITMAP = BLOCK // 16  # numbers; a list that would be no shorter is a bitmap
MOST = (1 << 16) - 1  # how often a document can hold a term


def pack(starts: Ints, documents: Numbers, counts: Numbers) -> tuple[Packed, Ints]:
    """(packed, where each term begins in it, and the end).

    Args:
        starts: int64 [terms + 1], where the postings of each term begin.
        documents: int32 [postings], ascending within a term.
        counts: int32 [postings], how often the document holds the term, at least 1.

    Raises:
        DataError: a document holds one term more than 65,535 times.
    """
    if len(counts) and counts.max() > MOST:
        number = int(documents[np.argmax(counts)])
        raise DataError(
            f"passage {number} repeats one term {int(counts.max()):,} times", f"a passage may repeat it {MOST:,} times"
        )
    pointers = np.zeros(len(starts), np.int64)
    _measure(starts, documents, counts, pointers)
    packed = np.zeros(int(pointers[-1]), np.uint16)
    _fill(starts, documents, counts, pointers, packed)
    return packed, pointers


@kernel
def _measure(starts: Ints, documents: Numbers, counts: Numbers, pointers: Ints) -> None:
    at = 0
    for term in range(len(starts) - 1):
        pointers[term] = at
        i = starts[term]
        while i < starts[term + 1]:
            _, single, several, _ = _extent(documents, counts, i, starts[term + 1])
            at += HEADER + min(single, BITMAP) + 2 * several
            i += single + several
    pointers[len(starts) - 1] = at


@kernel
def _extent(documents: Numbers, counts: Numbers, i: int, end: int) -> tuple[int, int, int, int]:
    """(block, documents with the term once, with it several times, how often at most) of the chunk that begins at i."""
    block, j, several, most = documents[i] >> BLOCK_LOG, i, 0, 0
    while j < end and documents[j] >> BLOCK_LOG == block:
        several += counts[j] > 1
        most = max(most, counts[j])
        j += 1
    return block, j - i - several, several, most


@kernel
def _fill(starts: Ints, documents: Numbers, counts: Numbers, pointers: Ints, packed: Packed) -> None:
    for term in range(len(starts) - 1):
        i, at = starts[term], pointers[term]
        while i < starts[term + 1]:
            block, single, several, most = _extent(documents, counts, i, starts[term + 1])
            packed[at], packed[at + 1], packed[at + 2], packed[at + 3] = block, single, several, most
            once = at + HEADER
            twice = once + min(single, BITMAP)
            for k in range(i, i + single + several):
                local = documents[k] & (BLOCK - 1)
                if counts[k] > 1:
                    packed[twice], packed[twice + several] = local, counts[k]
                    twice += 1
                elif single >= BITMAP:
                    packed[once + (local >> 4)] |= np.uint16(1 << (local & 15))
                else:
                    packed[once] = local
                    once += 1
            at += HEADER + min(single, BITMAP) + 2 * several
            i += single + several


@inlined
def chunk_size(packed, at):  # type: ignore[no-untyped-def]
    """How many numbers the chunk at `at` takes."""
    single, several = np.int64(packed[at + 1]), np.int64(packed[at + 2])
    return HEADER + np.minimum(single, BITMAP) + 2 * several


@inlined
def _found(packed, begin, count, local):  # type: ignore[no-untyped-def]
    """Where a document stands among `count` ascending ones, or -1."""
    at, left = begin, count
    while left > 1:  # without branches that a processor would have to guess
        half = left >> 1
        at += half * np.int64(packed[at + half - 1] < local)
        left -= half
    return at if left and packed[at] == local else -1


@inlined
def count_in(packed, at, local):  # type: ignore[no-untyped-def]
    """How often a document of the block holds the term of the chunk at `at`; 0 if it does not."""
    single, several = np.int64(packed[at + 1]), np.int64(packed[at + 2])
    begin = at + HEADER
    if single >= BITMAP:
        if packed[begin + (local >> 4)] >> (local & 15) & 1:
            return 1
    elif _found(packed, begin, single, local) >= 0:
        return 1
    place = _found(packed, begin + min(single, BITMAP), several, local)
    return np.int64(packed[place + several]) if place >= 0 else 0


@kernel
def counts_in(packed, at, documents, places, counts):  # type: ignore[no-untyped-def]
    """Write to `counts` how often each document of the block holds the term of the chunk at `at`, int64 [documents].

    The searches go on together, step by step: one alone waits for memory at each of its steps.

    Args:
        places: uint64 [documents], to work with.
    """
    single, several = np.int64(packed[at + 1]), np.int64(packed[at + 2])
    begin = at + HEADER
    if single >= BITMAP:
        for k in range(len(documents)):
            counts[k] = packed[begin + (documents[k] >> 4)] >> (documents[k] & 15) & 1
    elif single:
        _find_each(packed, begin, single, documents, places)
        for k in range(len(documents)):
            counts[k] = packed[places[k]] == documents[k]
    else:
        counts[: len(documents)] = 0
    if several:
        _find_each(packed, begin + min(single, BITMAP), several, documents, places)
        for k in range(len(documents)):
            counts[k] += (packed[places[k]] == documents[k]) * np.int64(packed[places[k] + np.uint64(several)])


@inlined
def _find_each(packed, begin, count, documents, places):  # type: ignore[no-untyped-def]
    """Write to `places` the only place where each document can be among `count` ascending ones."""
    one, left = np.uint64(1), np.uint64(count)  # unsigned: a negative place would count from the end
    for k in range(len(documents)):
        places[k] = np.uint64(begin)
    while left > one:
        half = left >> one
        for k in range(len(documents)):
            places[k] += half * np.uint64(packed[places[k] + half - one] < documents[k])
        left -= half


@kernel
def count_of(packed, at, end, document):  # type: ignore[no-untyped-def]
    """How often a document holds the term whose chunks are `packed[at:end]`; 0 if it does not."""
    while at < end and np.int64(packed[at]) < document >> BLOCK_LOG:
        at += chunk_size(packed, at)
    if at < end and np.int64(packed[at]) == document >> BLOCK_LOG:
        return count_in(packed, at, document & (BLOCK - 1))
    return 0


@kernel
def unpack(packed, at, end, documents, counts):  # type: ignore[no-untyped-def]
    """Write the documents of a term, and how often they hold it, to arrays; block after block, how many there are.

    Within a block those that hold it once come first.
    """
    n = 0
    while at < end:
        first, single, several = np.int64(packed[at]) << BLOCK_LOG, np.int64(packed[at + 1]), np.int64(packed[at + 2])
        begin = at + HEADER
        if single >= BITMAP:
            for local in range(BLOCK):
                if packed[begin + (local >> 4)] >> (local & 15) & 1:
                    documents[n], counts[n] = first + local, 1
                    n += 1
        else:
            for k in range(begin, begin + single):
                documents[n], counts[n] = first + packed[k], 1
                n += 1
        begin += min(single, BITMAP)
        for k in range(begin, begin + several):
            documents[n], counts[n] = first + packed[k], packed[k + several]
            n += 1
        at += chunk_size(packed, at)
    return n
