"""What becomes of each record: whether it stays, for whom it stands aside, its group and its split.

In: blocks of cleaned records. Out: arrays over all records, numbered through the blocks in source order. Only
hashes, links and shingles of candidates are held in memory, never the texts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ragray.config_data import DataConfig
from ragray.dataprep.blocks import Blocks
from ragray.dataprep.dedup import RecordKeys, Verdicts, first_equal, link_duplicates, verdicts
from ragray.dataprep.hashing import Ints
from ragray.dataprep.leakage import Audit, audit_split
from ragray.dataprep.linking import Components
from ragray.dataprep.rows import in_one_piece
from ragray.dataprep.split import SPLITS, TEST, TRAIN, SplitRecords, Splits, split_columns
from ragray.dataprep.tokens import byte_hashes
from ragray.schema import stable_digest

Flags = npt.NDArray[np.bool_]
Links = npt.NDArray[np.int64]  # [links, 2]

_KEYS_OF_A_TASK = 1 << 27


@dataclass(frozen=True)
class Decisions:
    """For each record of the blocks. `group` and `split` are -1 where it does not stay."""

    repeated_id: Flags  # another record took its id before
    verdicts: Verdicts
    chosen: Ints  # records that stay, ascending
    left_out: Ints  # records that would stay but for data.max_records, ascending
    group: Ints  # a record of its group
    split: Splits
    audit: Audit  # numbers are records

    @property
    def duplicates(self) -> Ints:
        """Records for which another one stands, ascending."""
        return np.flatnonzero(~self.verdicts.stays & ~self.repeated_id)


def repeated_ids(ids: pa.ChunkedArray) -> Flags:
    """bool [records]: whether a record before has the same id."""
    hashes = _hashes(ids)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    suspects = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    repeated = np.zeros(len(hashes), np.bool_)
    same = pc.equal(ids.take(pa.array(suspects)), ids.take(pa.array(first[inverse][suspects])))
    repeated[suspects] = np.asarray(same, np.bool_)
    return repeated


def shares_of(blocks: Blocks, settings: DataConfig) -> int:
    """Among how many tasks the search for near-duplicates is divided."""
    return 1 + blocks.records * settings.dedup.num_permutations // 8 // _KEYS_OF_A_TASK


def near_links(blocks: Blocks, settings: DataConfig, share: tuple[int, int] = (0, 1)) -> Links:
    """Links between near-duplicates: those whose keys fall to one of several tasks."""
    keys = blocks.keys(settings.dedup.by)
    first = _first_equal(keys, repeated_ids(blocks.column("id")))
    links = Components(len(first))
    among = np.flatnonzero(first == np.arange(len(first)))
    link_duplicates(keys, blocks.texts(), settings.dedup, among, links, share)
    return links.links()


def decide(
    blocks: Blocks, settings: DataConfig, seed: int, links: Collection[Links], held_out: Collection[str] | None
) -> Decisions:
    """Decide about every record.

    Args:
        blocks: all blocks.
        settings: thresholds, shares, limits.
        seed: of the run.
        links: from `near_links`, of all shares.
        held_out: ids that evaluation questions name. None: a share of the groups is drawn for test.

    Raises:
        WorkError: the split leaks.
    """
    ids, texts = blocks.column("id"), blocks.texts()
    repeated = repeated_ids(ids)
    keys = blocks.keys(())
    joined = Components(len(repeated))
    for part in links:
        joined.join(part[:, 0], part[:, 1])
    found = verdicts(_first_equal(keys, repeated), joined, texts, settings.dedup)
    del joined
    stay = np.flatnonzero(found.stays & ~repeated)
    named = None if held_out is None else np.unique(found.kept[rows_of_ids(ids, held_out, repeated)])
    chosen, left_out = sampled(stay, ids, settings.max_records, seed, named)
    group, split = np.full(len(repeated), -1, np.int64), np.full(len(repeated), -1, np.int8)
    records, question = _split_records(blocks, keys, chosen), keys.question[chosen]
    del keys
    pa.default_memory_pool().release_unused()
    texts = texts.only(chosen)
    held_out_rows = None if named is None else np.isin(chosen, named)
    heads, splits = split_columns(records, texts, settings.split, seed, held_out_rows)
    group[chosen], split[chosen] = chosen[heads], splits
    del records, heads
    pa.default_memory_pool().release_unused()
    chosen_test, chosen_train = np.flatnonzero(splits == TEST), np.flatnonzero(splits == TRAIN)
    audit = audit_split(texts, question, chosen_test, chosen_train, settings.split)
    return Decisions(repeated, found, chosen, left_out, group, split, _renumbered(audit, chosen))


def rows_of_ids(ids: pa.ChunkedArray, wanted: Collection[str], repeated: Flags) -> Ints:
    """The records with the wanted ids, ascending; ids that no record has are passed over."""
    found = np.asarray(pc.is_in(ids, pa.array(sorted(wanted), pa.string())), np.bool_)
    return np.flatnonzero(found & ~repeated)


def sampled(
    stay: Ints, ids: pa.ChunkedArray, limit: int | None, seed: int, named: Ints | None
) -> tuple[Ints, Ints]:  # fmt: skip
    """(chosen, left out) of the records that stay: those that are named first, the others by digest of their ids."""
    if limit is None or len(stay) <= limit:
        return stay, np.empty(0, np.int64)
    drawn = _hashes(ids.take(pa.array(stay)), stable_digest(seed, "sample"))
    unnamed = np.ones(len(stay), np.bool_) if named is None else ~np.isin(stay, named)
    order = np.lexsort((stay, drawn, unnamed))
    return np.sort(stay[order[:limit]]), np.sort(stay[order[limit:]])


def split_counts(split: Splits) -> Mapping[str, int]:
    """How many records each split has."""
    return {name: int((split == n).sum()) for n, name in enumerate(SPLITS)}


def _first_equal(keys: RecordKeys, repeated: Flags) -> Ints:
    """int64 [records]: the first record with the same tokens; a record with a repeated id is by itself."""
    first = np.arange(len(repeated))
    alive = np.flatnonzero(~repeated)
    first[alive] = alive[first_equal(RecordKeys(keys.question[alive], keys.answer[alive], {}))]
    return first


def _split_records(blocks: Blocks, keys: RecordKeys, chosen: Ints) -> SplitRecords:
    sources = {source: n for n, source in enumerate(sorted({tally["source"] for tally in blocks.tallies}))}
    numbers = [
        pa.repeat(f" {sources[tally['source']]:06d}", len(table))
        for tally, table in zip(blocks.tallies, blocks.tables, strict=True)
    ]
    rows = pa.array(chosen)
    strata = pc.binary_join_element_wise(blocks.column("lang"), pa.chunked_array(numbers, pa.string()), "")
    columns = [blocks.column("id"), strata, blocks.column("group"), blocks.column("split")]
    ids, stratum, group, split = (in_one_piece(column.take(rows)) for column in columns)
    return SplitRecords(ids, stratum, keys.question[chosen], keys.answer[chosen], group, split)


def _renumbered(audit: Audit, chosen: Ints) -> Audit:
    """An audit of the chosen records with their numbers among all."""
    of = [np.where(near >= 0, chosen[np.maximum(near, 0)], -1) for near in (audit.jaccard_of, audit.cosine_of)]
    return replace(audit, test=chosen[audit.test], jaccard_of=of[0], cosine_of=of[1])


def _hashes(strings: pa.ChunkedArray, seed: int = 0) -> npt.NDArray[np.uint64]:
    return np.concatenate([np.empty(0, np.uint64), *(byte_hashes(chunk, seed) for chunk in strings.chunks)])
