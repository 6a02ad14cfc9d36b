"""Small samples of large tables, for reports: first rows, counts, and texts as a reader can see them.

In: Parquet files. Out: a few rows and counts. One row group of the named columns is in memory at a time, and only
the rows that are shown become Python objects.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHOWN_CHARS = 160

_LEAD_CHARS = 40  # of equal text before the first difference of a pair
_UNSEEN_SPACES = re.compile(r"^ +| +$| {2,}")
_MARKS = {"\n": "⏎", "\t": "⇥"}
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp", "Co", "Cn"}


def first_rows(
    path: Path, column: str, wanted: Mapping[str, Collection[str]], most: int, columns: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The first rows, in the file's order, for each name in `wanted`.

    Args:
        path: a Parquet file.
        column: the text column that is looked at; reading stops when all is found.
        wanted: name -> values of `column` that count for it.
        most: rows for each name, at most.
        columns: what to tell of each row.
    """
    file = pq.ParquetFile(path)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for group in range(file.num_row_groups):
        missing = {name: most - len(rows) for name, rows in found.items() if len(rows) < most}
        if not missing:
            break
        keys = file.read_row_group(group, [column]).column(0)
        places = {name: _places(keys, wanted[name])[:count] for name, count in missing.items()}
        if any(map(len, places.values())):
            table = file.read_row_group(group, list(columns))
            for name, chosen in places.items():
                found[name] += table.take(pa.array(chosen)).to_pylist()
    return found


def count_values(path: Path, columns: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How many rows have each combination of values of the text `columns`."""
    counts: Counter[tuple[str, ...]] = Counter()
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        found = file.read_row_group(group, list(columns)).group_by(list(columns)).aggregate([([], "count_all")])
        for row in found.to_pylist():
            counts[tuple(row[name] for name in columns)] += row["count_all"]
    return counts


def visible(text: str) -> str:
    """At most `SHOWN_CHARS` characters of `text`, with a mark or code point for each that could not be seen.

    Nothing is left in it that hides, reorders or breaks what stands beside it.
    """
    spaced = _UNSEEN_SPACES.sub(lambda found: "·" * len(found[0]), text[:SHOWN_CHARS])
    marked = "".join(map(_mark, spaced))
    return marked if len(text) <= SHOWN_CHARS else f"{marked}…"


def visible_pair(before: str, after: str) -> tuple[str, str]:
    """Both texts as `visible` shows them, from shortly before their first difference on."""
    same = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, same - _LEAD_CHARS)
    if not start:
        return visible(before), visible(after)
    return f"…{visible(before[start:])}", f"…{visible(after[start:])}"


def _places(keys: pa.ChunkedArray, values: Collection[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.flatnonzero(np.asarray(pc.is_in(keys, pa.array(sorted(values), keys.type))))


def _mark(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _INVISIBLE:
        return character
    return _MARKS.get(character) or f"\\u{ord(character):04x}"
