"""The hybrid index: BM25 and TF-IDF over the same postings and, where it has them, embeddings; fused to one list.

In: passages. Out: a folder (`build_index`), and `HybridIndex.open`, which memory-maps it, searches it and
explains its answers. The folder records the analyzer and all settings: the query side asks the index, never the user.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ragray.config import RetrievalConfig
from ragray.errors import ArtifactError, DataError
from ragray.retrieval import feedback
from ragray.retrieval.analyzer import check_analyzer
from ragray.retrieval.corpus import Corpus
from ragray.retrieval.dense import Dense
from ragray.retrieval.found import found_each
from ragray.retrieval.fusion import Floats, Found, Fused, fuse
from ragray.retrieval.postings import Postings, QueryTerms, Ranked
from ragray.retrieval.prior import PRIOR, Prior, Shares, kept_prior, reranked
from ragray.retrieval.reranker import reranker_of
from ragray.retrieval.segment import Ints, Segment, mapped
from ragray.retrieval.vectors import Known
from ragray.retrieval.writing import DESCRIPTION, FORMAT_VERSION
from ragray.schema import Passage

CURRENT = "CURRENT"  # in the folder of an index that changes, see `store`
MAX_QUERY_CHARS, MAX_QUERY_TERMS = 32_768, 1024  # a longer query is cut here
_REBUILD = "build the index again: remove its folder, then `ragray index --config FILE`"


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found. Ranks count from 1; None where it is not in that list's fused depth.

    With feedback, ranks and the fused score are of the second query; the scores of BM25 and TF-IDF are always of the
    query as it was asked.
    """

    doc_id: str
    rank: int
    score: float  # fused, see `fusion`, with the prior's part
    prior: float  # the part of `score` that a learned prior gave, see `prior`; 0 without one
    bm25_rank: int | None
    bm25_score: float
    tfidf_rank: int | None
    tfidf_score: float
    dense_rank: int | None = None
    dense_score: float | None = None  # the cosine of embeddings; None where the index has none
    rerank_score: float | None = None  # by which the first hits are ordered where the index has a reranker


@dataclass(frozen=True, slots=True)
class TermContribution:
    """What one term of the query adds to a document's two scores."""

    term: str
    bm25: float
    tfidf: float


def version_folder(folder: Path) -> Path:
    """The folder of the current version of an index that changes; any other folder as it is.

    Raises:
        ArtifactError: the number of the current version cannot be read.
    """
    current = folder / CURRENT
    try:
        return folder / "versions" / f"{int(current.read_text()):08d}" if current.exists() else folder
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{current}: not a version: {error}", "run `ragray live roll-back`") from None


def described(folder: Path) -> dict[str, Any]:
    """The description of the index in `folder`.

    Raises:
        ArtifactError: there is none, it is damaged, or of another format.
    """
    with _explained(folder):
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = description["format_version"]
    if version != FORMAT_VERSION:
        raise ArtifactError(f"{folder}: index format {version}, this ragray reads {FORMAT_VERSION}", _REBUILD)
    return description


