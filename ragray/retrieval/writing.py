"""Writing an index: its segments, and the version that describes them.

In: passages and settings. Out: a folder that `index.HybridIndex` opens, with the same bytes for the same passages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ragray.config import RetrievalConfig
from ragray.errors import DataError
from ragray.manifest import content_digest, file_digest, folder_digest
from ragray.retrieval.analyzer import analyzer_of
from ragray.retrieval.prior import Prior, read_prior, write_shares
from ragray.retrieval.reranker import digest_of
from ragray.retrieval.segment import Flags, Segment, write_segment
from ragray.retrieval.statistics import write_statistics
from ragray.retrieval.vectors import known_of
from ragray.schema import Passage, table_of

FORMAT_VERSION = 3
DESCRIPTION = "index.json"
SEGMENT = "segment"  # folder of the only segment of an index that was built at once


def build_index(
    passages: Sequence[Passage] | pa.Table, settings: RetrievalConfig, folder: Path, prior: Prior | None = None
) -> dict[str, int]:
    """Write an index of `passages` in their order; returns counts of documents, terms and segments.

    Args:
        passages: what is indexed.
        settings: of the index.
        folder: where to.
        prior: that of `settings.prior`, where it was read before; by default its file is read.

    Raises:
        DataError: there are no passages, two have the same id, or the prior's file cannot be used.
    """
    table = passages if isinstance(passages, pa.Table) else table_of(Passage, passages)
    segment = folder / SEGMENT
    segment.mkdir(exist_ok=True)
    write_passages(table, settings, segment)
    return write_version([(Segment(segment), np.ones(len(table), np.bool_))], [SEGMENT], settings, folder, prior)


def write_passages(passages: pa.Table, settings: RetrievalConfig, folder: Path) -> None:
    """Write the segment of an index with these settings.

    Args:
        passages: with the schema of `Passage`.
        settings: of the index.
        folder: an empty folder.

    Raises:
        DataError: two passages have the same id, or one repeats a term too often.
        ConfigError: the analyzer's words or synonyms contradict each other, a package is missing, or the model of
            embeddings cannot be loaded.
    """
    analyzer = analyzer_of(settings.analyzer)
    write_segment(passages, analyzer.terms, folder, settings.title_weight, analyzer.joins_words, settings.dense)


def write_version(
    parts: Sequence[tuple[Segment, Flags]], paths: Sequence[str], settings: RetrievalConfig, folder: Path,
    prior: Prior | None = None, reranker: str = "",
) -> dict[str, int]:  # fmt: skip
    """Write what makes segments an index: their statistics and, last, its description; returns the counts.

    Args:
        parts: segments, and which of their documents are live, bool [documents].
        paths: of the segments, relative to `folder`.
        settings: of the index.
        folder: where to.
        prior: see `build_index`.
        reranker: the digest of its model, where it was recorded before; by default its folder is read.

    Raises:
        DataError: no document is live, or the prior's file cannot be used.
        ConfigError: the folder of the reranker holds no model that may be loaded.
    """
    if not any(live.any() for _, live in parts):
        raise DataError("there is nothing to index: no passages", "check `data.faq` and `data.documents`")
    if settings.prior is not None:
        write_shares(read_prior(settings.prior) if prior is None else prior, [segment for segment, _ in parts], folder)
    corpus, numbers = write_statistics(parts, settings, folder)
    counts = {"documents": corpus["documents"], "terms": corpus["terms"], "segments": len(parts)}
    known = {
        "format_version": FORMAT_VERSION,
        "analyzer": analyzer_of(settings.analyzer).describe(),
        "title_weight": settings.title_weight,
        "settings": settings.model_dump(),
        "corpus": corpus,
        "counts": counts,
    }
    if settings.dense is not None:
        known["dense"] = known_of([segment.folder for segment, _ in parts])._asdict()
    if settings.reranker is not None:
        known["reranker"] = reranker or digest_of(Path(settings.reranker.model))
    named = [
        {"path": path, "documents": len(segment), **of_segment}
        for path, (segment, _), of_segment in zip(paths, parts, numbers, strict=True)
    ]
    digest = _content_digest(folder, [segment for segment, _ in parts], known)
    description = {**known, "segments": named, "digest": digest}
    text = json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return counts


def _content_digest(folder: Path, segments: Sequence[Segment], known: Mapping[str, Any]) -> str:
    """SHA-256 over the segments, the arrays of the statistics and what is known of the index."""
    digests = {f"segment {place}": segment.digest for place, segment in enumerate(segments)}
    digests |= {f"statistics {place}": folder_digest(folder / str(place)) for place in range(len(segments))}
    digests["frequencies"] = file_digest(folder / "frequencies.npy")
    return content_digest({**digests, "known": json.dumps(known, sort_keys=True)})
