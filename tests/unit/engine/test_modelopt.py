"""ModelOpt: the script that needs no ragray, the stored numbers read back, and real runs where it is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ragray.engine import modelopt_stored, modelopt_task
from ragray.engine.compat import export_compat
from ragray.engine.gpu_policy import FORMATS
from ragray.engine.modelopt import PINS, QUANTIZED, TASK, check_checkpoint, used_by
from ragray.engine.quantize_methods import METHODS

PYTHON = os.environ.get("RAGRAY_MODELOPT")
needs_modelopt = pytest.mark.skipif(
    PYTHON is None, reason="needs ModelOpt: set RAGRAY_MODELOPT to the Python of deploy/modelopt.txt"
)
ROOT = Path(__file__).parents[3]
SEQUENCES = [[5 + (7 * n + 3 * i) % 390 for i in range(40)] for n in range(6)]


def request(model: Path, out: Path, method: str, **more: object) -> dict:
    held_out = [{"token_ids": ids, "answer_start": 30} for ids in SEQUENCES[:2]]
    return {
        "schema": 1, "step": "quantize", "method": method, "model": str(model), "out": str(out), "threads": 1,
        "calibration": SEQUENCES[2:], "held_out": held_out, "prompts": [ids[:9] for ids in SEQUENCES[:3]],
        "max_new_tokens": 6, "stop_token_ids": [2], "batch_size": 2,
    } | more  # fmt: skip


def run(python: str, asked: dict, folder: Path) -> dict:
    (folder / "asked.json").write_text(json.dumps(asked))
    command = [python, "-I", str(TASK), str(folder / "asked.json"), str(folder / "told.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "told.json").read_text())


def test_an_environment_without_modelopt_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    told = run(sys.executable, request(tmp_path, tmp_path, "modelopt_fp8"), tmp_path)
    assert "nvidia-modelopt is not installed" in told["error"]["message"]
    assert told["error"]["fix"] == "python3.11 -m venv modelopt && modelopt/bin/pip install -r deploy/modelopt.txt"


@pytest.mark.parametrize(("version", "right"), [("0.47.0", True), ("0.47.1", False), ("0.48.0", False)])
def test_other_releases_of_modelopt_are_refused(monkeypatch: pytest.MonkeyPatch, version: str, right: bool) -> None:
    installed = {"nvidia-modelopt": version, "transformers": "5.14.1", "torch": "2.13.0+cpu", "safetensors": "0.8.0"}
    monkeypatch.setattr(modelopt_task.importlib.metadata, "version", installed.__getitem__)
    if right:
        assert modelopt_task.check_environment()["torch"] == "2.13.0"
    else:
        with pytest.raises(modelopt_task.TaskError, match=f"nvidia-modelopt {version} is installed, needed is 0.47.0"):
            modelopt_task.check_environment()


def test_the_requirements_name_the_versions_that_are_checked() -> None:
    lines = (ROOT / "deploy" / "modelopt.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    assert pins["nvidia-modelopt"] == PINS["nvidia-modelopt"]
    assert pins["transformers"].startswith(PINS["transformers"] + ".")


def test_every_format_has_its_recipe_with_the_same_algorithm() -> None:
    assert {made.method: made.algorithm for made in FORMATS.values()} == {
        method: recipe.algorithm for method, recipe in modelopt_task.RECIPES.items()
    }


def test_stage_quantize_offers_every_format_but_float16() -> None:
    offered = {name: method for name, method in METHODS.items() if name.startswith("modelopt_")}
    assert set(offered) == {made.method for made in QUANTIZED} == set(modelopt_task.RECIPES) - {"modelopt_fp16"}
    for made in QUANTIZED:
        method = offered[made.method]
        assert method.calibrated == modelopt_task.RECIPES[made.method].calibrated and method.bits == made.bits
    assert used_by(FORMATS["int8_smoothquant"]) == "NVIDIA GPUs: engine kind tensorrt_llm"
    assert used_by(FORMATS["fp8"]) == "NVIDIA GPUs: engine kind tensorrt_llm or tensorrt_llm_torch"


def test_stored_weights_by_hand() -> None:
    int8 = torch.tensor([[1, -2], [3, 127]], dtype=torch.int8)
    assert modelopt_stored.dequantized(int8, torch.tensor([0.5, 2.0])).tolist() == [[0.5, -1.0], [6.0, 254.0]]
    fp8 = torch.tensor([[1.0, -0.5]]).to(torch.float8_e4m3fn)
    assert modelopt_stored.dequantized(fp8, torch.tensor(4.0)).tolist() == [[4.0, -2.0]]
    packed = torch.tensor([[0x21, 0xF8]], dtype=torch.uint8)  # rows [1, -8] and [2, -1]
    scale = torch.tensor([[0.5, 1.0], [2.0, 3.0]])
    assert modelopt_stored.dequantized(packed, scale).tolist() == [[0.5, -8.0], [4.0, -3.0]]


@pytest.mark.parametrize(
    ("weight", "step", "rounded"),
    [
        (torch.ones(1, 3, dtype=torch.int8), 0.5, [1.0, -64.0, 0.0]),  # 1.1 -> 2 steps, -99 -> -128 steps, .2 -> 0
        (torch.ones(1, 3).to(torch.float8_e4m3fn), 0.5, [1.125, -96.0, 0.203125]),  # three bits of mantissa
        (torch.ones(1, 3, dtype=torch.int8), None, [1.1, -99.0, 0.2]),
    ],
)
def test_inputs_are_rounded_as_the_stored_scale_says(weight: torch.Tensor, step: float | None, rounded: list) -> None:
    parts = dict.fromkeys(modelopt_stored.PARTS) | {"weight": weight, "weight_scale": torch.tensor(1.0)}
    parts |= {"pre_quant_scale": torch.tensor([0.5, 1.0, 1.0])}
    parts |= {"input_scale": None if step is None else torch.tensor(step)}
    layer = modelopt_stored.stored_linear(parts)
    values = torch.tensor([2.2, -99.0, 0.2])
    each = [float(layer(values * mask)) for mask in torch.eye(3)]
    assert each == pytest.approx(rounded, abs=1e-6)


def test_the_full_model_measured_against_itself_differs_nowhere(model_folder: Path, tmp_path: Path) -> None:
    full = modelopt_task.load_full(model_folder)
    told = modelopt_stored.measure(full, request(model_folder, model_folder, "modelopt_fp16"))
    assert told["kl_nats"] == 0.0 and told["argmax_agreement"] == 1.0 and told["positions"] == 80
    assert told["perplexity"] == told["full_perplexity"]
    expected = []
    for prompt in [ids[:9] for ids in SEQUENCES[:3]]:
        row = full.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=2)
        tokens = row[0, 9:].tolist()
        end = tokens.index(2) if 2 in tokens else None
        expected.append({"token_ids": tokens[:end], "finish_reason": "length" if end is None else "stop"})
    assert told["answers"] == expected


def test_a_layer_of_stored_int8_numbers_is_read_and_a_damaged_scale_is_seen(model_folder: Path, tmp_path: Path) -> None:
    export_compat(model_folder, tmp_path / "m")
    path, name = tmp_path / "m" / "model.safetensors", "model.layers.0.mlp.up_proj"
    full, tensors = modelopt_task.load_full(model_folder), load_file(path)
    weight = tensors[f"{name}.weight"]
    scale = weight.abs().amax(1) / 127
    tensors[f"{name}.weight"] = (weight / scale[:, None]).round().to(torch.int8)
    measured = []
    for damage in (1.0, 3.0):
        save_file(tensors | {f"{name}.weight_scale": scale * damage}, path, metadata={"format": "pt"})
        measured.append(modelopt_stored.measure(full, request(model_folder, tmp_path / "m", "x"))["kl_nats"])
    assert 0 < measured[0] < 1e-3 < measured[1]
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"missing: \['model.norm.weight'\]"):
        modelopt_stored.load_stored(tmp_path / "m")


def wide_model(kind: str, folder: Path) -> Path:
    """Two layers that groups of 128 fit; a vocabulary that is no multiple of 64; Llama's heads wider than usual."""
    from tiny_model import make_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.08,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }  # fmt: skip
    if kind == "llama":
        LlamaForCausalLM(LlamaConfig(**shape, head_dim=64)).save_pretrained(folder)
    else:
        Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_modelopt
