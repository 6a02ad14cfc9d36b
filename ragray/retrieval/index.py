"""The hybrid index: BM25 and TF-IDF over the same postings, fused.

In: passages. Out: a folder (`build_index`), and `HybridIndex.open`, which memory-maps it, searches it and
explains its answers. The folder records the analyzer and all settings: the query side asks the index, never the user.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import ValidationError

from ragray.config import RetrievalConfig
from ragray.errors import ArtifactError, DataError
from ragray.retrieval.analyzer import Analyzer, check_analyzer
from ragray.retrieval.postings import Ints, Postings, QueryTerms, Ranked, write_postings
from ragray.retrieval.strings import Strings, byte_order, write_strings
from ragray.schema import Passage, records_of, table_of

FORMAT_VERSION = 2
DESCRIPTION = "index.json"
TITLE_WEIGHT = 3  # a title's terms count so often: nDCG@10 on FAQ .745 at 1, .783 at 2, .793 at 3; papers lose at 4
MAX_QUERY_CHARS, MAX_QUERY_TERMS = 32_768, 1024  # a longer query is cut here
_ROWS_PER_GROUP = 256  # passages that are read from disk together
_REMEMBERED_GROUPS = 256
_REBUILD = "build the index again: remove its folder, then `ragray index --config FILE`"


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found. Ranks count from 1; None where it is not in that list's fused depth.

    `score` is the fused one, see `fusion`: its size depends on the settings, and compares hits of one query only.
    """

    doc_id: str
    rank: int
    score: float
    bm25_rank: int | None
    bm25_score: float
    tfidf_rank: int | None
    tfidf_score: float


@dataclass(frozen=True, slots=True)
class TermContribution:
    """What one term of the query adds to a document's two scores."""

    term: str
    bm25: float
    tfidf: float


def build_index(passages: Sequence[Passage], settings: RetrievalConfig, folder: Path) -> dict[str, int]:
    """Write an index of `passages` in their order; returns counts of documents, terms and postings.

    Raises:
        DataError: there are no passages, or two have the same id.
    """
    if not passages:
        raise DataError("there is nothing to index: no passages", "check `data.faq` and `data.documents`")
    ids = [passage.doc_id for passage in passages]
    order = byte_order(ids)
    for before, after in itertools.pairwise(order):
        if ids[before] == ids[after]:
            raise DataError(f"two passages have the id {ids[before]!r}", "give every record its own id")
    analyzer = Analyzer(settings.analyzer)
    counts = write_postings([passage_terms(analyzer, passage) for passage in passages], settings, folder)
    write_strings(ids, folder, "ids")
    np.save(folder / "ids.order.npy", np.array(order, np.int64))
    table = table_of(Passage, passages)
    pq.write_table(table, folder / "passages.parquet", compression="zstd", row_group_size=_ROWS_PER_GROUP)
    counts = {"documents": len(passages), **counts}
    description = {
        "format_version": FORMAT_VERSION,
        "analyzer": analyzer.describe(),
        "title_weight": TITLE_WEIGHT,
        "settings": settings.model_dump(),
        "counts": counts,
        "digest": _content_digest(folder),
    }
    text = json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return counts


def passage_terms(analyzer: Analyzer, passage: Passage) -> list[str]:
    """The terms that a passage is indexed by: its title's, repeated by their weight, then its text's."""
    return analyzer.terms(passage.title) * TITLE_WEIGHT + analyzer.terms(passage.text)


