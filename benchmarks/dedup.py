"""Whole near-duplicate removal: ragray, which verifies each pair, against rensa and datasketch.

Peers get what their users write: MinHash of 128 permutations over the set of character 5-grams, 16 bands of 8
rows, one pass that asks the index and else inserts. They run as they are (what shares a band is a
duplicate), and with each candidate verified by the true Jaccard similarity of its 5-grams, which is what ragray
does. Making the 5-grams is timed: no peer does it itself.

  python benchmarks/dedup.py --records records.parquet --count 20000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from harness import Case, Outcome, Work, main, record_options
from texts import joined, read_pairs

if TYPE_CHECKING:
    import pyarrow as pa

Kept = Sequence[int]  # for each text the one that stands for it: itself where it stays
Finder = Callable[[list[str]], Kept]
Sketch = TypeVar("Sketch")

_PERMUTATIONS, _BANDS, _ROWS, _GRAM = 128, 16, 8, 5
_LINE = "a text to import and to compile with before the clock starts, so that what is timed is the work alone and"
_WARM_UP = [f"{_LINE} {ending}" for ending in ("no more", "no more", "nothing else")]


def near_duplicates(texts: pa.Array, threshold: float) -> Kept:
    """The kept text of each text, as ragray says.

    Args:
        texts: of Arrow type string.
        threshold: Jaccard similarity from which two texts are one.
    """
    import pyarrow as pa

    from ragray.config_data import DedupConfig
    from ragray.dataprep.dedup import find_duplicates

    nothing = pa.array([""] * len(texts), pa.string())
    settings = DedupConfig(threshold=threshold, num_permutations=_PERMUTATIONS, by=("question_answer",))
    kept: list[int] = find_duplicates([(texts, nothing)], settings).kept.tolist()
    return kept


def grams(text: str) -> set[str]:
    """The character 5-grams of a text; a shorter one is its own only gram."""
    return {text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1))}


def jaccard(left: set[str], right: set[str]) -> float:
    """|A and B| / |A or B|."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def rensa_finder(threshold: float, verified: bool) -> Finder:
    """rensa's RMinHash and RMinHashLSH."""
    from rensa import RMinHash, RMinHashLSH

    def find(texts: list[str]) -> Kept:
        index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)

        def sketch(found: set[str]) -> RMinHash:
            made = RMinHash(num_perm=_PERMUTATIONS, seed=1)
            made.update(list(found))
            return made

        sketches = ((found, sketch(found)) for found in map(grams, texts))
        return _one_pass(sketches, index.query, index.insert, threshold if verified else None)

    return find


def rensa_bulk_finder(threshold: float) -> Finder:
    """rensa's fastest way: one matrix of sketches, and flags for rows that share a band with any other row.

    It does not say with which one, and flags the first of a cluster too; so what stays cannot be told from it, and
    0 stands for every flagged row.
    """
    from rensa import RMinHash, RMinHashLSH

    def find(texts: list[str]) -> Kept:
        matrix = RMinHash.digest_matrix_from_token_sets([list(grams(text)) for text in texts], _PERMUTATIONS, 1)
        index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
        flags = index.query_duplicate_flags_matrix_one_shot(matrix)
        return [0 if flag else n for n, flag in enumerate(flags)]

    return find


def datasketch_finder(threshold: float, verified: bool) -> Finder:
    """datasketch's MinHash, made in bulk, and MinHashLSH with the same bands."""
    from datasketch import MinHash, MinHashLSH

    def find(texts: list[str]) -> Kept:
        index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, params=(_BANDS, _ROWS))
        sets = [grams(text) for text in texts]
        encoded = ([gram.encode() for gram in found] for found in sets)
        sketches = zip(sets, MinHash.bulk(encoded, num_perm=_PERMUTATIONS, seed=1), strict=True)
        return _one_pass(sketches, index.query, index.insert, threshold if verified else None)

    return find


def _one_pass(
    sketches: Iterable[tuple[set[str], Sketch]],
    query: Callable[[Sketch], Sequence[int]],
    insert: Callable[[int, Sketch], None],
    threshold: float | None,
) -> Kept:
    """Each text either is a duplicate of one in the index, the first that will do, or goes into it."""
    kept: list[int] = []
    inserted: dict[int, set[str]] = {}
    for n, (found, sketch) in enumerate(sketches):
        candidates = sorted(query(sketch))
        if threshold is not None:
            candidates = [c for c in candidates if jaccard(found, inserted[c]) >= threshold]
        if candidates:
            kept.append(candidates[0])
            continue
        kept.append(n)
        insert(n, sketch)
        if threshold is not None:
            inserted[n] = found
    return kept


def _start(make: Callable[[float], Finder]) -> Callable[[argparse.Namespace], Work]:
    def start(args: argparse.Namespace) -> Work:
        find = make(args.threshold)
        texts = joined(read_pairs(args.records, args.count))
        find(_WARM_UP)
        return lambda: partial(_outcome, find(texts))

    return start


def _start_ragray(args: argparse.Namespace) -> Work:
    import pyarrow as pa

    near_duplicates(pa.array(_WARM_UP), args.threshold)
    texts = pa.array(joined(read_pairs(args.records, args.count)), pa.string())
    return lambda: partial(_outcome, near_duplicates(texts, args.threshold))


def _outcome(kept: Kept) -> Outcome:
    return {"rows": len(kept), "kept": sum(n == k for n, k in enumerate(kept))}


CASES = (
    Case("ragray", _start_ragray, ("numba", "numpy", "pyarrow"),
         "Pairs verified; shingles of three tokens (words, Han characters)"),
    Case("rensa", _start(lambda t: rensa_finder(t, verified=False)), ("rensa",), "As it is: nothing verified"),
    Case("rensa_verified", _start(lambda t: rensa_finder(t, verified=True)), ("rensa",), "Candidates verified"),
    Case("rensa_bulk", _start(rensa_bulk_finder), ("rensa",),
         "Nothing verified; flags only, no pairs, the first of a cluster flagged too: less work than asked for"),
    Case("datasketch", _start(lambda t: datasketch_finder(t, verified=False)), ("datasketch", "numpy"),
         "As it is: nothing verified"),
    Case("datasketch_verified", _start(lambda t: datasketch_finder(t, verified=True)), ("datasketch", "numpy"),
         "Candidates verified"),
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    return record_options(__doc__, threshold=0.8)


if __name__ == "__main__":
    main("dedup", CASES, parser())
