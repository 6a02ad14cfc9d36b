"""Models of embeddings: which are read, and the files of their vectors."""

import sys
from pathlib import Path

import numpy as np
import pytest
from small_corpus import PASSAGES  # type: ignore[import-not-found]
from tiny_encoder import make_encoder, spoil  # type: ignore[import-not-found]

from ragray.config import DenseConfig
from ragray.errors import ConfigError, EngineError
from ragray.retrieval import vectors
from ragray.retrieval.local_models import checked_model
from ragray.retrieval.vectors import FILE, Encoder, encoder_of, merge_vectors, write_vectors
from ragray.schema import Passage, table_of

pytest.importorskip("sentence_transformers", reason="the extra dense is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    return Path(make_encoder(tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("1_Pooling/pytorch_model.bin", "x", "pickled"),
        (".hidden/weights.pkl", "x", "pickled"),
        ("1_Pooling/modeling_mine.py", "x", "code of its own"),
        ("modules.json", "{", "damaged"),
        ("modules.json", '[{"idx": 0, "name": "0", "path": "", "type": "my_module.Transformer"}]', "is not read"),
        # the next two import classes that their own JSON names, also from files of the folder
        ("modules.json", '[{"path": "", "type": "sentence_transformers.models.Router"}]', "Router is not read"),
        ("modules.json", '[{"path": "", "type": "sentence_transformers.models.WordEmbeddings"}]', "is not read"),
        ("modules.json", '[{"path": "../other", "type": "sentence_transformers.models.Dense"}]', "outside"),
        ("adapter_config.json", "{}", "adapter"),
        ("model.safetensors", "cut", "cannot be loaded"),
    ],
)
def test_models_that_could_run_code_or_are_damaged_are_refused(name: str, text: str, match: str, model: Path) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text(text)
    with pytest.raises(ConfigError, match=match):
        Encoder(model)


def test_folders_that_the_digest_does_not_see_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "1_Pooling").rename(tmp_path / "elsewhere")
    (model / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="a link to another folder"):
        Encoder(model)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is fetched"):
        Encoder(tmp_path / "absent")


def test_without_the_package_its_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"pip install 'ragray\[dense\]'"):
        Encoder(model)


def test_the_digest_is_that_of_the_model_not_of_its_download(model: Path) -> None:
    before = checked_model(model, "modules.json")
    (model / ".cache").mkdir()
    (model / ".cache" / "stamp").write_text("now")
    assert checked_model(model, "modules.json") == before
    (model / "tokenizer_config.json").write_text("{}")
    assert checked_model(model, "modules.json") != before


def test_values_that_are_no_numbers_are_an_error(model: Path) -> None:
    spoil(model)
    encoder = Encoder(model)
    with pytest.raises(EngineError, match="no numbers"):
        encoder.queries(["stop"])
    assert not encoder.queries([" "]).any()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_files_are_written_in_parts_as_numpy_writes_them(
    precision: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DenseConfig.model_validate({"model": str(model), "precision": precision, "batch_size": 1})
    folders = [tmp_path / name for name in ("first", "second", "merged")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(vectors, "_ROWS", 3)
    write_vectors(table_of(Passage, PASSAGES), settings, folders[0])
    write_vectors(table_of(Passage, ()), settings, folders[1])
    expected = encoder_of(str(model)).passages(table_of(Passage, PASSAGES), 1).astype(precision)
    assert not expected[2].any() and np.isclose(np.linalg.norm(expected[0].astype(float)), 1.0, atol=1e-3)
    live = [np.arange(len(PASSAGES)) != 4, np.ones(0, np.bool_)]
    merge_vectors(folders[:2], live, folders[2])
    for folder, rows in ((folders[0], expected), (folders[1], expected[:0]), (folders[2], expected[live[0]])):
        np.save(tmp_path / "plain.npy", rows)
        assert (folder / FILE).read_bytes() == (tmp_path / "plain.npy").read_bytes()
