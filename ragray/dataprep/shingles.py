"""Texts as sets of hashed shingles, their Jaccard similarity, and groups of similar ones.

In: texts. Out: `ShingleSets` (one sorted array of 64-bit hashes for each text), true Jaccard
similarities, and connected components of similar texts. Both near-duplicate removal and the split rest
on it. Everything is independent of the order in which other texts stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from ragray.dataprep.language import HAN
from ragray.schema import stable_digest

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]

_TOKEN = re.compile(rf"[{HAN}]|[^\W_{HAN}]+[+#]*")
_TOKENS_OF_RECORD = 3
_CHARS_OF_QUESTION = {True: 2, False: 4}  # by whether there is a Han character
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class ShingleSets:
    """The shingles of text i are `hashes[starts[i]:starts[i + 1]]`, ascending and distinct."""

    hashes: Hashes
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, index: int) -> Hashes:
        """The shingles of one text."""
        return self.hashes[self.starts[index] : self.starts[index + 1]]

    def jaccard(self, left: int, right: int) -> float:
        """|A and B| / |A or B| of two texts; 1.0 where both are empty."""
        return float(_jaccard(self.hashes, self.starts, left, right))


def words(text: str) -> list[str]:
    """Lower-case tokens: each Han character by itself, other letters and digits by word ("c++" is one)."""
    return _TOKEN.findall(text.lower())


def record_shingles(texts: Iterable[str]) -> ShingleSets:
    """Three consecutive tokens: character trigrams of Chinese, word trigrams of English."""
    return _shingle_sets((words(text) for text in texts), [_TOKENS_OF_RECORD])


def question_shingles(texts: Iterable[str]) -> ShingleSets:
    """Consecutive letters and digits: two of a Chinese question, four of another, spaces counting as one letter.

    Letters rather than words, so that the topic outweighs the pattern in "What are the symptoms of X?".
    """
    tokens, widths = [], []
    for text in texts:
        found = words(text)
        chinese = any(len(token) == 1 and token > "\u33ff" for token in found)
        tokens.append(list(("" if chinese else " ").join(found)))
        widths.append(_CHARS_OF_QUESTION[chinese])
    return _shingle_sets(tokens, widths)


def _shingle_sets(texts: Iterable[Sequence[str]], widths: Sequence[int]) -> ShingleSets:
    """Hash every run of `widths[i]` tokens (`widths[0]` for all, if single); a shorter text is one shingle."""
    numbers: dict[str, int] = {}
    parts: list[Hashes] = []
    for n, tokens in enumerate(texts):
        hashed = np.empty(len(tokens), np.uint64)
        for k, token in enumerate(tokens):
            number = numbers.get(token)
            if number is None:
                number = numbers[token] = stable_digest("shingle", token)
            hashed[k] = number
        width = widths[n] if len(widths) > 1 else widths[0]
        parts.append(_runs(hashed, width))
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return ShingleSets(np.concatenate(parts) if parts else np.empty(0, np.uint64), starts)


def _runs(tokens: Hashes, width: int) -> Hashes:
    """Distinct hashes of all runs of `width` tokens, ascending: a polynomial in the tokens' hashes."""
    if not len(tokens):
        return tokens
    width = min(width, len(tokens))
    count = len(tokens) - width + 1
    runs = np.zeros(count, np.uint64)
    for k in range(width):
        runs = runs * _BASE + tokens[k : k + count]
    runs ^= runs >> np.uint64(32)
    return np.unique(runs)


def link_similar(sets: ShingleSets, buckets: Iterable[tuple[Ints, Ints]], threshold: float) -> Ints:
    """Connected components of texts that share a bucket and reach the threshold.

    Args:
        sets: the shingles of the texts.
        buckets: (members, starts) pairs: bucket b holds texts `members[starts[b]:starts[b + 1]]`.
        threshold: Jaccard similarity from which two texts are linked.

    Returns:
        int64 [texts]: the smallest index of each text's component.
    """
    parents = np.arange(len(sets), dtype=np.int64)
    for members, starts in buckets:
        _link(sets.hashes, sets.starts, members, starts, threshold, parents)
    return np.array([_root(parents, i) for i in range(len(parents))], np.int64)


def smallest_permuted(sets: ShingleSets, factors: Signatures, offsets: Signatures) -> Signatures:
    """uint32 [texts, permutations]: the smallest `hash * factor + offset` of each text's shingles, modulo 2**32.

    The hash is a shingle's high 32 bits. A text without shingles gets 2**32 - 1 everywhere.
    """
    result = np.full((len(sets), len(factors)), 2**32 - 1, np.uint32)
    _smallest((sets.hashes >> np.uint64(32)).astype(np.uint32), sets.starts, factors, offsets, result)
    return result


