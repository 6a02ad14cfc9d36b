"""In which number format a model folder holds its weights, and whether it may be loaded here.

In: a Hugging Face folder's config.json. Out: a name such as "fp32" or "bitsandbytes_nf4", or a refusal.

transformers only warns of a `quant_method` that it does not know, and then reads the quantized numbers as if they
were the weights: the model loads and answers nonsense. So what is not known to be read rightly is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragray.errors import EngineError

FULL = "fp32"
INT8_WEIGHT_ONLY = "ragray_int8_weight_only"  # of `weight_only`
NF4 = "bitsandbytes_nf4"
LOADABLE = (FULL, "bitsandbytes_int8", NF4, INT8_WEIGHT_ONLY)  # each is read back in the tests


def weights_of(folder: Path) -> str:
    """The weight format that a model folder holds in memory once loaded, such as "fp32" or "bitsandbytes_int8".

    A method that this version does not know keeps the name that the folder gives it, such as "modelopt_FP8".
    """
    quantization = _quantization(folder)
    if quantization is None:
        return FULL
    method = str(quantization.get("quant_method", "unnamed"))
    if method == "bitsandbytes":
        return f"{method}_{_bitsandbytes(quantization)}"
    algorithm = quantization.get("quant_algo") or quantization.get("format") or quantization.get("bits")
    return f"{method}_{algorithm}" if algorithm else method


def check_loadable(folder: Path) -> None:
    """Check that a folder's weights are read rightly by this version.

    Raises:
        EngineError: they are quantized by a method that is not among `LOADABLE`.
    """
    if (found := weights_of(folder)) not in LOADABLE:
        raise EngineError(
            f"{folder}: its weights are quantized as {found}, which would be read as if they were not quantized",
            f"name a folder with weights in one of {', '.join(LOADABLE)}, or run this one by the engine that it was "
            "made for",
        )


def check_full(folder: Path) -> None:
    """Check that a folder's weights are not quantized: only such a model may be merged into.

    Raises:
        EngineError: they are quantized.
    """
    if (found := weights_of(folder)) != FULL:
        raise EngineError(
            f"{folder}: its weights are quantized as {found}; an adapter merged into them gives a wrong model",
            "set train.base_model to the unquantized model; train.quantization quantizes it while it trains",
        )


def _quantization(folder: Path) -> Mapping[str, Any] | None:
    """`quantization_config` of config.json; None where there is none. A missing config.json is no quantization."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # whoever loads the folder says what is wrong with it
    found = config.get("quantization_config") or config.get("compression_config")  # older compressed-tensors
    return dict(found) if found else None


def _bitsandbytes(quantization: Mapping[str, Any]) -> str:
    if quantization.get("load_in_8bit"):
        return "int8"
    return str(quantization.get("bnb_4bit_quant_type", "fp4")) if quantization.get("load_in_4bit") else "unnamed"
