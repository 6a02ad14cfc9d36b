"""An index artifact of forty passages, in one segment or several."""

from __future__ import annotations

from pathlib import Path

from ragray.artifact import Artifact, Draft, Store
from ragray.config import RetrievalConfig
from ragray.distributed.index import _build_segments
from ragray.retrieval.writing import build_index
from ragray.schema import Passage

TEXTS = [f"word{n % 5} word{n % 11} text {n}" for n in range(40)]
PASSAGES = [Passage(f"d{n}", f"Title {n % 7}", text, "en", "x", "faq") for n, text in enumerate(TEXTS)]


def index_of(store: Path, segments: int | None) -> Artifact:
    settings = RetrievalConfig(segments=segments)

    def fill(draft: Draft) -> None:
        (_build_segments if segments else build_index)(PASSAGES, settings, draft.folder)

    name = f"segments{segments}".ljust(64, "0")
    with Store(str(store)).draft("index", name, format_version=2, inputs={}, config={}, code="") as draft:
        fill(draft)
    assert draft.result is not None
    return draft.result
