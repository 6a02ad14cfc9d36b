"""Configurations in the words that older releases read: only JSON in, only JSON out.

transformers 5 writes `rope_parameters`, `dtype`, `TokenizersBackend` and a list of extra special tokens. transformers
4.57, which TensorRT-LLM 1.2 needs, does not know these and takes its defaults without a word: a rope theta of 10,000
where the file says 1,000,000. ModelOpt 0.47 writes TensorRT-LLM checkpoints that lack the same rotary values, and what
a Qwen layer asks for.

Scripts that run in another interpreter load this file by its path: it imports the standard library alone, and says
what is wrong by ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAST_TOKENIZER = "PreTrainedTokenizerFast"  # reads tokenizer.json as it stands, in every release
DECODERS = {"llama": "llama", "qwen2": "qwen"}  # model_type -> ModelOpt's decoder type, where the export is whole
_UNSCALED = "default"
_ATTENTION_BIAS = {"llama": "attention_bias", "qwen2": None}  # key of config.json that says it; None: always has it


def compatible_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config.json that transformers 4.57 and 5 read alike.

    The keys of transformers 5 stay; what 4.57 looks for is added at the top level: `rope_theta`, `rope_scaling`,
    `partial_rotary_factor`, `torch_dtype`.

    Raises:
        ValueError: there is no older form of it.
    """
    made = dict(config)
    if not made.get("architectures"):
        raise ValueError("config.json names no architecture")
    made.update(_old_rotary(made))
    number_format = made.get("torch_dtype") or made.get("dtype") or "float32"
    made["torch_dtype"] = made["dtype"] = number_format
    return made


def compatible_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that transformers 4.57 and 5 read alike, beside the same tokenizer.json.

    `tokenizer_class` names the class that reads tokenizer.json as it stands; a list of extra special tokens, which
    4.57 takes for a mapping and fails on, becomes `additional_special_tokens`.
    """
    made = {key: value for key, value in config.items() if key not in ("backend", "is_local", "auto_map")}
    made["tokenizer_class"] = FAST_TOKENIZER
    extra = made.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        known = list(made.get("additional_special_tokens") or ())
        made["additional_special_tokens"] = known + [token for token in extra if token not in known]
    elif extra:
        made["extra_special_tokens"] = extra
    return made


def rotary(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The rotary embedding of a model's config.json: theta, and its scaling or None.

    Raises:
        ValueError: the config says no theta, or has one for each type of layer.
    """
    parameters = config.get("rope_parameters") or {}
    if any(isinstance(value, Mapping) for value in parameters.values()):
        raise ValueError("config.json has rotary embeddings for each type of layer, which older releases cannot read")
    theta = parameters.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise ValueError("config.json does not say rope_theta")
    scaling = {key: value for key, value in parameters.items() if key not in ("rope_theta", "partial_rotary_factor")}
    scaling = scaling or dict(config.get("rope_scaling") or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return float(theta), None if kind == _UNSCALED else scaling | {"rope_type": kind, "type": kind}


def trtllm_config(exported: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A TensorRT-LLM checkpoint's config.json, with what ModelOpt's export leaves out.

    Args:
        exported: config.json as ModelOpt wrote it.
        config: the model's own config.json.

    Adds `rotary_base` and `rotary_scaling` (TensorRT-LLM's default base is 10,000, whatever the model), `attn_bias`
    and, for Qwen, `qwen_type`, without which its layers cannot be made.

    Raises:
        ValueError: the model's architecture or rotary embedding is not one that is known to be right.
    """
    model_type = str(config.get("model_type"))
    if model_type not in DECODERS:
        raise ValueError(f"a TensorRT-LLM checkpoint of a {model_type} model: known are {', '.join(DECODERS)}")
    theta, scaling = rotary(config)
    made = dict(exported) | {"rotary_base": theta, "rotary_scaling": scaling}
    bias_key = _ATTENTION_BIAS[model_type]
    made["attn_bias"] = True if bias_key is None else bool(config.get(bias_key, False))
    if DECODERS[model_type] == "qwen":
        made["qwen_type"] = model_type
    return made


def weight_only(exported: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """The config.json of an unquantized TensorRT-LLM checkpoint that trtllm-build quantizes itself.

    trtllm-build skips weights that are int8 already and then misses their `per_channel_scale`: weight-only INT8
    must start from float16 weights.
    """
    return dict(exported) | {"quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": None}}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        ValueError: it is missing or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is no JSON object")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object to a file."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _old_rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    theta, scaling = rotary(config)
    old: dict[str, Any] = {"rope_theta": theta, "rope_scaling": scaling}
    partial = (config.get("rope_parameters") or {}).get("partial_rotary_factor")
    return old if partial is None else old | {"partial_rotary_factor": partial}
