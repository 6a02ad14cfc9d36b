"""BM25: what one term of the query adds to a document's score.

In: term frequencies, document frequencies and lengths. Out: float64 weights, in four variants. `okapi`,
`plus` and `l` equal the package rank-bm25 (its BM25Okapi, BM25Plus and BM25L), `lucene` equals Lucene 8 and later.

Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; the variants:
Kamphuis et al. 2020, "Which BM25 Do You Mean?".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragray.config import Bm25Config

Floats = NDArray[np.float64]

EPSILON = 0.25  # okapi: a negative idf becomes this share of the mean idf, as in rank-bm25
DELTA = {"plus": 1.0, "l": 0.5}  # lower bounds, as in rank-bm25


def idf(settings: Bm25Config, documents: int, frequencies: NDArray[np.int64]) -> Floats:
    """Inverse document frequency.

    Args:
        settings: names the variant.
        documents: how many documents there are.
        frequencies: documents that hold each term, [terms].
    """
    n, df = float(documents), frequencies.astype(np.float64)
    if settings.variant == "lucene":
        return np.log((n + 1.0) / (df + 0.5))  # = ln(1 + (n - df + 0.5) / (df + 0.5))
    if settings.variant == "plus":
        return np.log((n + 1.0) / df)
    if settings.variant == "l":
        return np.log((n + 1.0) / (df + 0.5))
    plain: Floats = np.log(n - df + 0.5) - np.log(df + 0.5)
    if len(plain):
        plain[plain < 0] = EPSILON * plain.mean()
    return plain


def weights(settings: Bm25Config, idf_of: Floats, tf: Floats, length: Floats, mean_length: float) -> Floats:
    """What each posting adds to the score, for a term that the query holds once.

    Args:
        settings: variant, k1 and b.
        idf_of: inverse document frequency of each posting's term, [postings].
        tf: occurrences of the term in the document, at least 1, [postings].
        length: terms of the document, [postings].
        mean_length: mean over all documents.
    """
    k1, b = settings.k1, settings.b
    norm = 1 - b + b * length / mean_length
    if settings.variant == "lucene":
        return idf_of * tf / (tf + k1 * norm)
    if settings.variant == "l":
        raised = tf / norm + DELTA["l"]
        return idf_of * tf * (k1 + 1) * raised / (k1 + raised)  # times tf, as rank-bm25 has it
    return idf_of * tf * (k1 + 1) / (tf + k1 * norm)


def floor(settings: Bm25Config, idf_of: Floats) -> Floats:
    """What each term adds to every document, holding it or not: idf times delta for `plus`, else nothing."""
    return idf_of * DELTA["plus"] if settings.variant == "plus" else np.zeros_like(idf_of)
