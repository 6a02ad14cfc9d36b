"""An index of more than a million documents: building, memory, latency, and three shards against one index.

In: text files with a document on each line, and files with a query on each line. Out: one row. Everything is done as a
user's index is: ragray's analyzer, ids and passages stored, lists of 100 fused, scores of the hits. The shards are Ray
actors, each with a third of the documents; their hits and scores must be those of the one index.

  python benchmarks/large.py --corpus zipf.txt english.txt --queries zipf_questions.txt english_questions.txt
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from harness import publish

from ragray.config import RetrievalConfig
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.segment import Segment
from ragray.retrieval.writing import build_index, write_passages, write_version
from ragray.schema import Passage

_TOP_K, _SHARDS = 10, 3
_MIB = 1 << 20


def passages_of(files: Sequence[Path]) -> pa.Table:
    """A passage for each line of the files."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    count = len(lines)
    columns = {
        "doc_id": pa.array([str(n) for n in range(count)]), "title": pa.repeat("", count), "text": pa.array(lines),
        "lang": pa.repeat("en", count), "source": pa.repeat("", count), "kind": pa.repeat("document", count),
    }  # fmt: skip
    return pa.table(columns).select(Passage.schema.names).cast(Passage.schema)


def build_sharded(passages: pa.Table, folder: Path) -> None:
    """An index of as many segments as there are shards."""
    settings, parts = RetrievalConfig(), []
    size = -(-len(passages) // _SHARDS)
    for shard in range(_SHARDS):
        place = folder / f"part{shard}"
        place.mkdir()
        write_passages(passages.slice(shard * size, size), settings, place)
        parts.append((Segment(place), np.ones(min(size, len(passages) - shard * size), np.bool_)))
    write_version(parts, [segment.folder.name for segment, _ in parts], settings, folder)


def latency_ms(search: Callable[[str], object], queries: Sequence[str]) -> list[float]:
    """Median and 99th percentile of one query in a call, after all were asked once."""
    seconds = []
    for measured in (False, True):
        for query in queries:
            begin = time.perf_counter()
            search(query)
            if measured:
                seconds.append(1000 * (time.perf_counter() - begin))
    return [float(value) for value in np.percentile(seconds, [50, 99])]


def row(files: Sequence[Path], queries: Sequence[str], folder: Path) -> str:
    """Build, measure and compare.

    Raises:
        SystemExit: the shards find something else than the one index.
    """
    from ragray.distributed.session import connect
    from ragray.distributed.shards import open_sharded

    for name in ("one", "sharded"):
        (folder / name).mkdir()
    passages = passages_of(files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = time.perf_counter()
    counts = build_index(passages, RetrievalConfig(), folder / "one")
    built = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in (folder / "one").rglob("*") if path.is_file()) / _MIB
    begin = time.perf_counter()
    index = HybridIndex.open(folder / "one")
    opened = 1000 * (time.perf_counter() - begin)
    alone = latency_ms(lambda query: index.search(query, _TOP_K), queries)
    build_sharded(passages, folder / "sharded")
    connect()
    shards = open_sharded(folder / "sharded", _SHARDS, {"num_cpus": 0})
    expected, found = ([one.search(query, _TOP_K) for query in queries] for one in (index, shards))
    if expected != found:
        differ = sum(left != right for left, right in zip(expected, found, strict=True))
        raise SystemExit(f"{differ} of {len(queries)} queries find other hits or scores in shards")
    apart = latency_ms(lambda query: shards.search(query, _TOP_K), queries)
    return (
        f"| {counts['documents']:,} | {counts['terms']:,} | {built:.0f} | {before:,.0f} | {peak:,.0f} | {size:,.0f} | "
        f"{opened:.0f} | {alone[0]:.2f} / {alone[1]:.2f} | {len(queries)} of {len(queries)} | "
        f"{apart[0]:.1f} / {apart[1]:.1f} |"
    )


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="a document on each line")
    parser.add_argument("--queries", type=Path, nargs="+", required=True, help="a query on each line")
    parser.add_argument("--count", type=int, default=300, help="only the first so many queries of each file")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    queries = [q for file in args.queries for q in file.read_text(encoding="utf-8").splitlines()[: args.count]]
    with tempfile.TemporaryDirectory(prefix="ragray-benchmark-") as folder:
        made = row(args.corpus, queries, Path(folder))
    columns = (
        "documents", "terms", "build s", "peak MiB before building", "peak MiB", "index MiB, with passages",
        "open ms", "search p50 / p99 ms", f"equal in {_SHARDS} shards", "shards p50 / p99 ms",
    )  # fmt: skip
    files = ", ".join(f"{file.absolute().parent.name}/{file.name}" for file in args.corpus)
    setting = f"{files}; one process, {_SHARDS} actors; top {_TOP_K}"
    publish("large", setting, columns, [made], not args.no_record)


if __name__ == "__main__":
    main()