@pytest.mark.parametrize(
    ("kind", "weights", "most_kl", "apart"),
    [
        ("llama", "fp16", 1e-5, 1e-3),
        ("llama", "int8_smoothquant", 0.1, 0.01),
        ("qwen2", "int8_weight_only", 2e-3, 0.01),  # one layout quantized, the other float16
        ("llama", "fp8", 0.1, 0.03),
        ("qwen2", "int4_awq", 0.3, 0.15),  # the layouts are smoothed apart
    ],
)
def test_modelopt_writes_both_layouts_of_the_same_model(
    tmp_path: Path, kind: str, weights: str, most_kl: float, apart: float
) -> None:
    model, out = wide_model(kind, tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    asked = request(model, out, FORMATS[weights].method)
    facts = run(PYTHON, asked, tmp_path)["facts"]
    assert facts["versions"]["nvidia-modelopt"] == "0.47.0" and facts["layouts"] == ["huggingface", "tensorrt_llm"]
    flat = json.loads((out / "config.json").read_text())
    assert (flat["vocab_size"], flat["rope_theta"], flat["torch_dtype"]) == (409, 1e6, "float16")
    config = json.loads((out / "tensorrt_llm" / "config.json").read_text())
    assert config["quantization"]["quant_algo"] == FORMATS[weights].algorithm
    assert config["vocab_size"] == (448 if weights == "int4_awq" else 409)  # padded to a multiple of 64
    assert (config["rotary_base"], config["dtype"], config["mapping"]["world_size"]) == (1e6, "float16", 1)
    assert config["head_size"] == (64 if kind == "llama" else 32)
    assert (config.get("qwen_type"), config["attn_bias"]) == ((None, False) if kind == "llama" else ("qwen2", True))
    assert {path.name for path in (out / "tensorrt_llm").iterdir()} == {"config.json", "rank0.safetensors"}
    check_checkpoint(out / "tensorrt_llm", weights, json.loads((model / "config.json").read_text()))
    fused = load_file(out / "tensorrt_llm" / "rank0.safetensors")
    for ours, theirs in compared(load_file(out / "model.safetensors"), fused):
        assert float((ours - theirs).norm() / ours.norm()) < apart
    measured = run(PYTHON, asked | {"step": "measure"}, tmp_path)["measured"]
    assert 0 < measured["kl_nats"] < most_kl and measured["simulated"]


def compared(flat: dict[str, torch.Tensor], fused: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Weights of both layouts as they act on a normalized input: query, key and value lie in one."""
    for n in range(2):
        hf, trt = f"model.layers.{n}", f"transformer.layers.{n}"
        norms = flat[f"{hf}.input_layernorm.weight"], flat[f"{hf}.post_attention_layernorm.weight"]
        fused_norms = fused[f"{trt}.input_layernorm.weight"], fused[f"{trt}.post_layernorm.weight"]
        names = [f"{hf}.self_attn.{part}_proj" for part in "qkv"]
        yield (
            torch.cat([acting(flat, name, norms[0]) for name in names]),
            acting(fused, f"{trt}.attention.qkv", fused_norms[0]),
        )
        yield acting(flat, f"{hf}.self_attn.o_proj"), acting(fused, f"{trt}.attention.dense")
        for ours, theirs in (("gate_proj", "fc"), ("up_proj", "gate")):
            yield acting(flat, f"{hf}.mlp.{ours}", norms[1]), acting(fused, f"{trt}.mlp.{theirs}", fused_norms[1])
        yield acting(flat, f"{hf}.mlp.down_proj"), acting(fused, f"{trt}.mlp.proj")


def acting(tensors: dict[str, torch.Tensor], name: str, norm: torch.Tensor | None = None) -> torch.Tensor:
    """A stored weight as float32, with all that multiplies its inputs."""
    weight = tensors[f"{name}.weight"]
    scale = tensors.get(f"{name}.weight_scale", tensors.get(f"{name}.weights_scaling_factor", torch.tensor(1.0)))
    before = tensors.get(f"{name}.pre_quant_scale", tensors.get(f"{name}.prequant_scaling_factor", torch.tensor(1.0)))
    if scale.dim() == 2:
        weight = weight.view(torch.uint8)  # INT4: TensorRT-LLM's layout calls the bytes int8
    acts = modelopt_stored.dequantized(weight, scale) * before.float()
    return acts if norm is None else acts * norm.float()


@needs_modelopt
def test_a_width_that_awq_cannot_group_is_refused(model_folder: Path, tmp_path: Path) -> None:
    told = run(PYTHON, request(model_folder, tmp_path, "modelopt_int4_awq"), tmp_path)
    assert "INT4 AWQ shares a scale among 128 inputs" in told["error"]["message"]


@needs_modelopt
def test_calibration_is_needed_where_inputs_are_rounded(model_folder: Path, tmp_path: Path) -> None:
    told = run(PYTHON, request(model_folder, tmp_path, "modelopt_fp8", calibration=[]), tmp_path)
    assert "needs calibration sequences" in told["error"]["message"]
