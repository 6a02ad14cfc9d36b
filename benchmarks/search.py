"""Search over one corpus, the same terms for all: both of ragray's rankings against libraries that make one.

In: a text file with a document on each line and one with a query on each line, terms separated by spaces. Building and
the first queries are not timed. `ragray` makes the `--top` best by BM25 and by cosine; `ragray_hybrid` lists of 100 of
each and fuses them; `seed` does the same with scikit-learn and rank-bm25, as a tutorial would (use few queries).

  python benchmarks/search.py --corpus docs.txt --queries questions.txt --peers-python peers/bin/python
  python benchmarks/search.py --corpus docs.txt --queries questions.txt --count 5 --cases ragray_hybrid,seed
"""

from __future__ import annotations

import argparse
import atexit
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Case, Outcome, Work, main, options

_DEPTH, _RRF_K = 100, 60  # of the fused lists
_K1, _B = 1.5, 0.75


def _lines(path: Path, count: int | None) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[:count] if count else lines


def _folder() -> Path:
    """A new folder, removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="ragray-benchmark-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _index(args: argparse.Namespace) -> Any:
    import numpy as np

    from ragray.config import Bm25Config, RetrievalConfig
    from ragray.retrieval.index import HybridIndex
    from ragray.retrieval.segment import Segment, write_segment
    from ragray.retrieval.writing import SEGMENT, write_version
    from ragray.schema import Passage, table_of

    settings = RetrievalConfig(bm25=Bm25Config(variant="lucene", k1=_K1, b=_B), sublinear_tf=False)
    folder = _folder()
    (folder / SEGMENT).mkdir()
    lines = _lines(args.corpus, args.documents)
    passages = table_of(Passage, (Passage(str(n), "", line, "en", "", "document") for n, line in enumerate(lines)))
    write_segment(passages, str.split, folder / SEGMENT)
    write_version([(Segment(folder / SEGMENT), np.ones(len(lines), np.bool_))], [SEGMENT], settings, folder)
    return HybridIndex.open(folder).corpus


def _facts(postings: Any, queries: list[list[str]]) -> Outcome:
    return {"documents": len(postings), "rows": len(queries)}


def _start_rankings(args: argparse.Namespace) -> Work:
    postings = _index(args)
    queries = [line.split() for line in _lines(args.queries, args.count)]

    def work() -> Any:
        list(postings.search_each(postings.queries(queries), args.top))
        return lambda: _facts(postings, queries)

    work()
    return work


def _start_hybrid(args: argparse.Namespace) -> Work:
    from ragray.retrieval.fusion import reciprocal_rank_fusion, united

    postings = _index(args)
    queries = [line.split() for line in _lines(args.queries, args.count)]

    def work() -> Any:
        for found in postings.search_each(postings.queries(queries), _DEPTH):
            reciprocal_rank_fusion(united(found), _RRF_K).first(args.top)
        return lambda: _facts(postings, queries)

    work()
    return work


def _start_bm25s(args: argparse.Namespace) -> Work:
    import bm25s

    lines, queries = _lines(args.corpus, args.documents), [q.split() for q in _lines(args.queries, args.count)]
    index = bm25s.BM25(k1=_K1, b=_B, method="lucene", backend="numba")
    tokens = bm25s.tokenize(
        lines, stopwords=None, stemmer=None, show_progress=False, token_pattern=r"\S+", lower=False
    )  # fmt: skip
    index.index(tokens, show_progress=False)

    def work() -> Any:
        index.retrieve(queries, k=args.top, show_progress=False, n_threads=0)
        return lambda: {"documents": len(lines), "rows": len(queries)}

    work()
    return work


def _start_tantivy(args: argparse.Namespace) -> Work:
    import tantivy

    lines, queries = _lines(args.corpus, args.documents), [q.split() for q in _lines(args.queries, args.count)]
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", stored=False, tokenizer_name="whitespace", index_option="freq", fast=False)
    schema = builder.build()
    index = tantivy.Index(schema, path=str(_folder()))
    writer = index.writer(heap_size=1_000_000_000, num_threads=args.threads)
    for line in lines:
        writer.add_document(tantivy.Document(body=line))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher, should, term = index.searcher(), tantivy.Occur.Should, tantivy.Query.term_query

    def work() -> Any:
        for query in queries:
            parts = [(should, term(schema, "body", word)) for word in query]
            searcher.search(tantivy.Query.boolean_query(parts), args.top, count=False)
        return lambda: {"documents": len(lines), "rows": len(queries)}

    work()
    return work


def _start_pisa(args: argparse.Namespace) -> Work:
    pisa = _pisa()
    lines, queries = _lines(args.corpus, args.documents), _lines(args.queries, args.count)
    folder = _folder()
    source, built, context = folder / "documents.txt", folder / "index", pisa.RetrievalContext()
    source.write_text("".join(f"{n} {line}\n" for n, line in enumerate(lines)), encoding="utf-8")
    built.mkdir()
    pisa.index(str(source), str(built), "", 100_000, args.threads)
    pisa.prepare_index(
        context, str(built), "block_simdbp", "bm25", "", quantize=0, stop_fname="", bm25_k1=_K1, bm25_b=_B
    )
    asked, room = list(enumerate(queries)), len(queries) * args.top

    def work() -> Any:
        import numpy as np

        numbers, ranks = np.empty(room, np.int32), np.empty(room, np.int32)
        found = pisa.retrieve(
            context, "block_max_wand", asked, k=args.top, threads=args.threads, query_weighted=0, pretokenised=0,
            result_qidxs=numbers, result_docnos=np.empty(room, object), result_ranks=ranks,
            result_scores=np.empty(room, np.float32),
        )  # fmt: skip
        return lambda: {"documents": len(lines), "rows": len(queries), "hits": int(found)}

    work()
    return work


def _pisa() -> Any:
    """PISA as pyterrier_pisa has it, without PyTerrier and its Java; see benchmarks/README.md."""
    import ctypes
    import importlib.machinery
    import importlib.util
    import sysconfig

    ctypes.CDLL(str(Path(sys.prefix, "lib", "libtbb.so.2")), ctypes.RTLD_GLOBAL)
    (built,) = Path(sysconfig.get_paths()["platlib"], "pyterrier_pisa").glob("_pisathon*.so")
    loader = importlib.machinery.ExtensionFileLoader("_pisathon", str(built))
    spec = importlib.util.spec_from_file_location("_pisathon", str(built), loader=loader)
    if spec is None:
        raise ImportError(f"{built}: cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _start_seed(args: argparse.Namespace) -> Work:
    import numpy as np
    from rank_bm25 import BM25Okapi
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    lines, queries = _lines(args.corpus, args.documents), _lines(args.queries, args.count)
    vectorizer = TfidfVectorizer(analyzer=str.split)
    matrix, bm25 = vectorizer.fit_transform(lines), BM25Okapi([line.split() for line in lines], k1=_K1, b=_B)

    def work() -> Any:
        for query in queries:
            fused: dict[int, float] = {}
            cosines = cosine_similarity(vectorizer.transform([query]), matrix).ravel()
            for scores in (cosines, bm25.get_scores(query.split())):
                best = np.argpartition(scores, -_DEPTH)[-_DEPTH:]
                for rank, document in enumerate(best[np.argsort(-scores[best], kind="stable")].tolist(), 1):
                    fused[document] = fused.get(document, 0.0) + 1.0 / (_RRF_K + rank)
            sorted(fused.items(), key=lambda pair: -pair[1])[: args.top]
        return lambda: {"documents": len(lines), "rows": len(queries)}

    return work


_OURS = ("numba", "numpy")
CASES = (
    Case("ragray", _start_rankings, _OURS, "BM25 and cosine, the best `top` of each"),
    Case("ragray_hybrid", _start_hybrid, _OURS, "BM25 and cosine, lists of 100, fused"),
    Case("bm25s", _start_bm25s, ("bm25s",), "BM25 alone, numba"),
    Case("tantivy", _start_tantivy, ("tantivy",), "BM25 alone"),
    Case("pisa", _start_pisa, ("pyterrier-pisa",), "BM25 alone, block-max WAND"),
    Case("seed", _start_seed, ("scikit-learn", "rank-bm25"), "BM25 and cosine, lists of 100, fused"),
)


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--corpus", type=Path, required=True, help="a document on each line")
    made.add_argument("--documents", type=int, help="only the first so many")
    made.add_argument("--queries", type=Path, required=True, help="a query on each line")
    made.add_argument("--count", type=int, default=300, help="only the first so many queries")
    made.add_argument("--top", type=int, default=10, help="documents of each ranking")
    return made


if __name__ == "__main__":
    main("search", CASES, parser())
