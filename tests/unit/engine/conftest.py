"""The tiny random model as fixtures."""

import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_model import TEXTS, make_model_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "tiny-random")


@pytest.fixture(scope="session")
def prompts(model_folder: Path) -> Sequence[list[int]]:
    """Twelve prompts of 5 to 60 tokens."""
    from ragray.engine.tokens import load_tokenizer

    tokenizer = load_tokenizer(model_folder)
    return [tokenizer(text * (1 + n % 3))["input_ids"][: 5 + 5 * n] for n, text in enumerate(TEXTS[:12])]


@pytest.fixture(scope="session")
def stand_in_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python whose tensorrt_llm is the stand-in."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "stand_in.pth").write_text(f"{Path(__file__).parent / 'stand_in'}\n")
    return str(folder / "bin" / "python")
