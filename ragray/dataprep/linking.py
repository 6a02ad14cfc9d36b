"""Connected components of similar texts, from keys that similar texts share.

In: (key, text) pairs and a threshold. Out: for each text the smallest index in its component. Texts that share a
key are candidates; a pair is linked where its true Jaccard similarity reaches the threshold. Which key
brought two texts together, and in which order, does not show in the result; so keys can be dealt out to any
number of tasks, whose links are joined at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragray.compiled import array_kernel, kernel
from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.shingles import ShingleSets
from ragray.dataprep.sketches import Bitmaps, Sketches, may_reach, ones

Places = npt.NDArray[np.int32]
SimilarityOf = Callable[[Ints, Ints], npt.NDArray[np.float64]]  # of the texts at left[i] and right[i]

_FEW = 32  # members that are ordered by insertion
_FIRST_LOOK, _LAST_LOOK = 1 << 12, 1 << 17  # candidates that are compared at once: few at first, as links spare others


class Components:
    """Texts that are linked, as a forest: `parents[i]` is `i` or a smaller index."""

    def __init__(self, count: int) -> None:
        self.parents: Ints = np.arange(count, dtype=np.int64)

    def join(self, left: Ints, right: Ints) -> None:
        """Link `left[i]` with `right[i]` for each i."""
        _join_pairs(self.parents, left.astype(np.int64), right.astype(np.int64))

    def join_equal(self, keys: Hashes, texts: Ints) -> None:
        """Link texts with equal keys."""
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        self.join(texts[order[same]], texts[order[same + 1]])

    def roots(self) -> Ints:
        """int64 [texts]: the smallest index of each text's component."""
        return np.asarray(_roots(self.parents), np.int64)

    def links(self) -> npt.NDArray[np.int64]:
        """int64 [links, 2]: as few pairs as give the same components."""
        roots = self.roots()
        linked = np.flatnonzero(roots != np.arange(len(roots)))
        return np.stack([linked, roots[linked]], axis=1)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Texts that share a key: bucket b holds `members[starts[b]:starts[b + 1]]`, in no particular order.

    `reaches` says of each member how many shingles a text at least as large can have that is to be compared with it
    in this bucket; a pair that is too unequal for it is not similar, or meets in another bucket too.
    """

    members: Places
    reaches: Places
    starts: Ints


def buckets_of(keys: Hashes) -> tuple[Ints, Ints]:
    """Places of equal keys, as (places, starts) of buckets; places whose key no other has are left out."""
    suspects = np.flatnonzero(np.asarray(_maybe_shared(keys), np.bool_))
    order = suspects[np.argsort(keys[suspects])]
    ordered = keys[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(order) else np.empty(0, np.bool_)
    sizes = np.diff(np.append(np.flatnonzero(new), len(order)))
    shared = np.repeat(sizes > 1, sizes)
    starts = np.concatenate(([0], np.cumsum(sizes[sizes > 1])))
    return order[shared], starts.astype(np.int64)


def link_similar(
    buckets: Iterable[tuple[Ints, Ints]], sets_of: Callable[[Ints], ShingleSets], threshold: float, into: Components
) -> None:
    """Link the pairs of each bucket whose Jaccard similarity reaches the threshold.

    Args:
        buckets: (texts, starts) of each kind of key, see `buckets_of`.
        sets_of: the shingles of some texts; called once, with all texts that stand in some bucket.
        threshold: Jaccard similarity from which two texts are linked, above 0.
        into: where the links go; pairs that are linked already are not compared again.
    """
    held = [bucket for bucket in buckets if len(bucket[0])]
    if not held:
        return
    texts = members_of([members for members, _ in held], len(into.parents))
    sets = sets_of(texts)
    sketches = Sketches.of(sets)
    folds = sketches.folds()
    place = np.full(len(into.parents), -1, np.int32)
    place[texts] = np.arange(len(texts))
    for members, starts in held:
        places = place[members]
        reaches = (sketches.sizes[places] / threshold + 1e-9).astype(np.int32)
        link_buckets(Buckets(places, reaches, starts), sketches, folds, texts, sets.jaccards, threshold, into)


def link_buckets(
    buckets: Buckets, sketches: Sketches, folds: Bitmaps, texts: Ints, similarity: SimilarityOf, threshold: float,
    into: Components,
) -> None:  # fmt: skip
    """Link the pairs of each bucket whose Jaccard similarity reaches the threshold.

    Args:
        buckets: of places in `texts`; their order changes.
        sketches: of the texts.
        folds: of the sketches.
        texts: int64, numbers in `into`.
        similarity: of pairs of places.
        threshold: Jaccard similarity from which two texts are linked, above 0.
        into: where the links go; pairs that are linked already are not compared again.
    """
    if not len(buckets.members):
        return
    _smallest_first(buckets.members, buckets.reaches, buckets.starts, sketches.sizes)
    most = int(np.diff(buckets.starts).max())
    done, look = 0, _FIRST_LOOK
    while done < len(buckets.members):
        pairs = np.empty((2, look + most), np.int64)
        done, found = _candidates(
            buckets.members, buckets.reaches, buckets.starts, done, look, sketches.sizes, sketches.maps,
            folds, texts, threshold, into.parents, pairs,
        )  # fmt: skip
        left, right = pairs[:, :found]
        near = similarity(left, right) >= threshold
        into.join(texts[left[near]], texts[right[near]])
        look = min(2 * look, _LAST_LOOK)


def members_of(parts: Iterable[Ints], count: int) -> Ints:
    """The distinct numbers in the parts, ascending; all are below `count`."""
    held = np.zeros(count, np.bool_)
    for part in parts:
        held[part] = True
    return np.flatnonzero(held)


@array_kernel
def _maybe_shared(keys: Hashes) -> npt.NDArray[np.bool_]:
    """False for most keys that occur once, which then need not be sorted; True for all others."""
    size = 1024
    while size < 8 * len(keys):
        size *= 2
    seen = np.zeros(size, np.uint8)
    for key in keys:
        place = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & np.uint64(size - 1)
        if seen[place] < 2:
            seen[place] += 1
    found = np.empty(len(keys), np.bool_)
    for k in range(len(keys)):
        place = (keys[k] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & np.uint64(size - 1)
        found[k] = seen[place] > 1
    return found


@kernel
def _root(parents: Ints, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@array_kernel
def _roots(parents: Ints) -> Ints:
    found = np.empty_like(parents)
    for node in range(len(parents)):
        found[node] = _root(parents, node)
    return found


@kernel
def _join_pairs(parents: Ints, left: Ints, right: Ints) -> None:
    for k in range(len(left)):
        a, b = _root(parents, left[k]), _root(parents, right[k])
        parents[max(a, b)] = min(a, b)


@array_kernel
def _smallest_first(members: Places, reaches: Places, starts: Ints, sizes: Places) -> None:
    """Order the members of each bucket by size, equal ones as they stand."""
    for bucket in range(len(starts) - 1):
        begin, end = starts[bucket], starts[bucket + 1]
        if end - begin > _FEW:
            keys = sizes[members[begin:end]].astype(np.int64) << np.int64(32) | np.arange(end - begin)
            order = begin + (np.sort(keys) & np.int64(0xFFFFFFFF))
            members[begin:end], reaches[begin:end] = members[order], reaches[order]
            continue
        for k in range(begin + 1, end):
            member, reach, at = members[k], reaches[k], k
            while at > begin and sizes[members[at - 1]] > sizes[member]:
                members[at], reaches[at] = members[at - 1], reaches[at - 1]
                at -= 1
            members[at], reaches[at] = member, reach


@array_kernel
def _candidates(  # type: ignore[no-untyped-def]
    members, reaches, starts, done, look, sizes, maps, folds, texts, threshold, parents, pairs
):  # fmt: skip
    """Pairs that may be similar and are not linked: from the member `done` on until at least `look` are found.

    Out: (members done, pairs found).
    """
    slack = (1 - threshold) / (1 + threshold)  # J >= t means that |A ^ B| <= (1 - t) / (1 + t) * (|A| + |B|)
    most = np.diff(starts).max()
    size, fold_a, fold_b = np.empty(most, np.int32), np.empty(most, np.uint64), np.empty(most, np.uint64)
    found = 0
    bucket = np.searchsorted(starts, done, "right") - 1
    while bucket < len(starts) - 1:
        begin, end = starts[bucket], starts[bucket + 1]
        for k in range(begin, end):
            size[k - begin] = sizes[members[k]]
            fold_a[k - begin], fold_b[k - begin] = folds[members[k]]
        for k in range(max(done, begin), end):
            i = k - begin
            for j in range(i + 1, end - begin):
                if size[j] > reaches[k]:
                    break
                most_different = np.int64(slack * (size[i] + size[j]) + 1e-9)
                if np.int64(ones(fold_a[i] ^ fold_a[j]) + ones(fold_b[i] ^ fold_b[j])) > most_different:
                    continue
                if size[i] == 0 or reaches[begin + j] < size[i]:
                    continue
                left, right = members[k], members[begin + j]
                linked = _root(parents, texts[left]) == _root(parents, texts[right])
                if not linked and may_reach(maps, left, right, most_different):
                    pairs[0, found], pairs[1, found] = left, right
                    found += 1
            if found >= look:
                return k + 1, found
        bucket += 1
    return len(members), found