def open_corpus(folder: Path, description: Mapping[str, Any], segments: Sequence[int] | None = None) -> Corpus:
    """Open the segments of an index, or some of them; scores stay those of the whole corpus.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    with _explained(folder):
        settings, corpus = RetrievalConfig.model_validate(description["settings"]), description["corpus"]
        held = description["segments"]
        starts = np.cumsum([0, *(numbers["documents"] for numbers in held)]).tolist()
        places = range(len(held)) if segments is None else segments
        segments_of = {place: Segment(folder / held[place]["path"]) for place in places}
        parts = [
            Postings(segment, folder / str(place), settings, corpus, held[place], len(held) == 1)
            for place, segment in segments_of.items()
        ]
        return Corpus(parts, [starts[place] for place in places], mapped(folder, "frequencies"), corpus, settings)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Errors of reading an index as an `ArtifactError` that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder}: no index here: {error.filename or error}", _REBUILD) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: the index is damaged: {error}", _REBUILD) from None


class HybridIndex:
    """An opened index: read-only, memory-mapped, safe to share between threads."""

    def __init__(self, folder: Path, description: Mapping[str, Any], corpus: Corpus) -> None:
        self.folder = folder
        self.settings = RetrievalConfig.model_validate(description["settings"])
        self.digest: str = description["digest"]
        self.analyzer = check_analyzer(description["analyzer"], str(folder))
        made_with = self.analyzer.settings, description["title_weight"]
        if made_with != (self.settings.analyzer, self.settings.title_weight):
            raise ArtifactError(f"{folder}: its terms were made with other settings than it names", _REBUILD)
        self.corpus = corpus
        self.dense: Dense | None = None
        self.reranker: str = description["reranker"] if self.settings.reranker else ""  # the digest of its model
        self._shares: Shares | None = mapped(folder, PRIOR) if self.settings.prior else None
        documents = sum(segment["documents"] for segment in description["segments"])
        if self._shares is not None and self._shares.shape != (documents,):
            raise ArtifactError(f"{folder}: {PRIOR}.npy is not of its {documents:,} documents", _REBUILD)

    @classmethod
    def open(cls, folder: Path) -> HybridIndex:
        """Open the index in `folder`, or the current version of one that changes.

        Raises:
            ArtifactError: there is none, it is damaged, or another analyzer or format made it.
            ConfigError: a package that its analyzer needs is not installed.
        """
        place = version_folder(Path(folder))
        description = described(place)
        with _explained(place):
            opened = cls(place, description, open_corpus(place, description))
            if opened.settings.dense is not None:
                opened.dense = Dense(opened.settings.dense, Known(**description["dense"]), opened.corpus.parts)
        opened.search("", 1)  # loads compiled code now, not when the first question comes
        opened.corpus.parts[0].load()
        return opened

    def __len__(self) -> int:
        return len(self.corpus)

    @property
    def runs_models(self) -> bool:
        """Whether a search runs a neural model, which takes much longer than the rest of it."""
        return self.settings.dense is not None or self.settings.reranker is not None

    @property
    def fused_depth(self) -> int | None:
        """Ranks of each list that are fused; None: all."""
        return None if self.settings.fusion_depth == "all" else self.settings.fusion_depth

    def search(self, query: str, top_k: int, exclude: Collection[str] = ()) -> list[Hit]:
        """The best `top_k` documents for `query`, fused from all lists to `settings.fusion_depth` each.

        Args:
            query: any text; without a term that the index knows, nothing is found, unless it has embeddings.
            top_k: how many at most; not more than the lists hold together.
            exclude: ids of documents that are treated as absent from the lists.
        """
        return self.search_batch([query], top_k, [exclude])[0]

    def search_batch(
        self, queries: Sequence[str], top_k: int, exclude: Sequence[Collection[str]] = ()
    ) -> list[list[Hit]]:
        """`search` for each query; `exclude` is empty, or has one collection for each query."""
        terms = [self.terms(query) for query in queries]
        asked = self.corpus.queries(terms)
        absent = [self._numbers(ids) for ids in exclude] if exclude else None
        lists = list(self.corpus.search_each(asked, self.fused_depth, absent))
        cut = [query[:MAX_QUERY_CHARS] for query in queries]
        near = None if self.dense is None else self.dense.search_each(cut, self.fused_depth, absent)
        second = asked
        if self.settings.feedback is not None:
            counts = feedback.expansions(self, terms, lists, asked)
            second = feedback.reweighted(self.corpus.queries([list(of) for of in counts]), counts, self)
            lists = list(self.corpus.search_each(second, self.fused_depth, absent))
        best = max(top_k, self.settings.reranker.depth) if self.settings.reranker and top_k > 0 else top_k
        fused = [self._fused(one, best) for one in found_each(self.corpus, second, lists, near)]
        if self.settings.feedback is not None:
            scores = self.corpus.scores_of_each(asked, [one.documents for one, _ in fused])
            fused = [(one.with_words(of), priors) for (one, priors), of in zip(fused, scores, strict=True)]
        hits = self._hits(fused)
        return [self._reranked(query, of_query)[: max(top_k, 0)] for query, of_query in zip(cut, hits, strict=True)]

    def lists(self, queries: Sequence[str], depth: int) -> Iterator[tuple[Ranked, Ranked]]:
        """The `depth` best documents of each query by BM25 and by cosine, as numbers in index order; not fused."""
        return self.corpus.search_each(self.corpus.queries([self.terms(query) for query in queries]), depth)

    def _fused(self, found: Found, count: int) -> tuple[Fused, list[float]]:
        """The best `count` documents, and the prior's part of each score."""
        fused, priors = self._with_prior(fuse(self.settings, found))
        return fused.first(count), priors[: max(count, 0)].tolist()

    def _hits(self, fused: Sequence[tuple[Fused, list[float]]]) -> Iterator[list[Hit]]:
        """What is shown of each query's list."""
        ids = iter(self.corpus.doc_ids([number for one, _ in fused for number in one.documents.tolist()]))
        for one, priors in fused:
            pairs = zip(one.ranks.tolist(), one.of_lists.tolist(), strict=True)
            of_lists = itertools.chain.from_iterable(([k or None for k in ranks], scores) for ranks, scores in pairs)
            rows = zip(one.scores.tolist(), priors, *of_lists, strict=True)
            yield [Hit(next(ids), rank, *row) for rank, row in enumerate(rows, 1)]

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        """The first hits in the order of the reranker's scores, equal ones in that of fusion, before the others."""
        settings = self.settings.reranker
        if settings is None or not hits:
            return hits
        first = hits[: settings.depth]
        scores = reranker_of(settings, self.reranker).scores(query, [self.passage(hit.doc_id) for hit in first])
        order = sorted(range(len(first)), key=lambda place: -scores[place])
        ordered = [replace(first[place], rank=k, rerank_score=scores[place]) for k, place in enumerate(order, 1)]
        return ordered + hits[settings.depth :]

    def _with_prior(self, fused: Fused) -> tuple[Fused, Floats]:
        """The list re-ranked by the prior, and its part of each score."""
        if self._shares is None or self.settings.prior is None:
            return fused, np.zeros(len(fused.documents))
        return reranked(fused, self._shares, self.settings.prior.weight)

    @cached_property
    def prior(self) -> Prior | None:
        """The prior that the index was built with.

        Raises:
            DataError: its file is damaged.
        """
        return None if self.settings.prior is None else kept_prior(self.folder)

    def _numbers(self, doc_ids: Collection[str]) -> Ints:
        """The numbers of documents, ascending; ids that the index does not hold are passed over."""
        return np.array(sorted({n for n in map(self.corpus.number, doc_ids) if n is not None}), np.int64)

    def terms(self, query: str) -> list[str]:
        """The first 1,024 terms of a query, as the index's analyzer makes them."""
        return self.analyzer.terms(query[:MAX_QUERY_CHARS])[:MAX_QUERY_TERMS]

    def query_terms(self, query: str) -> QueryTerms:
        """The query's terms that the index knows, with their weights."""
        return self.corpus.query(self.terms(query))

    def passage(self, doc_id: str) -> Passage:
        """The passage with this id.

        Raises:
            DataError: the index has no such document.
        """
        return self.passage_at(self.number(doc_id))

    def passage_at(self, number: int) -> Passage:
        """The passage with this number in index order, from 0."""
        return self.corpus.passage(number)

    def explain(self, query: str, doc_id: str) -> list[TermContribution]:
        """What each known term of `query` adds to the document's scores, the greatest first; their sums.

        Raises:
            DataError: the index has no such document.
        """
        return self.contributions(self.query_terms(query), doc_id)

    def contributions(self, query: QueryTerms, doc_id: str) -> list[TermContribution]:
        """`explain` for a query that was analyzed before."""
        parts = self.corpus.contributions(query, self.number(doc_id))
        named = [TermContribution(str(self.corpus.term_at(place)), b, t) for place, b, t in parts]
        return sorted(named, key=lambda part: (-part.bm25, -part.tfidf, part.term))

    def number(self, doc_id: str) -> int:
        """The document's number in index order, from 0.

        Raises:
            DataError: the index has no such document.
        """
        number = self.corpus.number(doc_id)
        if number is None:
            raise DataError(f"{self.folder}: no document {doc_id!r}", "use a doc_id that a search returned")
        return number
