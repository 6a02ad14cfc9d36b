"""What is missing or foreign in a model's folder is named."""

import json
import shutil

import pytest
import torch

from ragray.errors import ConfigError, EngineError
from ragray.train.loading import check_packable, load_model, load_tokenizer, model_folder


@pytest.fixture
def copy(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_a_whole_folder_loads(tiny_model):
    folder = model_folder(str(tiny_model))
    assert load_model(folder, torch.bfloat16).dtype == torch.bfloat16
    assert load_tokenizer(folder).chat_template


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "/nowhere"])
def test_a_path_that_is_not_there_is_a_config_error(name):
    with pytest.raises(ConfigError, match="no such folder"):
        model_folder(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(EngineError, match=r"\*?\.safetensors|" + name):
        model_folder(str(copy))


def test_a_missing_shard_is_named(copy):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    with pytest.raises(EngineError, match=r"missing: model-00002-of-00002\.safetensors"):
        model_folder(str(copy))


def test_pickled_weights_are_not_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(EngineError, match="other weight formats are not read"):
        model_folder(str(copy))


def test_damaged_weights_and_unknown_architectures_are_explained(copy):
    config = json.loads((copy / "config.json").read_text())
    config["model_type"] = "strange"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="cannot be loaded"):
        load_model(copy, torch.float32)


def test_a_tokenizer_without_chat_template_is_refused(copy):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="no chat template"):
        load_tokenizer(copy)


def test_examples_longer_than_the_model_are_refused(tiny_model):
    model = load_model(tiny_model, torch.float32)
    check_packable(model, 1024)
    with pytest.raises(ConfigError, match="at most 1024"):
        check_packable(model, 1025)
