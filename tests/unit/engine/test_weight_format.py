"""Weights are named by their format, and those that would be read wrongly are refused before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest

from ragray.engine.transformers_runtime import load_model, load_model_folder
from ragray.engine.weight_format import weights_of
from ragray.errors import EngineError

NAMED = {
    "bitsandbytes_int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "bitsandbytes_nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes_fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "modelopt_FP8": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None},
    "compressed-tensors_int-quantized": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "gptq_4": {"quant_method": "gptq", "bits": 4},
    "unnamed": {"quant_algo": None, "ignore": ["lm_head"]},
}


def declare(model_folder: Path, out: Path, quantization: dict, key: str = "quantization_config") -> Path:
    """A copy of a folder whose config.json says that its weights are quantized."""
    folder = shutil.copytree(model_folder, out)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: quantization}))
    return folder


@pytest.mark.parametrize("name", NAMED)
def test_weights_are_named_by_method_and_format(name: str, model_folder: Path, tmp_path: Path) -> None:
    assert weights_of(declare(model_folder, tmp_path / "declared", NAMED[name])) == name
    assert weights_of(model_folder) == "fp32"


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ("bitsandbytes_int8", "bitsandbytes_nf4")])
def test_what_would_be_read_wrongly_is_refused(name: str, model_folder: Path, tmp_path: Path) -> None:
    folder = declare(model_folder, tmp_path / "declared", NAMED[name])
    for load in (load_model, lambda path: load_model_folder(path, 1, 1)):
        with pytest.raises(EngineError, match=f"quantized as {name}, which would be read as if") as caught:
            load(folder)
        assert "run this one by the engine that it was made for" in caught.value.fix


def test_the_older_name_of_the_declaration_is_read_too(model_folder: Path, tmp_path: Path) -> None:
    folder = declare(model_folder, tmp_path / "declared", NAMED["gptq_4"], "compression_config")
    with pytest.raises(EngineError, match="quantized as gptq_4"):
        load_model(folder)


def test_a_folder_without_a_configuration_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be loaded as a language model"):
        load_model(tmp_path)
