"""Connected components of similar texts, from keys that similar texts share.

In: (key, text) pairs and a threshold. Out: for each text the smallest index in its component. Texts that share a
key are candidates; a pair is linked where its true Jaccard similarity reaches the threshold. Which key
brought two texts together, and in which order, does not show in the result; so keys can be dealt out to any
number of tasks, whose links are joined at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from numba import njit

from ragray.dataprep.hashing import Hashes, Ints
from ragray.dataprep.shingles import ShingleSets, jaccard_kernel

Bitmaps = npt.NDArray[np.uint64]  # [texts, _WORDS]
SetsOf = Callable[[Ints], ShingleSets]  # the shingles of some texts

_BITS_LOG = 9
_WORDS = (1 << _BITS_LOG) // 64


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


def buckets_of(keys: Hashes, texts: Ints) -> tuple[Ints, Ints]:
    """Texts with equal keys, as (members, starts); buckets of one text are left out.

    Bucket b holds texts `members[starts[b]:starts[b + 1]]`, in no particular order.
    """
    suspects = np.asarray(_maybe_shared(keys), np.bool_)
    keys, texts = keys[suspects], texts[suspects]
    order = np.argsort(keys)
    keys, texts = keys[order], texts[order]
    new = np.concatenate(([True], keys[1:] != keys[:-1])) if len(keys) else np.empty(0, np.bool_)
    sizes = np.diff(np.append(np.flatnonzero(new), len(keys)))
    shared = np.repeat(sizes > 1, sizes)
    starts = np.concatenate(([0], np.cumsum(sizes[sizes > 1])))
    return texts[shared].astype(np.int64), starts.astype(np.int64)


def link_similar(buckets: Iterable[tuple[Ints, Ints]], sets_of: SetsOf, threshold: float, into: Components) -> None:
    """Link the pairs of each bucket whose Jaccard similarity reaches the threshold.

    Args:
        buckets: from `buckets_of`.
        sets_of: called once, with all texts that stand in some bucket.
        threshold: Jaccard similarity from which two texts are linked.
        into: where the links go; pairs that are linked already are not compared again.
    """
    held = [bucket for bucket in buckets if len(bucket[0])]
    if not held:
        return
    texts = members_of([members for members, _ in held], len(into.parents))
    sets = sets_of(texts)
    maps = np.zeros((len(texts), _WORDS), np.uint64)
    _bitmaps(sets.hashes, sets.starts, maps)
    folds = np.bitwise_xor.reduce(maps.reshape(len(maps), -1, 2), axis=1)  # enough to tell most short texts apart
    place = np.full(len(into.parents), -1, np.int64)
    place[texts] = np.arange(len(texts))
    for members, starts in held:
        _link(sets.hashes, sets.starts, maps, folds, members, place, starts, threshold, into.parents)


def members_of(parts: Iterable[Ints], count: int) -> Ints:
    """The distinct numbers in the parts, ascending; all are below `count`."""
    held = np.zeros(count, np.bool_)
    for part in parts:
        held[part] = True
    return np.flatnonzero(held)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
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


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _root(parents: Ints, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _roots(parents: Ints) -> Ints:
    found = np.empty_like(parents)
    for node in range(len(parents)):
        found[node] = _root(parents, node)
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _join_pairs(parents: Ints, left: Ints, right: Ints) -> None:
    for k in range(len(left)):
        a, b = _root(parents, left[k]), _root(parents, right[k])
        parents[max(a, b)] = min(a, b)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _bitmaps(hashes: Hashes, starts: Ints, maps: Bitmaps) -> None:
    """For each text the exclusive or of one bit for each of its shingles."""
    for text in range(len(maps)):
        for k in range(starts[text], starts[text + 1]):
            bit = hashes[k] >> np.uint64(64 - _BITS_LOG)
            maps[text, bit >> np.uint64(6)] ^= np.uint64(1) << (bit & np.uint64(63))


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _ones(word: np.uint64) -> np.uint64:
    """How many bits are set. Source: Warren 2012, "Hacker's Delight", section 5-1."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _may_reach(maps: Bitmaps, left: int, right: int, most_different: float) -> bool:
    """Whether two texts may differ in so few shingles: bits that differ are at most as many.

    Source: Sandes, Teodoro, Melo 2020, "Bitmap filter: Speeding up exact set similarity joins with bitwise
    operations", Information Systems 88, section 3.
    """
    different = np.uint64(0)
    for word in range(maps.shape[1]):
        different += _ones(maps[left, word] ^ maps[right, word])
    return bool(different <= most_different)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _link(
    hashes: Hashes, starts: Ints, maps: Bitmaps, folds: Bitmaps, members: Ints, place: Ints, edges: Ints,
    threshold: float, parents: Ints,
) -> None:  # fmt: skip
    """Join the components of similar texts of each bucket; the smaller root stays the root."""
    slack = (1 - threshold) / (1 + threshold)  # J >= t means that |A ^ B| <= (1 - t) / (1 + t) * (|A| + |B|)
    most = np.diff(edges).max() if len(edges) > 1 else 0
    sizes, fold_a, fold_b = np.empty(most, np.int64), np.empty(most, np.uint64), np.empty(most, np.uint64)
    for bucket in range(len(edges) - 1):
        among = members[edges[bucket] : edges[bucket + 1]]
        for i in range(len(among)):
            text = place[among[i]]
            sizes[i] = starts[text + 1] - starts[text]
            fold_a[i], fold_b[i] = folds[text]
        for i in range(len(among)):
            for j in range(i + 1, len(among)):
                most_different = np.int64(slack * (sizes[i] + sizes[j]) + 1e-9)
                different = np.int64(_ones(fold_a[i] ^ fold_a[j]) + _ones(fold_b[i] ^ fold_b[j]))
                if different > most_different or abs(sizes[i] - sizes[j]) > most_different:
                    continue
                left, right = place[among[i]], place[among[j]]
                if sizes[i] == 0 or sizes[j] == 0 or not _may_reach(maps, left, right, most_different):
                    continue
                a, b = _root(parents, among[i]), _root(parents, among[j])
                if a != b and jaccard_kernel(hashes, starts, left, right) >= threshold:
                    parents[max(a, b)] = min(a, b)
