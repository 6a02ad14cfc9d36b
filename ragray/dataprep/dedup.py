"""Records that say what another one says.

In: hashes, band keys and texts of records in source order. Out: for every record the one that stands for it.
Equal tokens make an exact duplicate; else MinHash LSH proposes and the true Jaccard similarity decides. Of
records that are linked, directly or through others, one stays: the first in source order (the order of the
sources in the configuration, then file name, then place in the file), or the one with the longest answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from ragray.config_data import DedupConfig
from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.linking import Components, buckets_of, link_similar, members_of
from ragray.dataprep.minhash import Banding, banding_for
from ragray.dataprep.shingles import ShingleSets, Texts
from ragray.dataprep.tokens import (  # fmt: skip
    QUESTION,
    RECORD,
    Columns,
    Permutations,
    columns_of,
    question_bands,
    record_hashes,
)
from ragray.schema import Duplicate, QARecord

KINDS: Mapping[str, int] = {"question_answer": RECORD, "question": QUESTION}
EXACT, NEAR = "exact", "near"

_ENDINGS = "。.？?！!；; "
_SEED = 20  # of the permutations; part of the result
_ROOM = 1 << 20  # texts whose shingles are compared at once


def normalized(text: str) -> str:
    """The form in which two texts are compared for being equal: letter case, spaces and final stops aside."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(_ENDINGS)


@dataclass(frozen=True)
class RecordKeys:
    """What is compared of each record. `bands` gives, for each kind of `DedupConfig.by`, uint64 [records] per band."""

    question: Hashes
    answer: Hashes
    bands: Mapping[str, Iterable[Hashes]]

    def __len__(self) -> int:
        return len(self.question)


@dataclass(frozen=True)
class Verdicts:
    """For each record: which one stands for it (itself where it stays), and how like it that is."""

    kept: Ints
    exact: npt.NDArray[np.bool_]  # equal in tokens to an earlier record
    similarity: npt.NDArray[np.float64]  # Jaccard with the kept one; 1.0 where exact, or kept

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        """Whether each record stays."""
        return np.asarray(self.kept == np.arange(len(self.kept)))


def banding_of(settings: DedupConfig) -> Banding:
    """The banding that the settings lead to."""
    return banding_for(settings.threshold, settings.num_permutations)


def record_keys(columns: Columns, settings: DedupConfig) -> RecordKeys:
    """The keys of each record of (questions, answers); they depend on the record alone."""
    banding = banding_of(settings)
    permutations = Permutations.draw(banding.bands, banding.rows, _SEED)
    together = "question_answer" in settings.by
    question, answer, both = record_hashes(columns, permutations if together else Permutations.draw(0, 1, 0))
    bands: dict[str, Iterable[Hashes]] = {"question_answer": both} if together else {}
    if "question" in settings.by:
        bands["question"] = question_bands(columns[0], permutations)
    return RecordKeys(question, answer, bands)


