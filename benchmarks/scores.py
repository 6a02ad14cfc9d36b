"""Scores against the libraries that define them: rank-bm25's BM25Okapi, BM25Plus and BM25L, scikit-learn's TF-IDF.

In: folders of test collections, as `ragray evaluate retrieval` reads them. Out, for each collection and each variant:
the greatest difference of any document's score for any of the queries, by scoring all documents and by the search for
the 100 best. The terms of all are those of ragray's analyzer. rank-bm25 has no Lucene variant: its reference is the
formula in NumPy. Not a speed benchmark: one run in this process.

  python benchmarks/scores.py --data FOLDER [FOLDER ...] --count 50
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import publish
from numpy.typing import NDArray
from rank_bm25 import BM25L, BM25Okapi, BM25Plus
from sklearn.feature_extraction.text import TfidfVectorizer

from ragray.config import Bm25Config, RetrievalConfig
from ragray.evaluation.collections import read_collection
from ragray.retrieval.analyzer import Analyzer
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index

Floats = NDArray[np.float64]
Terms = list[str]
Scorer = Callable[[Terms], Floats]  # a query -> the score of each document

_K1, _B, _DEPTH = 1.2, 0.75, 100
_CLOSE = 1e-5


class Lucene:
    """BM25 as Lucene has it since version 8, document by document."""

    def __init__(self, documents: Sequence[Terms], k1: float, b: float) -> None:
        self._k1, self._count = k1, len(documents)
        self._norms = 1 - b + b * np.array([len(terms) for terms in documents]) / np.mean([*map(len, documents)])
        self._postings: dict[str, dict[int, int]] = {}
        for number, terms in enumerate(documents):
            for term in terms:
                held = self._postings.setdefault(term, {})
                held[number] = held.get(number, 0) + 1

    def get_scores(self, query: Terms) -> Floats:
        """float64 [documents]."""
        scores = np.zeros(self._count)
        for term in query:
            for number, count in self._postings.get(term, {}).items():
                df = len(self._postings[term])
                idf = np.log(1 + (self._count - df + 0.5) / (df + 0.5))
                scores[number] += idf * count / (count + self._k1 * self._norms[number])
        return scores


BM25 = {"okapi": BM25Okapi, "plus": BM25Plus, "l": BM25L, "lucene": Lucene}


def references(documents: Sequence[Terms]) -> Iterator[tuple[str, RetrievalConfig, bool, Scorer]]:
    """(name, settings of ragray, whether it is BM25, what scores by the reference)."""
    for variant, reference in BM25.items():
        settings = RetrievalConfig(bm25=Bm25Config.model_validate({"variant": variant, "k1": _K1, "b": _B}))
        yield f"bm25 {variant}", settings, True, reference(documents, k1=_K1, b=_B).get_scores
    for sublinear in (False, True):
        vectorizer = TfidfVectorizer(analyzer=lambda terms: terms, sublinear_tf=sublinear)
        matrix = vectorizer.fit_transform(documents)

        def cosines(query: Terms, vectorizer: Any = vectorizer, matrix: Any = matrix) -> Floats:
            return np.asarray((matrix @ vectorizer.transform([query]).T).todense(), np.float64).ravel()

        yield f"tf-idf{', sublinear' * sublinear}", RetrievalConfig(sublinear_tf=sublinear), False, cosines


def difference(index: HybridIndex, queries: Sequence[Terms], by_bm25: bool, right: Scorer) -> tuple[float, float]:
    """The greatest difference of a score: (all documents, those that the search finds)."""
    of_all, of_found = 0.0, 0.0
    for terms in queries:
        query, expected = index.corpus.query(terms), right(terms)
        scores = index.corpus.score(query)[0 if by_bm25 else 1]
        documents, found = index.corpus.search(query, _DEPTH)[0 if by_bm25 else 1]
        of_all = max(of_all, float(np.abs(scores - expected).max()))
        of_found = max(of_found, float(np.abs(found - expected[documents]).max(initial=0.0)))
    return of_all, of_found


def rows(folder: Path, count: int) -> Iterator[str]:
    """A table row for each variant.

    Raises:
        SystemExit: a score differs by more than 1e-5.
    """
    collection = read_collection(folder, qrels=next(iter(sorted(folder.glob("qrels*.tsv")))))
    asked = list(collection.queries.values())[:count]
    terms = Analyzer(RetrievalConfig().analyzer).terms
    documents = [terms(one.title) * RetrievalConfig().title_weight + terms(one.text) for one in collection.documents]
    for name, settings, by_bm25, right in references(documents):
        with tempfile.TemporaryDirectory(prefix="ragray-benchmark-") as made:
            build_index(collection.documents, settings, Path(made))
            index = HybridIndex.open(Path(made))
            queries = [index.terms(text) for text in asked]
            differences = difference(index, queries, by_bm25, right)
        shown = " | ".join(f"{value:.1e}" for value in differences)
        print(f"{folder.name} {name}: {shown}", flush=True)
        if max(differences) > _CLOSE:
            raise SystemExit(f"{folder.name}, {name}: scores differ by {max(differences)}")
        yield f"| {folder.name} | {len(documents):,} | {len(queries)} | {name} | {shown} |"


def main() -> None:
    """Compare and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of test collections")
    parser.add_argument("--count", type=int, default=50, help="only the first so many queries")
    parser.add_argument("--no-record", action="store_true", help="print, and keep nothing")
    args = parser.parse_args()
    made = [row for folder in args.data for row in rows(folder, args.count)]
    columns = ("collection", "documents", "queries", "score", "greatest difference, all documents", "of the 100 best")
    setting = f"the first {args.count} queries of each collection; k1 {_K1}, b {_B}, float64"
    publish("scores", setting, columns, made, not args.no_record)


if __name__ == "__main__":
    main()
