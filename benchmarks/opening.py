"""From a fresh process to the first hit: importing ragray, opening an index, and the first search after it.

In: the folder of an index (`index` artifact, or a store). Each case starts where the one before ends; what is before is
not timed. Files are in the page cache, and the compiled code in `__pycache__` (run it once before).

  python benchmarks/opening.py --index artifacts/demo/index/0123456789abcdef
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import Case, Work, main, options


def _opened(args: argparse.Namespace) -> Any:
    from ragray.retrieval.index import HybridIndex

    return HybridIndex.open(args.index)


def _start_import(args: argparse.Namespace) -> Work:
    def work() -> Any:
        from ragray.retrieval.index import HybridIndex

        return lambda: {"documents": len(HybridIndex.open(args.index))}

    return work


def _start_open(args: argparse.Namespace) -> Work:
    import ragray.retrieval.index  # noqa: F401

    def work() -> Any:
        index = _opened(args)
        return lambda: {"documents": len(index)}

    return work


def _start_search(args: argparse.Namespace, query: str, before: int) -> Work:
    index = _opened(args)
    for _ in range(before):
        index.search(query, args.top)

    def work() -> Any:
        hits = index.search(query, args.top)
        return lambda: {"rows": 1, "hits": len(hits)}

    return work


_OURS = ("numba", "numpy", "rjieba")
CASES = (
    Case("ragray_import", _start_import, _OURS, "importing ragray.retrieval.index"),
    Case("ragray_open", _start_open, _OURS, "opening, which loads compiled code"),
    Case("ragray_first", lambda args: _start_search(args, args.query, 0), _OURS, "the first search"),
    Case("ragray_first_chinese", lambda args: _start_search(args, args.chinese, 0), _OURS, "it loads the dictionary"),
    Case("ragray_second", lambda args: _start_search(args, args.query, 1), _OURS, "the same search again"),
)


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--index", type=Path, required=True, help="folder of an index")
    made.add_argument("--query", default="How do I stop training?", help="in a language without a dictionary")
    made.add_argument("--chinese", default="怎么量化模型？", help="a query in Chinese")
    made.add_argument("--top", type=int, default=10, help="hits")
    return made


if __name__ == "__main__":
    main("opening", CASES, parser())
