"""LoRA's variants end to end: the law against PEFT's own merge, merged twice, loaded in plain transformers."""

import json
import shutil

import peft
import pytest
import torch

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig
from ragray.engine.merge import merge_adapter, merged_weights
from ragray.errors import ArtifactError
from ragray.train.adapter import read_adapter
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.lora import attach_lora, save_adapter, trainable, with_token_ids

VARIANTS = {
    "lora": LoraConfig(rank=4, alpha=12),
    "rslora": LoraConfig(rank=4, alpha=12, use_rslora=True),
    "dora": LoraConfig(rank=4, alpha=12, method="dora"),
    "rsdora": LoraConfig(rank=4, alpha=12, method="dora", use_rslora=True, target_modules=("q_proj", "down_proj")),
    "tokens": LoraConfig(rank=4, alpha=12, trainable_tokens=("[7]", 3)),
    "dora with tokens": LoraConfig(rank=4, alpha=12, method="dora", trainable_tokens=("[1]", "[2]")),
}
IDS = torch.arange(60)[None] * 5


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request, model_folder, tmp_path):
    """The tiny model, whose output layer is its embedding or one of its own."""
    folder = shutil.copytree(model_folder, tmp_path / "base")
    if not request.param:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
        model = load_model(model_folder, torch.float32)
        model.config.tie_word_embeddings = False
        weight = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(5)) * 0.1
        model.lm_head.weight = torch.nn.Parameter(weight)
        model.save_pretrained(folder)
    return folder


def trained_on(base, settings, folder):
    """A train artifact's folder with a random adapter, and the adapted model."""
    settings = with_token_ids(settings, load_tokenizer(base))
    model = attach_lora(load_model(base, torch.float32), settings, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    weights = {name: p.detach() for name, p in trainable(model).items()}
    save_adapter(weights, settings, str(base), folder / "adapter")
    record = {"path": str(base), "digest": folder_digest(base)}
    (folder / "base_model.json").write_text(json.dumps(record))
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_merges_by_its_own_law(base, variant, tmp_path):
    adapted = trained_on(base, VARIANTS[variant], tmp_path)
    with torch.no_grad():
        logits = adapted(IDS, use_cache=False).logits
        plain = load_model(base, torch.float32)(IDS, use_cache=False).logits
    before = dict(load_model(base, torch.float32).named_parameters())
    law = merged_weights(before, read_adapter(tmp_path / "adapter"))
    check = merge_adapter(tmp_path / "adapter", tmp_path / "base_model.json", tmp_path / "merged")
    merge_adapter(tmp_path / "adapter", tmp_path / "base_model.json", tmp_path / "again")
    assert folder_digest(tmp_path / "merged") == folder_digest(tmp_path / "again")

    pefts = peft.PeftModel.from_pretrained(load_model(base, torch.float32), str(tmp_path / "adapter"))
    pefts = dict(pefts.merge_and_unload(safe_merge=True).named_parameters())
    merged = load_model(tmp_path / "merged", torch.float32)
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(weight, pefts[name], rtol=0, atol=0)
        torch.testing.assert_close(weight, law.get(name, before[name]), rtol=0, atol=1e-6)
    with torch.no_grad():
        found = merged(IDS, use_cache=False).logits
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 0.1
    rows = len(VARIANTS[variant].trainable_tokens)
    output_layer_too = merged.lm_head.weight is not merged.model.embed_tokens.weight
    assert check["token_rows"] == rows * (1 + output_layer_too)


def test_the_scales_by_hand(model_folder, tmp_path):
    for name, scale in {"lora": 12 / 4, "rslora": 12 / 4**0.5}.items():
        trained_on(model_folder, VARIANTS[name], tmp_path / name)
        adapter = read_adapter(tmp_path / name / "adapter")
        assert {layer.scale for layer in adapter.layers} == {scale}


def test_patterns_of_pefts_own_adapters_are_heeded(model_folder, tmp_path):
    """An adapter that PEFT itself wrote, whose layers differ in rank and alpha."""
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2},
        alpha_pattern={"layers.1.self_attn.q_proj": 20}, task_type="CAUSAL_LM", init_lora_weights=False,
    )  # fmt: skip
    peft.get_peft_model(load_model(model_folder, torch.float32), config).save_pretrained(tmp_path / "adapter")
    scales = {layer.name: layer.scale for layer in read_adapter(tmp_path / "adapter").layers}
    attention = "model.layers.{}.self_attn.{}_proj.weight"
    assert [scales[attention.format(n, m)] for n in (0, 1) for m in "qv"] == [2.0, 4.0, 5.0, 4.0]
    (tmp_path / "base_model.json").write_text(
        json.dumps({"path": str(model_folder), "digest": folder_digest(model_folder)})
    )
    check = merge_adapter(tmp_path / "adapter", tmp_path / "base_model.json", tmp_path / "merged")
    assert check["layers"] == 4 and check["max_weight_error"] < 1e-6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("lora_bias", True),
        ("fan_in_fan_out", True), ("init_lora_weights", "pissa"), ("layer_replication", [[0, 2]]), ("of_tomorrow", 1),
    ],
)  # fmt: skip
def test_an_unknown_kind_is_refused_by_its_key(model_folder, tmp_path, key, value):
    trained_on(model_folder, VARIANTS["lora"], tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ArtifactError, match=rf"unknown kind: {key} is"):
        merge_adapter(tmp_path / "adapter", tmp_path / "base_model.json", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
