"""Removing records that say what another one says.

In: records in source order. Out: the records that stay and one `Duplicate` for each that goes. Of records
that say the same, the earliest in source order stays: first by the order of the sources in the
configuration, then by file name, then by place in the file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from ragray.config import DedupConfig
from ragray.dataprep.shingles import (
    Hashes,
    ShingleSets,
    Signatures,
    buckets_of,
    link_similar,
    record_shingles,
    smallest_permuted,
)  # fmt: skip
from ragray.schema import Duplicate, QARecord, stable_digest

_ENDINGS = "。.？?！!；; "
_MISSED = 0.001  # most pairs at the threshold that banding may miss
_SEED = 20  # of the permutations; part of the result


def normalized(text: str) -> str:
    """The form in which two texts are compared for being equal: letter case, spaces and final stops aside."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(_ENDINGS)


def remove_duplicates(records: Sequence[QARecord], settings: DedupConfig) -> tuple[list[QARecord], list[Duplicate]]:
    """Split `records` into those that stay, in order, and the duplicates among them, in order."""
    firsts, exact = _remove_exact(records)
    kept, near = _remove_near(firsts, settings)
    final = {duplicate.id: duplicate.duplicate_of for duplicate in near}
    moved = [_pointing_to(d, final.get(d.duplicate_of, d.duplicate_of)) for d in exact]
    by_id = {d.id: d for d in (*moved, *near)}
    return kept, [by_id[record.id] for record in records if record.id in by_id]


def _remove_exact(records: Sequence[QARecord]) -> tuple[list[QARecord], list[Duplicate]]:
    first_of: dict[tuple[str, str], str] = {}
    kept, duplicates = [], []
    for record in records:
        first = first_of.setdefault((normalized(record.question), normalized(record.answer)), record.id)
        if first == record.id:
            kept.append(record)
        else:
            duplicates.append(Duplicate(record.id, first, "exact", 1.0, record.source, record.line))
    return kept, duplicates


def _remove_near(records: Sequence[QARecord], settings: DedupConfig) -> tuple[list[QARecord], list[Duplicate]]:
    sets = record_shingles(f"{record.question}\n{record.answer}" for record in records)
    bands = band_keys(signatures(sets, settings.num_permutations), settings.threshold)
    filled = np.flatnonzero(np.diff(sets.starts))
    roots = link_similar(sets, (buckets_of(keys[filled], filled) for keys in bands), settings.threshold)
    kept, duplicates = [], []
    for n, (record, root) in enumerate(zip(records, roots.tolist(), strict=True)):
        if root == n:
            kept.append(record)
        else:
            similarity = sets.jaccard(n, root)
            duplicates.append(Duplicate(record.id, records[root].id, "near", similarity, record.source, record.line))
    return kept, duplicates


def signatures(sets: ShingleSets, num_permutations: int) -> Signatures:
    """MinHash signatures: uint32 [texts, num_permutations], smallest hash of each text under each permutation.

    A permutation of the 32-bit numbers is a random odd multiplier and an offset modulo 2**32.
    Source: Broder 1997, "On the resemblance and containment of documents", section 3.
    """
    random = np.random.Generator(np.random.PCG64(_SEED))
    factors = random.integers(0, 2**31, num_permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    offsets = random.integers(0, 2**32, num_permutations, dtype=np.uint32)
    return smallest_permuted(sets, factors, offsets)


def band_keys(signature: Signatures, threshold: float) -> list[Hashes]:
    """A key for each band of rows: texts with an equal key in any band are candidates.

    Source: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4: two texts of similarity s
    meet in at least one of b bands of r rows with probability 1 - (1 - s^r)^b.
    """
    rows = rows_of_band(signature.shape[1], threshold)
    bands = signature.shape[1] // rows
    weights = np.array([stable_digest("band", k) | 1 for k in range(rows)], np.uint64)
    return [
        (signature[:, b * rows : (b + 1) * rows].astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64)
        for b in range(bands)
    ]


def rows_of_band(num_permutations: int, threshold: float) -> int:
    """The most rows of a band with which a pair at the threshold is missed at most once in a thousand."""
    rows = 1
    for r in range(2, num_permutations + 1):
        if (1 - threshold**r) ** (num_permutations // r) <= _MISSED:
            rows = r
    return rows


def _pointing_to(duplicate: Duplicate, kept: str) -> Duplicate:
    return Duplicate(duplicate.id, kept, duplicate.method, duplicate.similarity, duplicate.source, duplicate.line)
