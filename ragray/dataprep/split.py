"""Groups of records that belong together, and which split each group goes to.

In: columns of records without duplicates. Out: for each record its group and its split. Records with the same answer,
with questions that are near-duplicates, or with the same given group, are one group, and a group is never
divided: nothing that is asked in a test has been seen in training. Neither depends on the records' order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ragray.compiled import array_kernel
from ragray.config_data import SplitConfig
from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.linking import Buckets, Components, buckets_of, link_buckets, members_of
from ragray.dataprep.shingles import Counts, Owners, ShingleSets, Texts, count_shingles, prefix_keys
from ragray.dataprep.sketches import Sketches
from ragray.dataprep.tokens import QUESTION, byte_hashes, columns_of, text_hashes
from ragray.errors import WorkError
from ragray.schema import QARecord

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
Splits = npt.NDArray[np.int8]

_PIECE = 1 << 18  # texts whose shingles are made at once
_KEYS_AT_ONCE, _KEYS_OF_A_TEXT = 1 << 24, 16  # the latter about
_WORDS = 4  # of a question's bitmap


@dataclass(frozen=True)
class SplitRecords:
    """What the split looks at, for each record."""

    ids: pa.Array
    stratum: pa.Array  # language and source, say; shares hold within each
    question: Hashes
    answer: Hashes
    given_group: pa.Array | None = None  # "" where none is given
    given_split: pa.Array | None = None  # "" where none is given; what is given is not questioned but audited

    def __len__(self) -> int:
        return len(self.ids)


def link_groups(records: SplitRecords, texts: Texts, threshold: float, into: Components) -> None:
    """Link records that must not be divided.

    Args:
        records: their hashes.
        texts: the same records' questions and answers.
        threshold: Jaccard similarity of questions from which two share a group; no such pair is missed.
        into: where links go.
    """
    everyone = np.arange(len(records))
    into.join_equal(records.question, everyone)
    into.join_equal(records.answer, everyone)
    if records.given_group is not None:
        given = np.asarray(pc.not_equal(records.given_group, ""))
        into.join_equal(byte_hashes(records.given_group)[given], everyone[given])
    _, distinct = np.unique(records.question, return_index=True)
    link_questions(texts, np.sort(distinct), threshold, into)


def link_questions(texts: Texts, among: Ints, threshold: float, into: Components) -> None:
    """Link all questions `among` whose Jaccard similarity reaches the threshold; keys are dealt out to bound memory."""
    if not len(among):
        return
    pieces = [slice(start, min(start + _PIECE, len(among))) for start in range(0, len(among), _PIECE)]
    counts, sketches = np.zeros(1, np.uint32), Sketches.empty(len(among), _WORDS)
    for piece in pieces:
        sets = texts.sets(QUESTION, among[piece])
        counts = counts + count_shingles(sets)
        sketches.put(sets, piece)

    shares = 1 + len(among) * _KEYS_OF_A_TEXT // _KEYS_AT_ONCE
    for share in range(shares):
        _link_share(texts, among, pieces, counts, sketches, threshold, (share, shares), into)


def _link_share(
    texts: Texts, among: Ints, pieces: Sequence[slice], counts: Counts, sketches: Sketches, threshold: float,
    share: tuple[int, int], into: Components,
) -> None:  # fmt: skip
    """Link by the keys of one share."""

    def similarity(left: Ints, right: Ints) -> npt.NDArray[np.float64]:
        places = members_of([left, right], len(among))
        at_left, at_right = np.searchsorted(places, left), np.searchsorted(places, right)
        return texts.sets(QUESTION, among[places]).jaccards(at_left, at_right)

    found = [_keys_of(texts.sets(QUESTION, among[piece]), counts, threshold, piece.start, share) for piece in pieces]
    keys, owners, reaches = (np.concatenate(parts) for parts in zip(*found, strict=True))
    del found
    places, starts = buckets_of(keys)
    buckets = Buckets(owners[places], reaches[places], starts)
    del keys, owners, reaches, places  # as large as what is needed
    link_buckets(buckets, sketches, sketches.folds(), among, similarity, threshold, into)


def _keys_of(
    sets: ShingleSets, counts: Counts, threshold: float, start: int, share: tuple[int, int]
) -> tuple[Hashes, Owners, Owners]:
    """(keys, texts, reaches) of one share of the keys; the texts are numbered from `start`."""
    keys, owners, reaches = prefix_keys(sets, counts, threshold)
    number, count = (np.uint64(part) for part in share)
    mine = keys % count == number if count > 1 else slice(None)
    return keys[mine], owners[mine] + np.int32(start), reaches[mine]


def group_heads(links: Components, ids: pa.Array) -> Ints:
    """int64 [records]: a record of each one's group, the same for all of the group and for any order of records."""
    roots = links.roots()
    order = np.lexsort((np.asarray(pc.rank(ids)), byte_hashes(ids), roots)) if len(ids) else np.empty(0, np.int64)
    leading = np.concatenate(([True], roots[order][1:] != roots[order][:-1])) if len(ids) else np.empty(0, np.bool_)
    heads = np.zeros(len(roots), np.int64)
    heads[roots[order[leading]]] = order[leading]
    return heads[roots]


