"""Merging: the law on every layer, stable bytes, a plain folder, and refusal of another base."""

import json
import shutil

import pytest
import torch

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig
from ragray.engine import merge
from ragray.engine.merge import merge_adapter, merged_weights
from ragray.errors import ArtifactError, EngineError
from ragray.train.adapter import read_adapter
from ragray.train.loading import load_model
from ragray.train.lora import attach_lora, save_adapter, trainable


@pytest.fixture
def base(model_folder, tmp_path):
    """A base model stored in bfloat16, as most are, with a card that is not to be copied."""
    folder = shutil.copytree(model_folder, tmp_path / "base")
    load_model(folder, torch.bfloat16).save_pretrained(folder)
    (folder / "README.md").write_text("the base model's card")
    return folder


@pytest.fixture
def trained(base, tmp_path):
    """A train artifact's folder with a random adapter."""
    settings = LoraConfig(rank=4, alpha=8)
    model = attach_lora(load_model(base, torch.float32), settings, seed=1)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(3))
    folder = tmp_path / "trained"
    save_adapter({name: p.detach() for name, p in trainable(model).items()}, settings, str(base), folder / "adapter")
    record = {"path": str(base), "digest": folder_digest(base)}
    (folder / "base_model.json").write_text(json.dumps(record))
    return folder


def do_merge(trained, out):
    return merge_adapter(trained / "adapter", trained / "base_model.json", out)


def test_merged_weights_are_w_plus_ba_in_float32(base, trained, tmp_path):
    check = do_merge(trained, tmp_path / "merged")
    before = load_model(base, torch.float32).state_dict()
    after = load_model(tmp_path / "merged", torch.float32).state_dict()
    updates = {layer.name: layer.delta() for layer in read_adapter(trained / "adapter").layers}
    assert len(updates) == check["layers"] == 14
    for name, weight in before.items():
        should = weight + updates[name] if name in updates else weight
        torch.testing.assert_close(after[name], should, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"
    assert check["relative_update"] > 0
    assert check["max_logit_error"] < 1e-3


def test_merging_twice_gives_the_same_bytes(trained, tmp_path):
    do_merge(trained, tmp_path / "a")
    do_merge(trained, tmp_path / "b")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")


def test_the_folder_is_whole_and_holds_no_foreign_card(trained, tmp_path):
    from transformers import AutoTokenizer

    do_merge(trained, tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert not (tmp_path / "merged" / "README.md").exists()


def test_another_base_model_is_refused(base, trained, tmp_path):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    with pytest.raises(ArtifactError, match="not the base model that this adapter was trained on"):
        do_merge(trained, tmp_path / "merged")


def test_weights_that_break_the_law_are_refused(trained, tmp_path, monkeypatch):
    def halved(before, adapter):
        return {name: (weight + before[name]) / 2 for name, weight in merged_weights(before, adapter).items()}

    monkeypatch.setattr(merge, "merged_weights", halved)
    with pytest.raises(EngineError, match="weights differ"):
        do_merge(trained, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_quantized_base_is_refused(base, trained, tmp_path):
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (base / "config.json").write_text(json.dumps(config))
    record = {"path": str(base), "digest": folder_digest(base)}  # else the digest alone refuses it
    (trained / "base_model.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="quantized as bitsandbytes_nf4; an adapter merged into them") as caught:
        do_merge(trained, tmp_path / "merged")
    assert "train.base_model" in caught.value.fix
    assert not (tmp_path / "merged").exists()
