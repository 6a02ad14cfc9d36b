"""Low-rank adaptation: attaching it, its matrix update, and its files.

In: a base model and `LoraConfig`. Out: a model whose only trainable weights are the A and B of its
target layers, and adapter folders in PEFT's layout with the same bytes for the same weights.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ragray.config_train import LoraConfig
from ragray.errors import ArtifactError, ConfigError
from ragray.schema import stable_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def lora_delta(a: torch.Tensor, b: torch.Tensor, alpha: float, rank: int) -> torch.Tensor:
    """The update of a layer's weight: W_merged = W + (alpha / r) B A, computed in float32.

    Args:
        a: [r, in].
        b: [out, r].
        alpha: the scale's numerator.
        rank: r.
    """
    return (alpha / rank) * (b.float() @ a.float())


def attach_lora(model: PreTrainedModel, settings: LoraConfig, seed: int) -> nn.Module:
    """Freeze `model` and add A and B to its target layers; B is zero, so nothing changes yet.

    Raises:
        ConfigError: a target module does not exist; the message lists those that do.
    """
    import peft

    check_targets(model, settings.target_modules)
    torch.manual_seed(stable_digest("lora", seed) % 2**63)
    adapted: nn.Module = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=sorted(settings.target_modules),
            task_type="CAUSAL_LM",
        ),
    )
    return adapted


def check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    """Check that every target module exists in the model.

    Raises:
        ConfigError: listing the names of the model's linear layers.
    """
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if missing := [name for name in targets if name not in linear]:
        raise ConfigError(
            f"train.lora.target_modules: this model has no {', '.join(missing)}",
            f"choose from {', '.join(sorted(linear - {'lm_head'}))}",
        )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by their name in an adapter file, sorted."""
    named = {_file_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    return dict(sorted(named.items()))


def save_adapter(weights: Mapping[str, torch.Tensor], settings: LoraConfig, base_model: str, folder: Path) -> None:
    """Write an adapter folder in PEFT's layout; the same weights give the same bytes.

    Args:
        weights: float32 tensors by their name in the file.
        settings: rank, alpha, dropout, target modules.
        base_model: `train.base_model` as the user wrote it.
        folder: created where absent.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weights[name].detach().to("cpu", torch.float32).contiguous() for name in sorted(weights)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(adapter_config(settings, base_model), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter folder by their name in the file.

    Raises:
        ArtifactError: there are none.
    """
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(f"{folder}: has no {WEIGHTS}", "run `ragray train` again")
    return load_file(folder / WEIGHTS)


def set_adapter(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a model with LoRA the weights of an adapter file.

    Raises:
        ArtifactError: the names or shapes differ from the model's.
    """
    parameters = trainable(model)
    expected = {name: tuple(p.shape) for name, p in parameters.items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != given:
        different = sorted(set(expected.items()) ^ set(given.items()))[:3]
        raise ArtifactError(f"the adapter does not fit the base model: {different}", "train again on this base model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def adapter_config(settings: LoraConfig, base_model: str) -> dict[str, Any]:
    """What PEFT reads from adapter_config.json."""
    import peft

    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "peft_type": "LORA",
        "peft_version": peft.__version__,
        "r": settings.rank,
        "target_modules": sorted(settings.target_modules),
        "task_type": "CAUSAL_LM",
    }


def _file_name(parameter: str) -> str:
    """The name in an adapter file of a parameter of a PEFT model, perhaps inside another module."""
    start = parameter.index("base_model.")
    return parameter[start:].replace(".default.", ".")