class HybridIndex:
    """An opened index: read-only, memory-mapped, safe to share between threads."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = RetrievalConfig.model_validate(description["settings"])
        self.digest: str = description["digest"]
        self.analyzer = check_analyzer(description["analyzer"], str(folder))
        self.postings = Postings(folder, self.settings)
        self._ids = Strings(folder, "ids")
        self._id_order = np.asarray(np.load(folder / "ids.order.npy", mmap_mode="r"))
        self._table = pq.ParquetFile(folder / "passages.parquet", memory_map=True)
        self._lock = threading.Lock()
        self._group = lru_cache(maxsize=_REMEMBERED_GROUPS)(self._read_group)

    @classmethod
    def open(cls, folder: Path) -> HybridIndex:
        """Open the index in `folder`.

        Raises:
            ArtifactError: there is none, it is damaged, or another analyzer or format made it.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            version = description["format_version"]
            if version != FORMAT_VERSION:
                raise ArtifactError(f"{folder}: index format {version}, this ragray reads {FORMAT_VERSION}", _REBUILD)
            return cls(folder, description)
        except FileNotFoundError as error:
            raise ArtifactError(f"{folder}: no index here: {error.filename or error}", _REBUILD) from None
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ArtifactError(f"{folder}: the index is damaged: {error}", _REBUILD) from None

    def __len__(self) -> int:
        return len(self.postings)

    def search(self, query: str, top_k: int, exclude: Collection[str] = ()) -> list[Hit]:
        """The best `top_k` documents for `query`, fused from both lists to `settings.fusion_depth` each.

        Args:
            query: any text; without a term that the index knows, nothing is found.
            top_k: how many at most; not more than both lists hold together.
            exclude: ids of documents that are treated as absent from the lists.
        """
        return self.search_batch([query], top_k, [exclude])[0]

    def search_batch(
        self, queries: Sequence[str], top_k: int, exclude: Sequence[Collection[str]] = ()
    ) -> list[list[Hit]]:
        """`search` for each query; `exclude` is empty, or has one collection for each query."""
        asked = self.postings.queries([self.terms(query) for query in queries])
        absent = [self._numbers(ids) for ids in exclude] if exclude else None
        depth = None if self.settings.fusion_depth == "all" else self.settings.fusion_depth
        lists = self.postings.search_each(asked, depth, absent)
        return [self._fused(asked[number], found, top_k) for number, found in enumerate(lists)]

    def _fused(self, query: QueryTerms, found: tuple[Ranked, Ranked], top_k: int) -> list[Hit]:
        from ragray.retrieval.fusion import fuse

        by_bm25, by_tfidf = found
        fused = fuse(self.settings, {"bm25": by_bm25, "tfidf": by_tfidf}, {"bm25": query.floor}).first(top_k)
        documents = fused.documents.tolist()
        rows = zip(
            documents, fused.scores.tolist(), *fused.ranks.tolist(), self.postings.scores_of(query, documents),
            strict=True,
        )  # fmt: skip
        return [
            Hit(self._ids[document], rank, score, bm25_rank or None, bm25, tfidf_rank or None, tfidf)
            for rank, (document, score, bm25_rank, tfidf_rank, (bm25, tfidf)) in enumerate(rows, 1)
        ]

    def _numbers(self, doc_ids: Collection[str]) -> Ints:
        """The numbers of documents, ascending; ids that the index does not hold are passed over."""
        return np.array(sorted({n for n in map(self._find, doc_ids) if n is not None}), np.int64)

    def terms(self, query: str) -> list[str]:
        """The first 1,024 terms of a query, as the index's analyzer makes them."""
        return self.analyzer.terms(query[:MAX_QUERY_CHARS])[:MAX_QUERY_TERMS]

    def query_terms(self, query: str) -> QueryTerms:
        """The query's terms that the index knows, with their weights."""
        return self.postings.query(self.terms(query))

    def passage(self, doc_id: str) -> Passage:
        """The passage with this id.

        Raises:
            DataError: the index has no such document.
        """
        return self.passage_at(self.number(doc_id))

    def passage_at(self, number: int) -> Passage:
        """The passage with this number in index order, from 0."""
        group, row = divmod(number, _ROWS_PER_GROUP)
        return self._group(group)[row]

    def explain(self, query: str, doc_id: str) -> list[TermContribution]:
        """What each known term of `query` adds to the document's scores, the greatest first; their sums.

        Raises:
            DataError: the index has no such document.
        """
        parts = self.postings.contributions(self.query_terms(query), self.number(doc_id))
        named = [TermContribution(self.postings.vocabulary[number], b, t) for number, b, t in parts]
        return sorted(named, key=lambda part: (-part.bm25, -part.tfidf, part.term))

    def _read_group(self, group: int) -> list[Passage]:
        with self._lock:  # one reader at a time: an open Parquet file keeps its place
            return records_of(Passage, self._table.read_row_group(group))

    def _find(self, doc_id: str) -> int | None:
        return self._ids.find(doc_id, self._id_order)

    def number(self, doc_id: str) -> int:
        """The document's number in index order, from 0.

        Raises:
            DataError: the index has no such document.
        """
        number = self._find(doc_id)
        if number is None:
            raise DataError(f"{self.folder}: no document {doc_id!r}", "use a doc_id that a search returned")
        return number


def _content_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files written so far."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
