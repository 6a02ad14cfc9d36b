"""Weights in one byte each, by torch alone: linear layers and the embedding in int8, with a scale for each row.

In: a model folder. Out: a folder whose weights lie in `int8.safetensors`, and the model that they stand for. What is
computed is float32: a layer's output is its input times the integers, times the scales. Unlike bitsandbytes the
embedding shrinks too, and nothing depends on what the processor can do.

The file is not named model.safetensors on purpose: transformers does not know the format, and would take the integers
for the weights; so it finds none and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import Embedding, Linear
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ragray.errors import EngineError

METHOD = "ragray"
FILE = "int8.safetensors"
_MOST = 127  # symmetric: -128 is not used
_AGAIN = "quantize the model again: `ragray quantize --config FILE`"


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and scales of a weight matrix, to the nearest multiple of each row's scale.

    Args:
        weight: float [rows, columns].

    Returns:
        int8 [rows, columns] and float32 [rows], with |weight - integer * scale| <= scale / 2.
    """
    scale = weight.float().abs().amax(dim=1) / _MOST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(weight.float() / scale[:, None]).to(torch.int8), scale


class Int8Linear(torch.nn.Module):
    """A linear layer whose weights are integers: y = (x Q^T) s + b."""

    def __init__(self, rows: int, columns: int, bias: bool) -> None:
        super().__init__()
        self.weight, self.scale = _integers(rows, columns)
        self.bias = _fixed(torch.empty(rows, device="meta")) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., columns] -> float32 [..., rows]."""
        y = torch.nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


class Int8Embedding(torch.nn.Module):
    """An embedding whose rows are integers."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight, self.scale = _integers(rows, columns)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> float32 [..., columns]."""
        return self.weight[ids].to(torch.float32) * self.scale[ids][..., None]


def save_int8(model: PreTrainedModel, out: Path) -> None:
    """Write a float model's weights as integers and scales, and a config.json that says so."""
    quantized = {name for name, layer in model.named_modules() if isinstance(layer, (Linear, Embedding))}
    skipped = {_output_layer(model)} if _tied(model) else set()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer in skipped:
            continue
        if layer in quantized and kind == "weight":
            tensors[f"{layer}.weight"], tensors[f"{layer}.scale"] = quantize_rows(tensor)
        else:
            tensors[name] = tensor.float().contiguous()
    save_file(tensors, out / FILE)
    config = model.config.to_dict() | {
        "dtype": "float32",
        "quantization_config": {"quant_method": METHOD, "format": "int8_weight_only", "granularity": "row"},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_int8(folder: Path) -> PreTrainedModel:
    """The model of a folder that `save_int8` wrote, for inference.

    Raises:
        EngineError: the file is missing, damaged, or does not fit the configuration.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tensors = load_file(folder / FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise EngineError(f"{folder}: its int8 weights cannot be read: {error}", _AGAIN) from None
    del config.quantization_config
    with init_empty_weights(include_buffers=False):  # what is computed, such as rotary frequencies, is made
        model = _unfilled(config)
    _replace_layers(model)
    if _tied(model):
        output, embedding = _output_layer(model), _name_of(model, model.get_input_embeddings())
        for kind in ("weight", "scale"):
            if f"{embedding}.{kind}" in tensors:
                tensors[f"{output}.{kind}"] = tensors[f"{embedding}.{kind}"]
    _check_fit(folder, model, tensors)
    model.load_state_dict(tensors, assign=True)
    model.train(mode=False)
    return model


def _unfilled(config: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32
    )
    return model


def _integers(rows: int, columns: int) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    weight = torch.empty((rows, columns), dtype=torch.int8, device="meta")
    return _fixed(weight), _fixed(torch.empty(rows, device="meta"))


def _fixed(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)


def _replace_layers(model: PreTrainedModel) -> None:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Embedding):
            model.set_submodule(name, Int8Embedding(*layer.weight.shape))
        elif isinstance(layer, Linear):
            rows, columns = layer.weight.shape
            model.set_submodule(name, Int8Linear(rows, columns, bias=layer.bias is not None))


def _check_fit(folder: Path, model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    if odd := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise EngineError(f"{folder}: int8 weights that do not fit config.json: {', '.join(odd[:3])}", _AGAIN)


def _tied(model: PreTrainedModel) -> bool:
    """Whether the output layer is the embedding."""
    return bool(model.config.tie_word_embeddings)


def _output_layer(model: PreTrainedModel) -> str:
    return _name_of(model, model.get_output_embeddings())  # type: ignore[no-untyped-call]


def _name_of(model: PreTrainedModel, module: torch.nn.Module | None) -> str:
    modules: list[tuple[str, torch.nn.Module]] = list(model.named_modules())
    return next(name for name, other in modules if other is module)
