"""What scores need to know of all segments together, made anew whenever documents come or go.

In: segments, and which of their documents are live. Out: statistics of the whole corpus, and for each segment arrays
that follow from them. So documents score as they would in an index that was made of the live ones alone.

    frequencies.npy    uint32  [terms]      live documents that hold each term of any segment
    <segment>/places.npy   uint32  [terms]      of the segment's terms among all; absent where it is the only segment
    <segment>/gone.npy     int64   [documents]  numbers of documents that are no longer live, ascending
    <segment>/norms.npy    float32 [documents]  Euclidean length of the TF-IDF vector; infinite where it is gone
    <segment>/factors.npy, <segment>/classes.npy   see `scoring.Documents`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragray.config import RetrievalConfig
from ragray.retrieval import bm25, tfidf
from ragray.retrieval.chunks import MOST
from ragray.retrieval.scoring import document_factors
from ragray.retrieval.segment import Flags, Ints, Segment, joined_terms


def write_statistics(
    parts: Sequence[tuple[Segment, Flags]], settings: RetrievalConfig, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write the arrays; returns (numbers of the corpus, numbers of each segment).

    Args:
        parts: segments, and which of their documents are live, bool [documents].
        settings: of both models.
        folder: where the arrays go, those of each segment to a folder of its own, named by its place.
    """
    documents = sum(int(live.sum()) for _, live in parts)
    terms = sum(int(segment.lengths[live].sum(dtype=np.int64)) for segment, live in parts)
    frequencies, places = _frequencies(parts)
    np.save(folder / "frequencies.npy", frequencies.astype(np.uint32))
    plain = bm25.plain_idf(documents, frequencies[frequencies > 0])
    corpus = {
        "documents": documents,
        "terms": int((frequencies > 0).sum()),
        "mean_length": max(terms / documents if documents else 0.0, 1e-9),
        "mean_idf": float(plain.mean()) if len(plain) else 0.0,
    }
    idf = tfidf.idf(documents, frequencies)
    tf_weights = tfidf.tf_weights(np.maximum(np.arange(MOST + 1, dtype=np.float64), 1.0), settings.sublinear_tf)
    numbers = []
    for place, ((segment, live), of_terms) in enumerate(zip(parts, places, strict=True)):
        target = folder / str(place)
        target.mkdir()
        norms = segment.norms(idf if of_terms is None else idf[of_terms], tf_weights).astype(np.float32)
        arrays, units = document_factors(settings, segment.lengths.astype(np.int64), norms, corpus["mean_length"])
        gone = np.flatnonzero(~live)
        norms[gone], arrays["factors"][gone] = np.inf, 0  # neither score makes them candidates
        arrays |= {"norms": norms, "gone": gone}
        for name, array in arrays.items():
            np.save(target / f"{name}.npy", array)
        if of_terms is not None:
            np.save(target / "places.npy", of_terms.astype(np.uint32))
        numbers.append(units)
    return corpus, numbers


def _frequencies(parts: Sequence[tuple[Segment, Flags]]) -> tuple[Ints, list[Ints | None]]:
    """(of all terms, places of each segment's terms among them; None where it is the only one)."""
    if len(parts) == 1:
        ((segment, live),) = parts
        return segment.frequencies(live), [None]
    _, places, total = joined_terms(parts)
    return total, list(places)
