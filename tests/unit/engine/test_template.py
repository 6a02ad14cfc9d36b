"""A model is asked with the template that it was trained with, or not at all."""

import shutil

import pytest

from ragray import prompt
from ragray.config import EngineConfig
from ragray.config_train import LoraConfig
from ragray.engine.build import build_engine
from ragray.engine.merge import merge_adapter
from ragray.engine.quantize import copy_companions
from ragray.engine.runtime import load_engine
from ragray.engine.tokens import load_tokenizer
from ragray.engine.transformers_runtime import load_model_folder
from ragray.errors import EngineError
from ragray.train.base_record import write_base_record
from ragray.train.loading import load_model
from ragray.train.lora import attach_lora, save_adapter, trainable
from ragray.train.template import TEMPLATE

SETTINGS = EngineConfig(kind="transformers", cpu_threads=1, max_batch_size=4)


@pytest.fixture
def merged(model_folder, tmp_path):
    """A model folder as the merge stage writes it."""
    import torch

    settings = LoraConfig(rank=2)
    model = attach_lora(load_model(model_folder, torch.float32), settings, seed=1)
    save_adapter({n: p.detach() for n, p in trainable(model).items()}, settings, "base", tmp_path / "adapter")
    write_base_record(tmp_path / "base_model.json", str(model_folder), model_folder)
    merge_adapter(tmp_path / "adapter", tmp_path / "base_model.json", tmp_path / "merged")
    return tmp_path / "merged"


def change_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|end|>", "<|end|>\n"))


def test_another_chat_template_is_refused_wherever_a_model_is_loaded(merged, tmp_path):
    load_model_folder(merged, 1, 1).close()
    change_template(merged)
    with pytest.raises(EngineError, match="trained with another chat template") as caught:
        load_model_folder(merged, 1, 1)
    assert "put the chat template of the base model back" in str(caught.value)
    (tmp_path / "engine").mkdir()
    with pytest.raises(EngineError, match="trained with another chat template"):
        build_engine(merged, SETTINGS, tmp_path / "engine")


def test_another_prompt_is_refused_by_a_built_engine(merged, tmp_path, monkeypatch):
    (tmp_path / "engine").mkdir()
    build_engine(merged, SETTINGS, tmp_path / "engine")
    load_engine(tmp_path / "engine", SETTINGS).close()
    monkeypatch.setitem(prompt.SYSTEM, "zh", "请回答。")
    with pytest.raises(EngineError, match="trained with another prompt"):
        load_engine(tmp_path / "engine", SETTINGS)


def test_quantized_models_know_their_template(merged, tmp_path):
    (tmp_path / "out").mkdir()
    copy_companions(merged, tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").chat_template
    change_template(tmp_path / "out")
    with pytest.raises(EngineError, match="trained with another chat template"):
        load_tokenizer(tmp_path / "out")


def test_a_model_that_ragray_did_not_train_may_be_asked_anyhow(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "foreign")
    change_template(folder)
    assert not (folder / TEMPLATE).exists()
    assert load_tokenizer(folder).chat_template
