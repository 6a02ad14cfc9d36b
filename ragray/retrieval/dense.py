"""The passages nearest to a query by embeddings: exact search over memory-mapped vectors.

In: an opened index's vectors and queries. Out: for each query the documents with the greatest inner products, which are
cosines because all vectors have length 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragray.config import DenseConfig
from ragray.errors import ArtifactError
from ragray.retrieval.corpus import ranked
from ragray.retrieval.fusion import Ranked
from ragray.retrieval.postings import Postings
from ragray.retrieval.vectors import Encoder, Known, Vectors, encoder_of, known_of, open_vectors

LEAST = -1.0  # a cosine
_ROWS = 8192  # vectors that are multiplied at once
_QUERIES = 16  # that are answered together, where no more than so many cosines are held:
_COSINES = 1 << 26


class Near(NamedTuple):
    """What is near to a query."""

    best: Ranked  # the nearest documents with their cosines
    cosines: Vectors  # [documents], of all


class Dense:
    """The vectors of an opened index; the model is loaded when the first query comes.

    Args:
        settings: names the model.
        recorded: what the index says of it.
        parts: the index's segments.

    Raises:
        ArtifactError: the vectors are not those of the segments' documents.
    """

    def __init__(self, settings: DenseConfig, recorded: Known, parts: Sequence[Postings]) -> None:
        self._settings, self._recorded = settings, recorded
        self._live = live = np.concatenate([part.live for part in parts])
        segments = [part.segment.folder for part in parts]
        self._parts = [open_vectors(folder) for folder in segments]
        shapes = [part.shape[1:] for part in self._parts]
        if known_of(segments) != recorded or sum(map(len, self._parts)) != len(live) or set(shapes) != {recorded[1:]}:
            raise ArtifactError(f"{segments[0].parent}: the vectors are not those of this index", "build it again")

    def encoder(self) -> Encoder:
        """The model that made the vectors.

        Raises:
            ConfigError: see `Encoder`.
            ArtifactError: the folder holds another model now.
        """
        encoder = encoder_of(self._settings.model)
        if encoder.known != self._recorded:
            raise ArtifactError(
                f"{self._settings.model}: not the model that the index was made with "
                f"(SHA-256 {encoder.known.model[:12]}, recorded {self._recorded.model[:12]})",
                "put that model back, or build the index again",
            )
        return encoder

    def search_each(
        self, queries: Sequence[str], depth: int | None, absent: Sequence[NDArray[np.int64]] | None
    ) -> Iterator[Near]:
        """For each query, the `depth` nearest documents with their cosines, equal ones in document order; and the
        cosines of all documents, float32 [documents]. A blank query is near to nothing.

        Args:
            queries: texts.
            depth: how many at most; None: all.
            absent: for each query: documents to pass over.
        """
        at_once = max(1, min(_QUERIES, _COSINES // max(len(self._live), 1)))
        for begin in range(0, len(queries), at_once):
            group = queries[begin : begin + at_once]
            asked = [bool(query.strip()) for query in group]
            cosines = np.zeros((len(group), len(self._live)), np.float32)
            if any(asked):
                self._multiply(self.encoder().queries(group), cosines)
            for place, row in enumerate(cosines):
                usable = self._live & asked[place]
                if absent is not None:
                    usable[absent[begin + place]] = False
                scores = row.astype(np.float64)
                documents = ranked(scores, np.flatnonzero(usable), len(row) if depth is None else depth)
                yield Near((documents, scores[documents]), row)

    def _multiply(self, queries: Vectors, cosines: Vectors) -> None:
        """Write to `cosines`, float32 [queries, documents], those of all documents."""
        start = 0
        for vectors in self._parts:
            for begin in range(0, len(vectors), _ROWS):
                rows = vectors[begin : begin + _ROWS].astype(np.float32, copy=False)
                np.matmul(queries, rows.T, out=cosines[:, start : start + len(rows)])
                start += len(rows)