def buckets_of(keys: Hashes, texts: Ints) -> tuple[Ints, Ints]:
    """Texts with equal keys, as (members, starts); buckets of one text are left out."""
    order = np.lexsort((texts, keys))
    keys, texts = keys[order], texts[order]
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.empty(0, np.int64)
    sizes = np.diff(np.append(edges, len(keys)))
    shared = np.repeat(sizes > 1, sizes)
    starts = np.concatenate(([0], np.cumsum(sizes[sizes > 1])))
    return texts[shared].astype(np.int64), starts.astype(np.int64)


def prefix_buckets(sets: ShingleSets, threshold: float) -> tuple[Ints, Ints]:
    """Buckets in which every pair with Jaccard >= threshold > 0 meets at least once.

    With shingles ordered from rare to frequent, two sets of similarity t must share one among the first
    |A| - ceil(t |A|) + 1 of each. Source: Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity
    Search", section 3; the Jaccard bound from Xiao et al. 2008, "Efficient Similarity Joins", lemma 1.
    """
    values, inverse, counts = np.unique(sets.hashes, return_inverse=True, return_counts=True)
    ranks = np.empty(len(values), np.int64)
    ranks[np.lexsort((values, counts))] = np.arange(len(values))
    owners = np.repeat(np.arange(len(sets)), np.diff(sets.starts))
    order = np.lexsort((ranks[inverse], owners))
    sizes = np.diff(sets.starts)
    lengths = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    position = np.arange(len(order)) - np.repeat(sets.starts[:-1], sizes)
    taken = position < np.repeat(lengths, sizes)
    return buckets_of(sets.hashes[order][taken], owners[order][taken])


def closest(sets: ShingleSets, left: Ints, right: Ints) -> tuple[float, int, int]:
    """The highest Jaccard similarity between a text of `left` and one of `right`, with the two texts.

    Returns:
        (0.0, -1, -1) where either side is empty or nothing is shared.
    """
    values, inverse = np.unique(sets.hashes, return_inverse=True)
    sizes = np.diff(sets.starts)
    owners = np.repeat(np.arange(len(sets)), sizes)
    order = np.lexsort((owners, inverse))
    in_right = np.isin(owners[order], right)
    terms, posted = inverse[order][in_right], owners[order][in_right]
    bounds = np.searchsorted(terms, np.arange(len(values) + 1))
    similarity, a, b = _closest(inverse.astype(np.int64), sets.starts, left, posted, bounds)
    return float(similarity), int(a), int(b)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _jaccard(hashes: Hashes, starts: Ints, left: int, right: int) -> float:
    i, i_end, j, j_end = starts[left], starts[left + 1], starts[right], starts[right + 1]
    total = i_end - i + j_end - j
    if total == 0:
        return 1.0
    common = 0
    while i < i_end and j < j_end:
        if hashes[i] == hashes[j]:
            common += 1
            i += 1
            j += 1
        elif hashes[i] < hashes[j]:
            i += 1
        else:
            j += 1
    return float(common / (total - common))


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _smallest(hashes: Signatures, starts: Ints, factors: Signatures, offsets: Signatures, result: Signatures) -> None:
    for text in range(len(starts) - 1):
        smallest = result[text]
        for n in range(starts[text], starts[text + 1]):
            for k in range(len(factors)):
                smallest[k] = min(smallest[k], np.uint32(hashes[n] * factors[k] + offsets[k]))


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _root(parents: Ints, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _link(hashes: Hashes, starts: Ints, members: Ints, edges: Ints, threshold: float, parents: Ints) -> None:
    """Join the components of similar texts of each bucket; the smaller root stays the root."""
    for bucket in range(len(edges) - 1):
        for i in range(edges[bucket], edges[bucket + 1]):
            for j in range(i + 1, edges[bucket + 1]):
                a, b = _root(parents, members[i]), _root(parents, members[j])
                if a == b:
                    continue
                m, n = starts[members[i] + 1] - starts[members[i]], starts[members[j] + 1] - starts[members[j]]
                if min(m, n) < threshold * max(m, n):  # too unlike in size to reach it
                    continue
                if _jaccard(hashes, starts, members[i], members[j]) >= threshold:
                    parents[max(a, b)] = min(a, b)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _closest(terms: Ints, starts: Ints, left: Ints, posted: Ints, bounds: Ints) -> tuple[float, int, int]:
    counts = np.zeros(len(starts) - 1, np.int64)
    best, best_left, best_right = 0.0, -1, -1
    for a in left:
        touched = 0
        for k in range(starts[a], starts[a + 1]):
            for p in range(bounds[terms[k]], bounds[terms[k] + 1]):
                counts[posted[p]] += 1
                touched += 1
        if touched == 0:
            continue
        size = starts[a + 1] - starts[a]
        for b in range(len(counts)):
            if counts[b] > 0:
                similarity = counts[b] / (size + starts[b + 1] - starts[b] - counts[b])
                if similarity > best:
                    best, best_left, best_right = similarity, a, b
                counts[b] = 0
    return best, best_left, best_right
