"""BM25: what one term of the query adds to a document's score.

In: term frequencies, document frequencies and lengths. Out: float64 weights, in four variants. `okapi`,
`plus` and `l` equal the package rank-bm25 (its BM25Okapi, BM25Plus and BM25L), `lucene` equals Lucene 8 and later.

Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; the variants:
Kamphuis et al. 2020, "Which BM25 Do You Mean?".
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ragray.config import Bm25Config

Floats = NDArray[np.float64]
Values = TypeVar("Values", float, Floats)

VARIANTS = ("okapi", "lucene", "plus", "l")
LUCENE, L = 1, 3  # numbers in `VARIANTS`, for compiled code
EPSILON = 0.25  # okapi: a negative idf becomes this share of the mean idf, as in rank-bm25
DELTA_PLUS, DELTA_L = 1.0, 0.5  # lower bounds, as in rank-bm25


def idf(settings: Bm25Config, documents: int, frequencies: NDArray[np.int64], mean: float) -> Floats:
    """Inverse document frequency.

    Args:
        settings: names the variant.
        documents: how many documents there are.
        frequencies: documents that hold each term, [terms].
        mean: of `plain_idf` over all terms of the corpus, for `okapi`.
    """
    n, df = float(documents), frequencies.astype(np.float64)
    if settings.variant == "lucene":
        return np.log((n + 1.0) / (df + 0.5))  # = ln(1 + (n - df + 0.5) / (df + 0.5))
    if settings.variant == "plus":
        return np.log((n + 1.0) / df)
    if settings.variant == "l":
        return np.log((n + 1.0) / (df + 0.5))
    plain = plain_idf(documents, frequencies)
    plain[plain < 0] = EPSILON * mean
    return plain


def plain_idf(documents: int, frequencies: NDArray[np.int64]) -> Floats:
    """ln((n - df + 0.5) / (df + 0.5)) of each term: negative where more than half of the documents hold it."""
    df = frequencies.astype(np.float64)
    return np.asarray(np.log(documents - df + 0.5) - np.log(df + 0.5), np.float64)


def saturation(variant: int, k1: float, tf: Values, norm: Values) -> Values:
    """What a term adds for a weight of 1; numbers or arrays of them, also in compiled code.

    Args:
        variant: number in `VARIANTS`.
        k1: saturation.
        tf: occurrences of the term in the document, at least 1.
        norm: of the document's length, see `length_norm`.
    """
    if variant == LUCENE:
        return tf / (tf + k1 * norm)
    if variant == L:
        raised = tf / norm + DELTA_L
        return tf * (k1 + 1) * raised / (k1 + raised)  # times tf, as rank-bm25 has it
    return tf * (k1 + 1) / (tf + k1 * norm)


def length_norm(b: float, length: Values, mean_length: float) -> Values:
    """1 for a document of mean length, more for a longer one."""
    return 1 - b + b * length / mean_length


def floor(settings: Bm25Config, idf_of: Floats) -> Floats:
    """What each term adds to every document, holding it or not: idf times delta for `plus`, else nothing."""
    return idf_of * DELTA_PLUS if settings.variant == "plus" else np.zeros_like(idf_of)
