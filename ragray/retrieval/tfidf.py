"""TF-IDF: the cosine between query and document.

In: term frequencies and document frequencies. Out: float64 weights equal to those of scikit-learn's
TfidfVectorizer with smooth_idf=True and norm="l2", with or without sublinear_tf.

Source: Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def idf(documents: int, frequencies: NDArray[np.int64]) -> Floats:
    """ln((1 + documents) / (1 + df)) + 1 for each term: never below 1, so every shared term counts."""
    return np.log((1.0 + documents) / (1.0 + frequencies.astype(np.float64))) + 1.0


def raw_weights(tf: Floats, idf_of: Floats, sublinear: bool) -> Floats:
    """Weights before normalization: those of tf times idf."""
    return tf_weights(tf, sublinear) * idf_of


def tf_weights(tf: Floats, sublinear: bool) -> Floats:
    """tf, or 1 + ln(tf); tf is at least 1."""
    return np.asarray(1.0 + np.log(tf), np.float64) if sublinear else tf


def norms(raw: Floats, document: NDArray[np.int64], documents: int) -> Floats:
    """Euclidean length of each document's vector, [documents]; 1 for an empty one.

    Args:
        raw: raw weights, [postings].
        document: number of each posting's document, [postings].
        documents: how many there are.
    """
    squares = np.bincount(document, weights=raw * raw, minlength=documents)
    return np.sqrt(np.where(squares > 0.0, squares, 1.0))
