"""NVIDIA ModelOpt's quantization methods, each run in ModelOpt's own environment.

In: nothing. Out: what ragray's side knows of them: names, script, and the versions that are checked; and a check of
what was written for trtllm-build. The work is done by `modelopt_task.py`, which the other interpreter runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragray.engine.compat_config import read_json, rotary
from ragray.engine.gpu_policy import ENGINE, FORMATS, TORCH, WeightFormat, refusal
from ragray.engine.modelopt_task import MAKE, PINS, RECIPES, TRTLLM_FOLDER
from ragray.errors import EngineError

__all__ = [
    "MAKE",
    "PINS",
    "QUANTIZED",
    "RECIPES",
    "REQUIREMENT",
    "TASK",
    "TRTLLM_FOLDER",
    "check_checkpoint",
    "used_by",
]

TASK = Path(__file__).with_name("modelopt_task.py")
REQUIREMENT = "deploy/modelopt.txt"
QUANTIZED = tuple(made for made in FORMATS.values() if made.algorithm)  # what stage quantize offers
# keys of TensorRT-LLM's QuantConfig: any other is a TypeError
_QUANTIZATION = {"quant_algo", "kv_cache_quant_algo", "group_size", "has_zero_point", "pre_quant_scale",
                 "exclude_modules", "smoothquant_val", "clamp_val", "use_meta_recipe"}  # fmt: skip
_HOPPER = "9.0"  # every format has kernels there


def used_by(made: WeightFormat) -> str:
    """What loads a method's files."""
    kinds = [kind for kind in (ENGINE, TORCH) if refusal(kind, made.name, _HOPPER) is None]
    return f"NVIDIA GPUs: engine kind {' or '.join(kinds)}"


def check_checkpoint(folder: Path, weights: str, model_config: Mapping[str, Any]) -> None:
    """Check a checkpoint for trtllm-build against what TensorRT-LLM would read of it.

    Raises:
        EngineError: files are missing, or it would be read as another model.
    """
    try:
        config = read_json(folder / "config.json")
        theta, _ = rotary(model_config)
    except ValueError as error:
        raise EngineError(str(error), "quantize again") from None
    quantization = config.get("quantization") or {}
    expected = {
        "quant_algo": (quantization.get("quant_algo"), FORMATS[weights].algorithm),
        "rotary_base": (config.get("rotary_base"), theta),
        "num_hidden_layers": (config.get("num_hidden_layers"), model_config["num_hidden_layers"]),
        "hidden_size": (config.get("hidden_size"), model_config["hidden_size"]),
    }
    wrong = [f"{key} {found} instead of {right}" for key, (found, right) in expected.items() if found != right]
    wrong += [f"quantization.{key}, which it refuses" for key in sorted(set(quantization) - _QUANTIZATION)]
    if not (folder / "rank0.safetensors").is_file():
        wrong.append("no rank0.safetensors")
    if wrong:
        raise EngineError(f"{folder}: TensorRT-LLM would find {'; '.join(wrong)}", "report this as a defect of ragray")