def first_equal(keys: RecordKeys) -> Ints:
    """int64 [records]: the first record with the same tokens in question and answer."""
    both = keys.question * np.uint64(0x9E3779B97F4A7C15) + keys.answer
    _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def link_duplicates(
    keys: RecordKeys,
    texts: Texts,
    settings: DedupConfig,
    among: Ints,
    into: Components,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Link near-duplicates among some records.

    Args:
        keys: of all records.
        texts: of all records.
        settings: threshold and kinds.
        among: int64, ascending: the records to compare.
        into: where links go.
        share: (n, of): look only at keys that are n modulo `of`. The links of all shares together are those of (0, 1).
    """
    number, count = (np.uint64(part) for part in share)
    for by in settings.by:
        kind = KINDS[by]
        buckets = (_buckets(band[among], among, number, count) for band in keys.bands[by])

        def sets(rows: Ints, kind: int = kind) -> ShingleSets:
            return texts.sets(kind, rows)

        link_similar(buckets, sets, settings.threshold, into)


def _buckets(keys: Hashes, texts: Ints, number: np.uint64, count: np.uint64) -> tuple[Ints, Ints]:
    """(texts, starts) of the buckets of the keys that are `number` modulo `count`."""
    if count > 1:
        mine = keys % count == number
        keys, texts = keys[mine], texts[mine]
    places, starts = buckets_of(keys)
    return texts[places], starts


def verdicts(first: Ints, links: Components, texts: Texts, settings: DedupConfig) -> Verdicts:
    """Decide which record of each component stays."""
    roots = links.roots()[first]
    repeats = first != np.arange(len(first))
    kept = _representatives(roots, repeats, texts, settings.keep)[roots]
    exact = (first == first[kept]) & (kept != np.arange(len(kept)))
    similarity = np.ones(len(first))
    near = np.flatnonzero(~exact & (kept != np.arange(len(kept))))
    similarity[near] = _similarities(first[near], first[kept[near]], texts, settings)  # as they were linked
    return Verdicts(kept, exact, similarity)


def _representatives(roots: Ints, exact: npt.NDArray[np.bool_], texts: Texts, keep: str) -> Ints:
    """int64 [records]: at each root the record that stands for its component; of equal ones the first."""
    chosen = np.arange(len(roots))
    if keep == "first":
        return chosen
    lengths = np.concatenate([np.asarray(pc.utf8_length(answer)) for _, answer in texts.pieces])
    order = np.lexsort((np.arange(len(roots)), np.where(exact, 1, -lengths.astype(np.int64)), roots))
    leading = np.concatenate(([True], roots[order][1:] != roots[order][:-1]))
    chosen[roots[order[leading]]] = order[leading]
    return chosen


def _similarities(left: Ints, right: Ints, texts: Texts, settings: DedupConfig) -> npt.NDArray[np.float64]:
    """The highest Jaccard similarity, over the kinds compared, of each pair."""
    best = np.zeros(len(left))
    for start in range(0, len(left), _ROOM):
        part = slice(start, start + _ROOM)
        rows = members_of([left[part], right[part]], len(texts))
        at_left, at_right = np.searchsorted(rows, left[part]), np.searchsorted(rows, right[part])
        for by in settings.by:
            found = texts.sets(KINDS[by], rows).jaccards(at_left, at_right)
            best[part] = np.maximum(best[part], found)
    texts.forget()
    return best


def remove_duplicates(records: Sequence[QARecord], settings: DedupConfig) -> tuple[list[QARecord], list[Duplicate]]:
    """Split `records` into those that stay, in order, and the duplicates among them, in order."""
    columns = columns_of((r.question for r in records), [r.answer for r in records])
    found = find_duplicates([columns], settings)
    others: dict[int, list[str]] = {}
    duplicates = []
    for n in np.flatnonzero(~found.stays).tolist():
        record, kept = records[n], int(found.kept[n])
        others.setdefault(kept, []).append(f"{record.source}:{record.line}")
        method = EXACT if found.exact[n] else NEAR
        similarity = float(found.similarity[n])
        place = (record.source, record.line, record.question)
        duplicates.append(Duplicate(record.id, records[kept].id, method, similarity, *place))
    stay = np.flatnonzero(found.stays).tolist()
    return [replace(records[n], also_from=tuple(others.get(n, ()))) for n in stay], duplicates


def find_duplicates(pieces: Iterable[Columns], settings: DedupConfig) -> Verdicts:
    """What stands for each record of (questions, answers) in pieces, in this process."""
    texts = Texts(list(pieces))
    parts = [record_keys(piece, settings) for piece in texts.pieces]
    keys = joined_keys(parts)
    first = first_equal(keys)
    links = Components(len(texts))
    link_duplicates(keys, texts, settings, np.unique(first), links)
    return verdicts(first, links, texts, settings)


def joined_keys(parts: Sequence[RecordKeys]) -> RecordKeys:
    """The keys of several blocks of records, end to end."""
    none = np.empty(0, np.uint64)
    bands = {
        by: [np.concatenate(band) for band in zip(*(part.bands[by] for part in parts), strict=True)]
        for by in (parts[0].bands if parts else ())
    }
    question = np.concatenate([none, *(part.question for part in parts)])
    return RecordKeys(question, np.concatenate([none, *(part.answer for part in parts)]), bands)
