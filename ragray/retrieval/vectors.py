"""Embeddings: passages and queries as vectors of length 1, and the files of a segment that hold them.

In: a sentence-transformers model in a local folder, texts. Out: vectors, and for a segment

    vectors.npy    float32 or float16  [documents, dimensions]
    vectors.json   SHA-256 of the model, dimensions
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ragray.config import DenseConfig
from ragray.errors import ArtifactError, EngineError
from ragray.retrieval.local_models import checked_model, load_model

Vectors = NDArray[np.float32]

FILE, DESCRIPTION = "vectors.npy", "vectors.json"
_QUERIES = 32  # that are embedded together
_ROWS = 4096  # passages, or vectors, that are held in memory at once


class Known(NamedTuple):
    """What an index records of its embeddings."""

    model: str  # digest of the model's folder
    dimensions: int


class Encoder:
    """A loaded model; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            ConfigError: sentence-transformers is not installed, or this is no model that may be loaded.
        """
        digest = checked_model(folder, "modules.json")
        self._model = load_model(folder, "SentenceTransformer")
        self.known = Known(digest, int(self._model.get_embedding_dimension()))
        self._lock = threading.Lock()

    def passages(self, table: pa.Table, batch_size: int) -> Vectors:
        """float32 [passages, dimensions], each of length 1; zeros for an empty passage.

        Args:
            table: with the schema of `Passage`.
            batch_size: passages embedded at once.
        """
        pairs = zip(table.column("title").to_pylist(), table.column("text").to_pylist(), strict=True)
        return self._encode(
            self._model.encode_document, [f"{title}\n{text}".strip() for title, text in pairs], batch_size
        )

    def queries(self, queries: Sequence[str]) -> Vectors:
        """float32 [queries, dimensions], each of length 1; zeros for a blank query."""
        return self._encode(self._model.encode_query, list(queries), _QUERIES)

    def _encode(self, encode: Any, texts: list[str], batch_size: int) -> Vectors:
        found = np.zeros((len(texts), self.known.dimensions), np.float32)
        if places := [place for place, text in enumerate(texts) if text.strip()]:
            with self._lock:
                found[places] = encode(
                    [texts[place] for place in places], batch_size=batch_size, normalize_embeddings=True,
                    show_progress_bar=False,
                )  # fmt: skip
        if not np.isfinite(found).all():
            raise EngineError("the embedding model gives values that are no numbers", "use another model")
        return found


@lru_cache(maxsize=2)
def encoder_of(model: str) -> Encoder:
    """The encoder of a model's folder, loaded once in a process.

    Raises:
        ConfigError: see `Encoder`.
    """
    return Encoder(Path(model))


def write_vectors(table: pa.Table, settings: DenseConfig, folder: Path) -> None:
    """Write the vectors of a segment's passages, some thousand at a time.

    Raises:
        ConfigError: see `Encoder`.
        EngineError: the model gives values that are no numbers.
    """
    encoder = encoder_of(settings.model)
    parts = (encoder.passages(table.slice(begin, _ROWS), settings.batch_size) for begin in range(0, len(table), _ROWS))
    _write(parts, len(table), np.dtype(settings.precision), encoder.known, folder)


def merge_vectors(folders: Sequence[Path], live: Sequence[NDArray[np.bool_]], target: Path) -> None:
    """Write the vectors of the live documents of several segments, in their order; nothing where none has any.

    Raises:
        ArtifactError: the segments have vectors of different models.
    """
    if not any((folder / FILE).exists() for folder in folders):
        return
    known, vectors = known_of(folders), [open_vectors(folder) for folder in folders]
    parts = (
        rows[begin : begin + _ROWS][kept[begin : begin + _ROWS]]
        for rows, kept in zip(vectors, live, strict=True)
        for begin in range(0, len(rows), _ROWS)
    )
    _write(parts, sum(int(kept.sum()) for kept in live), vectors[0].dtype, known, target)


def open_vectors(folder: Path) -> NDArray[Any]:
    """[documents, dimensions], memory-mapped."""
    return np.asarray(np.load(folder / FILE, mmap_mode="r", allow_pickle=False))


def known_of(folders: Sequence[Path]) -> Known:
    """What the segments of an index record, which must be the same.

    Raises:
        ArtifactError: they do not.
    """
    found = {Known(**json.loads((folder / DESCRIPTION).read_text("utf-8"))) for folder in folders}
    if len(found) != 1:
        raise ArtifactError(f"{folders[0].parent}: segments have vectors of different models", "build the index again")
    return found.pop()


def _write(parts: Iterable[NDArray[Any]], count: int, dtype: np.dtype[Any], known: Known, folder: Path) -> None:
    """Write what `np.save` would write of all parts together."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, known.dimensions)}
    with (folder / FILE).open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for rows in parts:
            stream.write(rows.astype(dtype, copy=False).tobytes())
    (folder / DESCRIPTION).write_text(json.dumps(known._asdict()) + "\n", encoding="utf-8")
