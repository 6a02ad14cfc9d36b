"""A metric of many settings of the retriever, for each query of a test collection.

In: documents, queries, judgements, and settings that share an analyzer and the weight of titles. Out: one value for
each setting and query, equal to what `ragray evaluate retrieval` measures. Texts are cut into terms once; k1 and b
weigh the same postings.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from ragray.config import RetrievalConfig
from ragray.errors import ConfigError
from ragray.evaluation.retrieval import measure
from ragray.evaluation.search_quality import DEPTH, METRICS
from ragray.evaluation.tuning import Retriever, Values
from ragray.retrieval.found import found_each
from ragray.retrieval.fusion import fuse
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.segment import Segment
from ragray.retrieval.writing import SEGMENT, write_passages, write_version


@dataclass(frozen=True, slots=True)
class Judged:
    """Judged queries, and the metric that counts."""

    queries: Mapping[str, str]  # id -> text
    qrels: Mapping[str, Mapping[str, int]]
    metric: str  # of `METRICS`

    @property
    def depth(self) -> int:
        """Documents of a ranking that the metric sees: the number in its name."""
        return int(found[1]) if (found := re.search(r"@(\d+)$", self.metric)) else DEPTH


def check_metric(name: str) -> str:
    """The name of a known metric.

    Raises:
        ConfigError: there is no such metric.
    """
    if name not in METRICS:
        raise ConfigError(f"--metric {name}: no such metric", f"write one of {', '.join(METRICS)}")
    return name


def values_of(documents: pa.Table, judged: Judged, settings: Sequence[RetrievalConfig], retriever: Retriever) -> Values:
    """The metric of each setting for each query, float64 [settings, queries].

    Args:
        documents: with the schema of `Passage`.
        judged: the queries.
        settings: with the same analyzer and weight of titles.
        retriever: whose ranking is measured.

    Raises:
        ValueError: the settings have several of them.
    """
    if len({(one.analyzer, one.title_weight) for one in settings}) != 1:
        raise ValueError("settings that share a segment have one analyzer and one weight of titles")
    alike: defaultdict[RetrievalConfig, list[int]] = defaultdict(list)  # settings whose two rankings are the same
    for place, one in enumerate(settings):
        alike[of_lists(one)].append(place)
    values = np.zeros((len(settings), len(judged.queries)))
    with TemporaryDirectory(prefix="ragray-tune-") as name:
        folder = Path(name) / SEGMENT
        folder.mkdir()
        write_passages(documents, of_lists(settings[0]), folder)  # without embeddings, which are not searched
        segment = Segment(folder)
        for number, (ranked_by, places) in enumerate(alike.items()):
            version = Path(name) / str(number)
            version.mkdir()
            live = np.ones(len(segment), np.bool_)
            write_version([(segment, live)], [f"../{SEGMENT}"], ranked_by, version)
            index = HybridIndex.open(version)
            for place, rankings in zip(places, _rankings(index, judged, settings, places, retriever), strict=True):
                by_query = measure(rankings, judged.qrels, {judged.metric: METRICS[judged.metric]})[judged.metric]
                values[place] = [by_query[query] for query in judged.queries]
    return values


def of_lists(settings: RetrievalConfig) -> RetrievalConfig:
    """The settings with those of the fusion at their defaults, but for its depth."""
    fields = ("analyzer", "title_weight", "bm25", "sublinear_tf", "fusion_depth")
    return RetrievalConfig(**{field: getattr(settings, field) for field in fields})


def _rankings(
    index: HybridIndex, judged: Judged, settings: Sequence[RetrievalConfig], places: Sequence[int], retriever: Retriever
) -> list[dict[str, list[str]]]:
    """For each of some settings, whose two rankings `index` makes: query -> documents, best first."""
    asked = index.corpus.queries([index.terms(text) for text in judged.queries.values()])
    name = index.corpus.doc_id
    if retriever == "bm25":
        lists = index.corpus.search_each(asked, judged.depth)
        ranked = {q: [name(n) for n in bm25[0].tolist()] for q, (bm25, _) in zip(judged.queries, lists, strict=True)}
        return [ranked] * len(places)
    found = found_each(index.corpus, asked, index.corpus.search_each(asked, index.fused_depth))
    return [
        {
            query: [name(n) for n in fuse(settings[place], one).first(judged.depth).documents.tolist()]
            for query, one in zip(judged.queries, found, strict=True)
        }
        for place in places
    ]
