"""What a walk over postings needs to know besides them: of each document, and of how scores are made.

In: settings, lengths and norms of documents. Out: arrays of the documents' factors, and the numbers of a model. All of
it follows from the statistics of the corpus and can be made anew when they change.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragray.config import RetrievalConfig
from ragray.retrieval import bm25

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLASSES = 64  # of documents by length
COUNTS = 32  # occurrences from which on a ratio is not looked up

_HIGHEST = (1 << 16) - 1


class Documents(NamedTuple):
    """What is known of each document, [documents]."""

    lengths: NDArray[np.uint32]  # terms
    norms: NDArray[np.float32]  # of the TF-IDF vector
    factors: NDArray[np.uint32]  # below: what a term that occurs once adds to BM25; above: one over the norm; 16 bits
    classes: NDArray[np.uint8]  # by length, see `Model.edges`


class Model(NamedTuple):
    """How scores are made."""

    variant: int  # of BM25, in `bm25.VARIANTS`
    k1: float
    b: float
    mean_length: float
    sublinear: bool
    bm25_unit: float  # of a document's factor, so that the highest is 65,535
    tfidf_unit: float
    edges: Floats  # of the classes of documents by the norm of their length, [CLASSES + 1]
    ratios: NDArray[np.float32]  # how many times what one occurrence adds several add at most, [COUNTS, CLASSES]
    ratio_of_count: float  # a ratio is at most that times the count,
    largest_ratio: float  # and at most this;
    loose: float  # it is at most so many times too high
    ceiling: float  # what a term with a weight of 1 adds at most


def document_factors(
    settings: RetrievalConfig, lengths: Ints, norms: NDArray[np.float32], mean_length: float
) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
    """(arrays that `Documents` has besides lengths and norms, numbers for `model_of`).

    Args:
        settings: of both models.
        lengths: int64 [documents], terms.
        norms: float32 [documents], of the TF-IDF vectors, above 0.
        mean_length: over all documents, above 0.
    """
    variant = bm25.VARIANTS.index(settings.bm25.variant)
    length_norms = np.maximum(bm25.length_norm(settings.bm25.b, lengths.astype(np.float64), mean_length), 1e-9)
    once = bm25.saturation(variant, settings.bm25.k1, np.ones(len(lengths)), length_norms)
    inverse = 1.0 / norms.astype(np.float64)
    edges: Floats = np.geomspace(length_norms.min(), length_norms.max() * (1 + 1e-9), CLASSES + 1)
    classes = np.clip(np.searchsorted(edges, length_norms, "right") - 1, 0, CLASSES - 1)
    units = {"bm25_unit": float(once.max()) / _HIGHEST, "tfidf_unit": float(inverse.max()) / _HIGHEST}
    arrays: dict[str, NDArray[np.generic]] = {
        "factors": _parts(once, units["bm25_unit"]) | _parts(inverse, units["tfidf_unit"]) << np.uint32(16),
        "classes": classes.astype(np.uint8),
    }
    return arrays, {"shortest": float(edges[0]), "longest": float(edges[-1]), **units}


def _parts(values: Floats, unit: float) -> NDArray[np.uint32]:
    """How many units each value is, rounded up; at most 65,535."""
    return np.ceil(values / unit - 1e-6).astype(np.uint32)


def model_of(settings: RetrievalConfig, numbers: dict[str, Any], mean_length: float) -> Model:
    """The model that the settings and the numbers of `document_factors` make."""
    k1, variant = settings.bm25.k1, bm25.VARIANTS.index(settings.bm25.variant)
    edges: Floats = np.geomspace(numbers["shortest"], numbers["longest"], CLASSES + 1)
    counts: Floats = np.arange(COUNTS, dtype=np.float64)[:, None]
    of_count = (k1 + bm25.DELTA_L) / bm25.DELTA_L if settings.bm25.variant == "l" else 1.0
    several = bm25.saturation(variant, k1, np.maximum(counts, 1.0), edges[None, :-1])
    ratios = np.minimum(several / bm25.saturation(variant, k1, np.ones(1), edges[None, 1:]), of_count * counts)
    largest = math.inf if settings.bm25.variant == "l" else 1 + k1 * numbers["longest"]
    return Model(
        variant, k1, settings.bm25.b, mean_length, settings.sublinear_tf, numbers["bm25_unit"],
        numbers["tfidf_unit"], edges, (ratios * (1 + 1e-6)).astype(np.float32), of_count * (1 + 1e-5),
        largest * (1 + 1e-5), float(edges[1] / edges[0]) * (1 + 1e-5),
        {"l": math.inf, "lucene": 1.0}.get(settings.bm25.variant, k1 + 1),
    )  # fmt: skip
