"""Groups of records that belong together, and which split each group goes to.

In: records without duplicates. Out: the same records with `group` and `split`. Records with the same answer,
or with questions that are near-duplicates, are one group, and a group is never divided: nothing that is
asked in a test has been seen in training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ragray.config import SplitConfig
from ragray.dataprep.dedup import normalized
from ragray.dataprep.shingles import closest, link_similar, prefix_buckets, question_shingles
from ragray.errors import WorkError
from ragray.schema import QARecord, Split, stable_digest


def group_records(records: Sequence[QARecord], question_threshold: float) -> list[str]:
    """The group of each record: the smallest record id in it."""
    sets = question_shingles(record.question for record in records)
    roots = link_similar(sets, [prefix_buckets(sets, question_threshold)], question_threshold).tolist()
    parents = list(range(len(records)))
    first_with: dict[tuple[str, str], int] = {}
    for n, record in enumerate(records):
        same_answer = first_with.setdefault(("answer", normalized(record.answer)), n)
        same_question = first_with.setdefault(("question", normalized(record.question)), n)
        for other in (same_answer, same_question, roots[n]):
            _join(parents, n, other)
    members: dict[int, list[int]] = defaultdict(list)
    for n in range(len(records)):
        members[_root(parents, n)].append(n)
    names = {root: min(records[n].id for n in group) for root, group in members.items()}
    return [names[_root(parents, n)] for n in range(len(records))]


def split_records(
    records: Sequence[QARecord], settings: SplitConfig, seed: int, held_out: Collection[str] | None
) -> list[QARecord]:
    """`records` with their group and split.

    Args:
        records: without duplicates.
        settings: shares and the threshold of similar questions.
        seed: of the run.
        held_out: ids of records that evaluation questions name; their groups go to "test" and no others.
            None: a share of the groups is drawn.
    """
    groups = group_records(records, settings.question_threshold)
    named = None if held_out is None else {g for r, g in zip(records, groups, strict=True) if r.id in held_out}
    splits = _assign(records, groups, settings, seed, named)
    return [replace(r, group=g, split=splits[g]) for r, g in zip(records, groups, strict=True)]


def _assign(
    records: Sequence[QARecord],
    groups: Sequence[str],
    settings: SplitConfig,
    seed: int,
    named: Collection[str] | None,
) -> Mapping[str, Split]:
    """The split of each group: by language, in the order of its digest, until a split has its share of records.

    A group too large for what is left of a split goes on to the next one, at last to "train".
    """
    sizes: dict[str, int] = defaultdict(int)
    langs: dict[str, str] = {}
    for record, group in zip(records, groups, strict=True):
        sizes[group] += 1
        if record.id == group:
            langs[group] = record.lang
    splits: dict[str, Split] = dict.fromkeys(named or (), "test")
    for lang in sorted(set(langs.values())):
        drawn = sorted(
            (group for group in sizes if langs[group] == lang and group not in splits),
            key=lambda group: (stable_digest(seed, "split", group), group),
        )
        total = sum(sizes[group] for group in drawn)
        left = {"test": round(settings.test * total) if named is None else 0, "valid": round(settings.valid * total)}
        for group in drawn:
            splits[group] = _first_with_room(left, sizes[group])
    return splits


def _first_with_room(left: dict[str, int], size: int) -> Split:
    for split in ("test", "valid"):
        if size <= left[split]:
            left[split] -= size
            return "test" if split == "test" else "valid"
    return "train"


def check_no_leak(records: Sequence[QARecord]) -> None:
    """Make sure of what the split promises.

    Raises:
        WorkError: a group, an answer or a question stands in two splits.
    """
    for what, key in (
        ("group", lambda r: r.group),
        ("answer", lambda r: normalized(r.answer)),
        ("question", lambda r: normalized(r.question)),
    ):
        home: dict[str, QARecord] = {}
        for record in records:
            first = home.setdefault(key(record), record)
            if first.split != record.split:
                raise WorkError(
                    f"records {first.id} ({first.split}) and {record.id} ({record.split}) share their {what}",
                    "report this as a defect of ragray",
                )


def worst_overlap(records: Sequence[QARecord]) -> tuple[float, str, str]:
    """The highest Jaccard similarity of a test question and a train question, and the two ids."""
    sets = question_shingles(record.question for record in records)
    test, train = (
        np.array([n for n, r in enumerate(records) if r.split == split], np.int64) for split in ("test", "train")
    )
    similarity, left, right = closest(sets, test, train)
    if left < 0:
        return 0.0, "", ""
    return similarity, records[left].id, records[right].id


def _root(parents: list[int], node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


def _join(parents: list[int], one: int, other: int) -> None:
    a, b = _root(parents, one), _root(parents, other)
    parents[max(a, b)] = min(a, b)
