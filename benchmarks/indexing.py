"""Building an index of one corpus, the same terms for all, against libraries that make BM25 alone.

ragray makes both models, and stores ids and passages. In: a text file with a document on each line, terms separated by
spaces. Reading it is not timed; for bm25s, splitting
lines into terms is not timed either. What is timed ends when the index is on disk.

  python benchmarks/indexing.py --corpus docs.txt --peers-python peers/bin/python
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from harness import Case, Outcome, Work, main, options

_K1, _B = 1.5, 0.75
_COUNT = 20_000  # documents of the first round, which is not timed


def _lines(args: argparse.Namespace) -> list[str]:
    lines: list[str] = args.corpus.read_text(encoding="utf-8").splitlines()
    return lines[: args.documents] if args.documents else lines


def _facts(folder: Path, rows: int, passages: str = "") -> Outcome:
    """What was written to a folder, which is removed; `passages` are the names of files that hold ids and passages."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    found: dict[str, int | float | str] = {"rows": rows, "bytes": sum(sizes.values())}
    if passages:
        found["of them ids and passages"] = sum(size for path, size in sizes.items() if path.match(passages))
    shutil.rmtree(folder)
    return found


def _start_ragray(args: argparse.Namespace) -> Work:
    import numpy as np

    from ragray.config import Bm25Config, RetrievalConfig
    from ragray.retrieval.segment import Segment, write_segment
    from ragray.retrieval.writing import SEGMENT, write_version
    from ragray.schema import Passage, table_of

    settings = RetrievalConfig(bm25=Bm25Config(variant="lucene", k1=_K1, b=_B), sublinear_tf=False)
    lines = _lines(args)
    passages = table_of(Passage, (Passage(str(n), "", line, "en", "", "document") for n, line in enumerate(lines)))

    def build(count: int) -> Any:
        folder = Path(tempfile.mkdtemp(prefix="ragray-benchmark-"))
        (folder / SEGMENT).mkdir()
        write_segment(passages.slice(0, count), str.split, folder / SEGMENT)
        parts = [(Segment(folder / SEGMENT), np.ones(min(count, len(lines)), np.bool_))]
        write_version(parts, [SEGMENT], settings, folder)

        return lambda: _facts(folder, len(lines), "[ip][da]s*")

    build(_COUNT)()
    return lambda: build(len(lines))


def _start_bm25s(args: argparse.Namespace) -> Work:
    import bm25s

    lines = _lines(args)
    terms = [line.split() for line in lines]

    def work() -> Any:
        index = bm25s.BM25(k1=_K1, b=_B, method="lucene", backend="numba")
        index.index(terms, show_progress=False)
        folder = Path(tempfile.mkdtemp(prefix="ragray-benchmark-"))
        index.save(str(folder))

        return lambda: _facts(folder, len(lines))

    return work


def _start_tantivy(args: argparse.Namespace) -> Work:
    import tantivy

    lines = _lines(args)

    def work() -> Any:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("body", stored=False, tokenizer_name="whitespace", index_option="freq", fast=False)
        folder = Path(tempfile.mkdtemp(prefix="ragray-benchmark-"))
        index = tantivy.Index(builder.build(), path=str(folder))
        writer = index.writer(heap_size=1_000_000_000, num_threads=args.threads)
        for line in lines:
            writer.add_document(tantivy.Document(body=line))
        writer.commit()
        writer.wait_merging_threads()

        return lambda: _facts(folder, len(lines))

    return work


CASES = (
    Case("ragray", _start_ragray, ("numba", "numpy"), "both models, ids and passages"),
    Case("bm25s", _start_bm25s, ("bm25s",), "BM25 alone, from lists of terms"),
    Case("tantivy", _start_tantivy, ("tantivy",), "BM25 alone"),
)


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--corpus", type=Path, required=True, help="a document on each line")
    made.add_argument("--documents", type=int, help="only the first so many")
    return made


if __name__ == "__main__":
    main("indexing", CASES, parser())
