"""An index over the small corpus."""

from pathlib import Path

import pytest
from small_corpus import PASSAGES  # type: ignore[import-not-found]

from ragray.config import RetrievalConfig
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.writing import build_index


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("index")
    build_index(PASSAGES, RetrievalConfig(), target)
    return target


@pytest.fixture
def index(folder: Path) -> HybridIndex:
    return HybridIndex.open(folder)