def assign_splits(
    records: SplitRecords, heads: Ints, settings: SplitConfig, seed: int, held_out: npt.NDArray[np.bool_] | None
) -> Splits:
    """int8 [records]: index into `SPLITS`.

    Within each stratum groups are drawn in the order of a digest of (seed, id) until a split has its share of
    records; a group too large for what is left goes to the next split, at last to train. What a stratum could not
    give is taken from the next, so that shares hold over many small ones.

    Args:
        records: ids and strata.
        heads: from `group_heads`.
        settings: shares.
        seed: of the run.
        held_out: records that evaluation questions name: their groups go to test, and no others do.
    """
    groups, place, sizes = np.unique(heads, return_inverse=True, return_counts=True)
    splits = np.zeros(len(groups), np.int8)
    if held_out is not None:
        splits[place[held_out]] = TEST
    strata = np.asarray(pc.rank(records.stratum, tiebreaker="dense"))[groups] if len(groups) else groups
    drawn = byte_hashes(records.ids.take(pa.array(groups)), seed)
    order = np.lexsort((groups, drawn, strata))
    order = order[splits[order] != TEST]
    shares = np.array([0.0 if held_out is not None else settings.test, settings.valid])
    _draw(order, strata, sizes, shares, splits)
    return splits[place]


@array_kernel
def _draw(order: Ints, strata: Ints, sizes: Ints, shares: npt.NDArray[np.float64], splits: Splits) -> None:
    left = np.zeros(2)
    begin = 0
    while begin < len(order):
        end = begin
        total = 0
        while end < len(order) and strata[order[end]] == strata[order[begin]]:
            total += sizes[order[end]]
            end += 1
        left += shares * total
        for k in range(begin, end):
            size = sizes[order[k]]
            for n, split in enumerate((2, 1)):
                if size <= left[n] + 0.5:
                    left[n] -= size
                    splits[order[k]] = split
                    break
        begin = end


def check_no_leak(records: SplitRecords, groups: Ints, splits: Splits) -> None:
    """Make sure of what the split promises.

    Raises:
        WorkError: a group, an answer or a question stands in two splits.
    """
    for what, keys in (("group", groups), ("answer", records.answer), ("question", records.question)):
        order = np.lexsort((splits, keys))
        torn = np.flatnonzero((keys[order][1:] == keys[order][:-1]) & (splits[order][1:] != splits[order][:-1]))
        if len(torn):
            one, other = order[torn[0]], order[torn[0] + 1]
            raise WorkError(
                f"records {records.ids[one]} ({SPLITS[splits[one]]}) and {records.ids[other]} "
                f"({SPLITS[splits[other]]}) share their {what}",
                "report this as a defect of ragray",
            )


def split_columns(
    records: SplitRecords, texts: Texts, settings: SplitConfig, seed: int, held_out: npt.NDArray[np.bool_] | None
) -> tuple[Ints, Splits]:
    """The group (a record of it) and the split of each record, checked unless splits were given.

    Raises:
        WorkError: see `check_no_leak`.
    """
    links = Components(len(records))
    link_groups(records, texts, settings.question_threshold, links)
    heads = group_heads(links, records.ids)
    splits = assign_splits(records, heads, settings, seed, held_out)
    if records.given_split is not None and pc.any(pc.not_equal(records.given_split, "")).as_py():
        given = np.asarray(pc.index_in(records.given_split, pa.array(SPLITS)).fill_null(-1)).astype(np.int64)
        of_group = np.full(len(heads), -1, np.int64)  # test before valid before train
        np.maximum.at(of_group, heads, given)
        drawn = np.where(of_group[heads] >= 0, of_group[heads], splits)
        return heads, np.where(given >= 0, given, drawn).astype(np.int8)
    check_no_leak(records, heads, splits)
    return heads, splits


def split_records(
    records: Sequence[QARecord], settings: SplitConfig, seed: int, held_out: Collection[str] | None
) -> list[QARecord]:
    """`records`, without duplicates, with their group and split; `held_out` are ids that go to test."""
    columns = columns_of((r.question for r in records), [r.answer for r in records])
    looked_at = SplitRecords(
        pa.array([r.id for r in records], pa.string()),
        pa.array([f"{r.lang} {r.source}" for r in records], pa.string()),
        text_hashes(columns[0]),
        text_hashes(columns[1]),
        pa.array([r.group for r in records], pa.string()),
    )
    named = None if held_out is None else np.array([r.id in held_out for r in records], np.bool_)
    heads, splits = split_columns(looked_at, Texts([columns]), settings, seed, named)
    return [
        replace(record, group=records[head].id, split=SPLITS[split])
        for record, head, split in zip(records, heads.tolist(), splits.tolist(), strict=True)
    ]
