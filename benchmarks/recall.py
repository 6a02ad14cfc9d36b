"""Recall and precision of near-duplicate removal on planted duplicates, for ragray and its peers.

In: the pairs that `planted.py pairs` wrote. Out: for each level the share of pairs that came out as one (recall), and
the share of reported duplicates that truly are as like as the threshold says (precision; a text linked through others
counts by its similarity to the kept text). ragray is judged by shingles of three tokens, peers by the character
5-grams that they compare. Not a speed benchmark: one run in this process.

  python benchmarks/recall.py --pairs pairs.parquet --threshold 0.8
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from dedup import Finder, Kept, datasketch_finder, near_duplicates, rensa_finder
from harness import publish
from planted import char_grams, jaccard, token_shingles

Shingles = Callable[[str], frozenset[object]]
Row = dict[str, str | float]


def ragray_finder(threshold: float) -> Finder:
    """ragray, through its adapter."""
    return lambda texts: near_duplicates(pa.array(texts, pa.string()), threshold)


SYSTEMS: tuple[tuple[str, str, Callable[[float], Finder], str, Shingles], ...] = (
    ("ragray", "ragray", ragray_finder, "jaccard", token_shingles),
    ("rensa", "rensa", lambda t: rensa_finder(t, verified=False), "jaccard_chars", char_grams),
    ("rensa_verified", "rensa", lambda t: rensa_finder(t, verified=True), "jaccard_chars", char_grams),
    ("datasketch", "datasketch", lambda t: datasketch_finder(t, verified=False), "jaccard_chars", char_grams),
    ("datasketch_verified", "datasketch", lambda t: datasketch_finder(t, verified=True), "jaccard_chars", char_grams),
)


def recall_by_band(pairs: Sequence[Row], kept: Kept, measure: str, threshold: float) -> dict[str, tuple[int, int]]:
    """(found, planted) for the pairs above threshold + 0.1, above the threshold, and below it, by true similarity.

    Args:
        pairs: as planted; base and copy of pair i are texts 2 i and 2 i + 1.
        kept: the kept text of each text.
        measure: which of a pair's similarities is the true one.
        threshold: what `kept` was found with.
    """
    bands: dict[str, tuple[int, int]] = {}
    for n, pair in enumerate(pairs):
        true = float(pair[measure])
        band = "far above" if true >= threshold + 0.1 else "above" if true >= threshold else "below"
        found, planted = bands.get(band, (0, 0))
        bands[band] = found + (kept[2 * n] == kept[2 * n + 1]), planted + 1
    return bands


def precision(texts: Sequence[str], kept: Kept, shingles: Shingles, threshold: float) -> tuple[int, int]:
    """(true, reported) duplicates: true where text and kept text are as like as the threshold."""
    reported = [(n, k) for n, k in enumerate(kept) if n != k]
    true = sum(jaccard(shingles(texts[n]), shingles(texts[k])) >= threshold for n, k in reported)
    return true, len(reported)


def read_planted(path: Path) -> list[Row]:
    """The pairs of the Parquet file that `planted.py` wrote."""
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def lines(pairs: Sequence[Row], threshold: float) -> list[str]:
    """A table row for each system that is installed, and a line for each that is not."""
    texts = [str(pair[part]) for pair in pairs for part in ("base", "copy")]
    found = []
    for name, package, make, measure, shingles in SYSTEMS:
        if importlib.util.find_spec(package) is None:
            found.append(f"| {name} | not installed | | | |")
            continue
        kept = make(threshold)(texts)
        bands = recall_by_band(pairs, kept, measure, threshold)
        shares = [_share(*bands.get(band, (0, 0))) for band in ("far above", "above", "below")]
        found.append(f"| {name} | {' | '.join(shares)} | {_share(*precision(texts, kept, shingles, threshold))} |")
    return found


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.4f} ({part:,} of {whole:,})" if whole else "-"


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=Path, required=True, help="Parquet file of planted.py")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    above = f"recall, Jaccard >= {args.threshold + 0.1:.2f}"
    columns = ("system", above, "recall, up to there", "joined below the threshold", "precision")
    rows = lines(read_planted(args.pairs), args.threshold)
    publish("recall", f"{args.pairs.name}, threshold {args.threshold}", columns, rows, not args.no_record)


if __name__ == "__main__":
    main()
