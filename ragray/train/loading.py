"""Base models and tokenizers, from a folder or a hub id.

In: `train.base_model`. Out: the folder on this machine, its tokenizer and its model. Weights come from
safetensors only and no code is taken from a model's folder. What is missing is named before any work.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ragray.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Quantization = Literal["none", "nf4", "int8"]
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt")


def model_folder(base_model: str) -> Path:
    """The local folder of a model; a hub id is fetched once into the hub's cache.

    Raises:
        ConfigError: neither a folder nor a hub id.
        EngineError: the hub cannot be reached or does not have it, or the folder is incomplete.
    """
    folder = Path(base_model)
    if not folder.is_dir():
        if folder.exists() or not _HUB_ID.match(base_model):
            raise ConfigError(
                f"train.base_model: {base_model}: no such folder",
                "name a folder with config.json, tokenizer.json and *.safetensors, or a hub id such as org/model",
            )
        folder = _fetch(base_model)
    check_model_folder(folder)
    return folder


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a whole model: configuration, tokenizer, all weight files.

    Raises:
        EngineError: naming what is missing.
    """
    fix = f"fetch the model again into {folder}, in safetensors format"
    if not (folder / "config.json").is_file():
        raise EngineError(f"{folder}: has no config.json, so it is not a model's folder", fix)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise EngineError(f"{folder}: has no tokenizer.json or tokenizer.model", fix)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(name for name in shards if not (folder / name).is_file()):
            raise EngineError(f"{folder}: weight files are missing: {', '.join(missing)}", fix)
    elif not any(folder.glob("*.safetensors")):
        raise EngineError(f"{folder}: has no *.safetensors; other weight formats are not read", fix)


def model_config(folder: Path) -> Any:
    """The configuration of a model's folder, of transformers.

    Raises:
        EngineError: transformers does not know the architecture.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{folder}: the model's configuration cannot be read: {error}",
            "use a causal language model that this version of transformers knows, without code of its own",
        ) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder, with its chat template.

    Raises:
        EngineError: it cannot be read, or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EngineError(f"{folder}: the tokenizer cannot be read: {error}", "fetch the model again") from error
    if not tokenizer.chat_template:
        raise EngineError(
            f"{folder}: the tokenizer has no chat template",
            "use an instruction-tuned model, or add chat_template.jinja to its folder",
        )
    return tokenizer


def load_model(
    folder: Path, dtype: torch.dtype, attention: str = "sdpa", quantization: Quantization = "none"
) -> PreTrainedModel:
    """A causal language model on the CPU, in `dtype`.

    Args:
        folder: what `model_folder` returned.
        dtype: of all its weights that are not quantized, and of what is computed with those that are.
        attention: a name that transformers knows, or one that was registered with it.
        quantization: of the linear layers, to train adapters on; never merge into, nor save, a quantized model.

    Raises:
        EngineError: transformers does not know the architecture, or the weights do not fit it.
    """
    from transformers import AutoModelForCausalLM

    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attention,
            quantization_config=_quantization_config(quantization, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EngineError(
            f"{folder}: the model cannot be loaded: {error}",
            "use a causal language model that this version of transformers knows, without code of its own",
        ) from error
    if quantization == "nf4":
        _never_repack(model)
    return model


def _quantization_config(quantization: Quantization, dtype: torch.dtype) -> Any:
    """What transformers quantizes by while it loads.

    Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3 (NF4 with double
    quantization); Dettmers et al. 2022, "LLM.int8()".
    """
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _never_repack(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking NF4 weights in place on CPUs in the first forward pass without gradients.

    Training goes on after a validation, and would then read the repacked weights as if they were not.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EngineError(
            f"train.base_model: {hub_id}: not a folder here, and the hub does not give it: {error}",
            "download the model where the hub can be reached, and set train.base_model to its folder",
        ) from error


def check_packable(model: PreTrainedModel, max_length: int) -> None:
    """Check that a model can train on packed rows of examples of up to `max_length` tokens.

    Raises:
        EngineError: its attention cannot be replaced, or logits cannot be asked for single positions.
        ConfigError: its attention window or its positions are shorter than the examples.
    """
    name = type(model).__name__
    takes_positions = "logits_to_keep" in inspect.signature(model.forward).parameters
    if not (takes_positions and getattr(model, "_supports_attention_backend", False)):
        raise EngineError(
            f"{name}: this architecture cannot train on packed rows",
            "choose a model of the Llama, Qwen, Mistral, Gemma or Phi kind",
        )
    limits = {"attention window": "sliding_window", "number of positions": "max_position_embeddings"}
    for what, field in limits.items():
        limit = getattr(model.config, field, None)
        if limit is not None and max_length > limit:
            raise ConfigError(
                f"train.max_length: {max_length} is more than the model's {what}, {limit}",
                f"set train.max_length to at most {limit}",
            )
