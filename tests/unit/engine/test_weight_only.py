"""Weight-only int8: the law of rounding, the same model as its own integers, and no other reader that is fooled."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ragray.engine.transformers_runtime import load_model
from ragray.engine.weight_format import weights_of
from ragray.engine.weight_only import FILE, quantize_rows, save_int8
from ragray.errors import EngineError

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.1,
}  # fmt: skip


def make(kind: str, tied: bool):
    torch.manual_seed(0)
    if kind == "qwen2":  # has biases
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=tied))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return model.eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()


def test_rounding_errs_by_half_a_step_at_most_and_zeros_stay() -> None:
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 7)[:, None]
    weight[3] = 0.0
    integers, scale = quantize_rows(weight)
    assert integers.dtype == torch.int8 and int(integers.abs().max()) == 127
    error = (weight - integers.float() * scale[:, None]).abs()
    assert bool((error <= scale[:, None] * (0.5 + 1e-4)).all())
    assert bool((integers[3] == 0).all())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@torch.no_grad()
def test_the_loaded_model_is_the_one_with_rounded_weights(kind: str, tied: bool, tmp_path: Path) -> None:
    model = make(kind, tied)
    save_int8(model, tmp_path)
    loaded = load_model(tmp_path)
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            integers, scale = quantize_rows(module.weight)
            module.weight.copy_(integers.float() * scale[:, None])
    torch.testing.assert_close(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
    assert loaded.num_parameters() >= model.num_parameters()
    assert weights_of(tmp_path) == "ragray_int8_weight_only"
    assert ("lm_head.weight" in load_file(tmp_path / FILE)) is not tied


def test_transformers_alone_does_not_load_the_integers_as_weights(tmp_path: Path) -> None:
    save_int8(make("llama", True), tmp_path)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_int8(make("llama", True), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 50}))
    with pytest.raises(EngineError, match=r"do not fit config.json: model.layers.0.mlp"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / FILE)
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(EngineError, match=r"do not fit config.json: model.norm.weight"):
        load_model(tmp_path)
    (tmp_path / FILE).write_bytes(b"not tensors")
    with pytest.raises(EngineError, match="int8 weights cannot be read"):
        load_model(tmp_path)
