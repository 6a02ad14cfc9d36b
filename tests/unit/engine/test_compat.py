"""A checkpoint of transformers 5 in the words of older releases, and what TensorRT-LLM's export lacks."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from ragray.engine.compat import export_compat
from ragray.engine.compat_config import compatible_config, compatible_tokenizer, rotary, trtllm_config, weight_only
from ragray.errors import EngineError

OLD_PYTHON = os.environ.get("RAGRAY_TRANSFORMERS4")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e9},
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


def test_rope_theta_and_the_number_format_are_written_where_4_57_looks() -> None:
    made = compatible_config(LLAMA)
    assert made["rope_theta"] == 1e9 and made["rope_scaling"] is None and made["torch_dtype"] == "float32"
    assert made["rope_parameters"] == LLAMA["rope_parameters"]  # what transformers 5 reads stays


def test_rope_scaling_moves_to_the_top_without_theta_under_both_names_of_its_type() -> None:
    scaled = LLAMA | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5, "partial_rotary_factor": 0.5}}
    made = compatible_config(scaled)
    assert made["rope_scaling"] == LLAMA3 | {"type": "llama3"}
    assert (made["rope_theta"], made["partial_rotary_factor"]) == (5e5, 0.5)


def test_a_configuration_of_transformers_4_is_read_too() -> None:
    old = {key: value for key, value in LLAMA.items() if key != "rope_parameters"}
    assert rotary(old | {"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2.0}}) == (
        7.0, {"type": "linear", "rope_type": "linear", "factor": 2.0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "for each type of layer"),
        (LLAMA | {"rope_parameters": {"rope_type": "default"}}, "does not say rope_theta"),
        (LLAMA | {"architectures": None}, "no architecture"),
    ],
)
def test_what_has_no_older_form_is_refused(config: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compatible_config(config)


def test_the_tokenizers_class_and_its_list_of_tokens_are_those_of_4_57() -> None:
    made = compatible_tokenizer(
        {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "eos_token": "<|end|>",
         "extra_special_tokens": ["<|user|>", "<|end|>"], "additional_special_tokens": ["<|end|>"]}
    )  # fmt: skip
    assert made == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<|end|>", "<|user|>"],
        "eos_token": "<|end|>",
    }
    named = compatible_tokenizer({"extra_special_tokens": {"image_token": "<img>"}})
    assert named["extra_special_tokens"] == {"image_token": "<img>"}


def test_transformers_5_reads_the_same_model_and_tokens(model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    change_theta(model_folder, tmp_path / "source", 1e6)
    export_compat(tmp_path / "source", tmp_path / "out")
    ids = torch.arange(5, 45)[None]
    logits, tokens, thetas = [], [], []
    for folder in (tmp_path / "source", tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        logits.append(model(ids).logits)
        thetas.append(model.config.rope_parameters["rope_theta"])
        tokens.append(AutoTokenizer.from_pretrained(folder)("<|user|>问题 question<|end|>")["input_ids"])
    assert torch.equal(*logits) and tokens[0] == tokens[1] and thetas == [1e6, 1e6]


def test_weights_may_be_left_out(model_folder: Path, tmp_path: Path) -> None:
    export_compat(model_folder, tmp_path / "whole")
    export_compat(model_folder, tmp_path / "bare", weights=False)
    names = [{path.name for path in (tmp_path / folder).iterdir()} for folder in ("whole", "bare")]
    assert names[0] - names[1] == {"model.safetensors"} and names[0] == {path.name for path in model_folder.iterdir()}


def test_quantized_and_incomplete_folders_are_refused(model_folder: Path, tmp_path: Path) -> None:
    export_compat(model_folder, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "modelopt"}})
    )
    with pytest.raises(EngineError, match="quantized already, by modelopt"):
        export_compat(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "tokenizer.json").unlink()
    with pytest.raises(EngineError, match=r"tokenizer\.json missing"):
        export_compat(tmp_path / "a", tmp_path / "c")


def test_modelopts_export_gets_its_rotary_base_and_what_qwen_layers_ask_for() -> None:
    exported = {"architecture": "Qwen2ForCausalLM", "quantization": {"quant_algo": "FP8"}}
    qwen = LLAMA | {"model_type": "qwen2"}
    made = trtllm_config(exported, qwen)
    added = {"rotary_base": 1e9, "rotary_scaling": None, "qwen_type": "qwen2", "attn_bias": True}
    assert made == exported | added
    llama = trtllm_config(exported, LLAMA | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}})
    assert llama["rotary_base"] == 5e5 and llama["rotary_scaling"]["type"] == "llama3"
    assert llama["attn_bias"] is False and "qwen_type" not in llama
    assert trtllm_config(exported, LLAMA | {"attention_bias": True})["attn_bias"] is True
    with pytest.raises(ValueError, match="qwen3 model: known are llama, qwen2"):
        trtllm_config(exported, LLAMA | {"model_type": "qwen3"})


def test_weight_only_int8_leaves_the_quantizing_to_trtllm_build() -> None:
    exported = {"dtype": "float16", "quantization": {"quant_algo": None, "exclude_modules": ["lm_head"]}}
    assert weight_only(exported, "W8A16")["quantization"] == {"quant_algo": "W8A16", "kv_cache_quant_algo": None}


READ = """
import json, sys, torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder, ids = sys.argv[1], json.loads(sys.argv[2])
found = {"version": transformers.__version__, "theta": AutoConfig.from_pretrained(folder).rope_theta}
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
found["tokens"] = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0].tolist()
try:
    found["encoded"] = AutoTokenizer.from_pretrained(folder)(sys.argv[3])["input_ids"]
except (ValueError, AttributeError) as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.mark.skipif(
    OLD_PYTHON is None,
    reason="needs transformers 4.57.3: set RAGRAY_TRANSFORMERS4 to the Python of deploy/transformers4.txt",
)
def test_transformers_4_57_misreads_the_checkpoint_and_reads_the_compatible_one(
    model_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    change_theta(model_folder, tmp_path / "source", 1e6)
    export_compat(tmp_path / "source", tmp_path / "out")
    ids, text = list(range(5, 45)), "<|user|>问题 question<|end|>"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    expected = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0].tolist()
    encoded = AutoTokenizer.from_pretrained(tmp_path / "source")(text)["input_ids"]
    read = {
        folder: json.loads(
            subprocess.run(
                [OLD_PYTHON, "-c", READ, str(tmp_path / folder), json.dumps(ids), text],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()[-1]
        )
        for folder in ("source", "out")
    }  # fmt: skip
    assert read["out"]["version"] == "4.57.3"
    assert (read["out"]["theta"], read["out"]["tokens"], read["out"]["encoded"]) == (1e6, expected, encoded)
    assert read["source"]["theta"] == 10_000 and "encoded" not in read["source"]  # the traps, as long as they are there


def change_theta(source: Path, target: Path, theta: float) -> None:
    """A copy of a model's folder with another rotary base."""
    import shutil

    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = theta
    (target / "config.json").write_text(json.dumps(config))
