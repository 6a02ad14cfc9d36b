"""The matrix update against PEFT's merge, and adapter files with stable bytes."""

import json

import peft
import pytest
import torch
from pydantic import ValidationError

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig
from ragray.errors import ArtifactError, ConfigError
from ragray.train.adapter import LoraLayer
from ragray.train.loading import load_model
from ragray.train.lora import attach_lora, load_adapter, save_adapter, set_adapter, trainable

SETTINGS = LoraConfig(rank=4, alpha=12)


def random_adapter(folder, seed=1):
    model = attach_lora(load_model(folder, torch.float32), SETTINGS, seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def test_lora_delta_by_hand():
    layer = LoraLayer("x", torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), scale=2.0)
    assert layer.delta().tolist() == [[6.0, 12.0], [8.0, 16.0]]


def test_only_a_and_b_are_trainable_and_start_without_effect(tiny_model):
    model = attach_lora(load_model(tiny_model, torch.float32), SETTINGS, seed=1)
    ids = torch.arange(20)[None]
    plain = load_model(tiny_model, torch.float32)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable(model))
    other = attach_lora(load_model(tiny_model, torch.float32), SETTINGS, seed=2)
    same = attach_lora(load_model(tiny_model, torch.float32), SETTINGS, seed=1)
    first = next(iter(trainable(model)))
    assert torch.equal(trainable(model)[first], trainable(same)[first])
    assert not torch.equal(trainable(model)[first], trainable(other)[first])


def test_a_missing_target_module_names_those_that_exist(tiny_model):
    model = load_model(tiny_model, torch.float32)
    with pytest.raises(ConfigError, match=r"has no c_attn") as caught:
        attach_lora(model, LoraConfig(target_modules=("q_proj", "c_attn")), seed=1)
    with pytest.raises(ValidationError, match="at least 1 item"):
        LoraConfig(target_modules=())
    assert "choose from down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)


def test_a_saved_adapter_loads_in_plain_peft_and_has_stable_bytes(tiny_model, tmp_path):
    model = random_adapter(tiny_model)
    weights = {name: p.detach() for name, p in trainable(model).items()}
    save_adapter(weights, SETTINGS, "some/base", tmp_path / "a")
    save_adapter(dict(reversed(weights.items())), SETTINGS, "some/base", tmp_path / "b")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    assert str(tmp_path) not in (tmp_path / "a" / "adapter_config.json").read_text()
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    loaded = peft.PeftModel.from_pretrained(load_model(tiny_model, torch.float32), str(tmp_path / "a"))
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_set_adapter_restores_and_refuses_another_shape(tiny_model, tmp_path):
    model = random_adapter(tiny_model)
    save_adapter({name: p.detach() for name, p in trainable(model).items()}, SETTINGS, "x", tmp_path)
    fresh = attach_lora(load_model(tiny_model, torch.float32), SETTINGS, seed=9)
    set_adapter(fresh, load_adapter(tmp_path))
    assert all(torch.equal(p, trainable(model)[name]) for name, p in trainable(fresh).items())
    wider = attach_lora(load_model(tiny_model, torch.float32), LoraConfig(rank=5), seed=9)
    with pytest.raises(ArtifactError, match="does not fit"):
        set_adapter(wider, load_adapter(tmp_path))


def test_no_adapter_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors"):
        load_adapter(tmp_path)
