"""A cross-encoder reads a question together with each of the first passages, and orders them anew.

In: a question and passages. Out: a score for each, higher for a better one, to be compared within one question alone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ragray.config import RerankerConfig
from ragray.errors import ArtifactError, ConfigError, EngineError
from ragray.retrieval.local_models import checked_model, load_model
from ragray.schema import Passage

_BATCH = 32
_KIND = "ForSequenceClassification"  # of a model with a head; another would get one of random weights


class Reranker:
    """A loaded model; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            ConfigError: sentence-transformers is not installed, or this is no model that may be loaded, or one
                of several classes.
        """
        self.digest = digest_of(folder)
        _check_kind(folder / "config.json")
        self._model = load_model(folder, "CrossEncoder")
        if self._model.num_labels != 1:
            raise ConfigError(
                f"{folder}: tells {self._model.num_labels} classes apart", "name a cross-encoder with one score"
            )
        self._lock = threading.Lock()

    def scores(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """A score for each passage.

        Raises:
            EngineError: the model gives values that are no numbers.
        """
        pairs = [(query, f"{passage.title}\n{passage.text}".strip()) for passage in passages]
        if not pairs:
            return []
        with self._lock:
            found = self._model.predict(pairs, batch_size=_BATCH, show_progress_bar=False)
        scores = np.asarray(found, np.float64).reshape(len(pairs))
        if not np.isfinite(scores).all():
            raise EngineError("the reranker gives values that are no numbers", "use another model")
        return [float(score) for score in scores]


def _check_kind(config: Path) -> None:
    try:
        kinds = list(json.loads(config.read_text("utf-8"))["architectures"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{config}: damaged: {error}", "name a cross-encoder") from None
    if not any(str(kind).endswith(_KIND) for kind in kinds):
        raise ConfigError(
            f"{config}: {', '.join(map(str, kinds))} is no cross-encoder", f"name one of a class ...{_KIND}"
        )


def digest_of(folder: Path) -> str:
    """SHA-256 of a model that may be loaded.

    Raises:
        ConfigError: it may not.
    """
    return checked_model(folder, "config.json")


@lru_cache(maxsize=2)
def _loaded(model: str) -> Reranker:
    return Reranker(Path(model))


def reranker_of(settings: RerankerConfig, recorded: str) -> Reranker:
    """The reranker of an index, loaded once in a process.

    Args:
        settings: name the model.
        recorded: its digest when the index was made.

    Raises:
        ConfigError: see `Reranker`.
        ArtifactError: the folder holds another model now.
    """
    reranker = _loaded(settings.model)
    if reranker.digest != recorded:
        raise ArtifactError(
            f"{settings.model}: not the reranker that the index was made with "
            f"(SHA-256 {reranker.digest[:12]}, recorded {recorded[:12]})",
            "put that model back, or build the index again",
        )
    return reranker
