"""Low-rank adaptation: attaching it, its matrix update, and its files.

In: a base model and `LoraConfig`. Out: a model whose only trainable weights are the A and B of its
target layers (with DoRA also the rows' lengths, with trainable tokens also their embeddings), and adapter
folders in PEFT's layout with the same bytes for the same weights. What an adapter folder says: `adapter`.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1; Kalajdzievski
2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"; Liu et al. 2024, "DoRA:
Weight-Decomposed Low-Rank Adaptation".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ragray.config_train import LoraConfig
from ragray.errors import ArtifactError, ConfigError
from ragray.schema import stable_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# ends of names in an adapter's file
MAGNITUDE = ".lora_magnitude_vector"  # DoRA's lengths of rows
TOKENS = ".token_adapter.trainable_tokens_delta"  # the embeddings of trainable tokens


def attach_lora(model: PreTrainedModel, settings: LoraConfig, seed: int) -> nn.Module:
    """Freeze `model` and add A and B to its target layers; B is zero, so nothing changes yet.

    Args:
        model: perhaps with a quantized base.
        settings: with ids in place of trainable tokens, as `with_token_ids` gives them.
        seed: of A.

    Raises:
        ConfigError: a target module, or the embedding of a token, does not exist; the message lists those that do.
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
            use_rslora=settings.use_rslora,
            use_dora=settings.method == "dora",
            trainable_token_indices=_trained_rows(model, settings),
            task_type="CAUSAL_LM",
        ),
    )
    return adapted


def with_token_ids(settings: LoraConfig, tokenizer: PreTrainedTokenizerBase) -> LoraConfig:
    """The settings with the ids of the trainable tokens in place of their texts, sorted.

    Raises:
        ConfigError: the tokenizer does not have one of them as a single token.
    """
    ids = set()
    for token in settings.trainable_tokens:
        found = tokenizer.get_vocab().get(token) if isinstance(token, str) else token
        if found is None or not 0 <= found < len(tokenizer):
            raise ConfigError(
                f"train.lora.trainable_tokens: {token!r} is no token of this model's tokenizer",
                "add it first: tokenizer.add_tokens([...]), model.resize_token_embeddings(len(tokenizer)), save both "
                "into one folder, and set train.base_model to it",
            )
        ids.add(int(found))
    return settings.model_copy(update={"trainable_tokens": tuple(sorted(ids))})


def token_ids(settings: LoraConfig) -> list[int]:
    """The ids of the trainable tokens, each once.

    Raises:
        ConfigError: the settings hold texts, which only a tokenizer can turn into ids.
    """
    if texts := [token for token in settings.trainable_tokens if isinstance(token, str)]:
        raise ConfigError(f"train.lora.trainable_tokens: {texts} are texts", "name the tokens' ids")
    return sorted({int(token) for token in settings.trainable_tokens})


def _trained_rows(model: PreTrainedModel, settings: LoraConfig) -> dict[str, list[int]] | None:
    """The embedding layer, and an output layer of its own, each with the rows to train.

    Raises:
        ConfigError: the model has no embedding for an id.
    """
    ids = token_ids(settings)
    if not ids:
        return None
    embedding: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    rows = len(embedding.weight)
    if strange := [number for number in ids if not 0 <= number < rows]:
        raise ConfigError(
            f"train.lora.trainable_tokens: the model has {rows} embeddings, none for id {strange[0]}",
            "call model.resize_token_embeddings(len(tokenizer)), save the model, and set train.base_model to it",
        )
    layers = [embedding] if output is None or output.weight is embedding.weight else [embedding, output]
    return {_name_of(model, layer): ids for layer in layers}


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is layer).rpartition(".")[2]


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
        settings: with ids in place of trainable tokens.
        base_model: `train.base_model` as the user wrote it.
        folder: created where absent.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weights[name].detach().to("cpu", torch.float32).contiguous() for name in sorted(weights)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(adapter_config(settings, base_model, weights), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter folder by their name in the file.

    Raises:
        ArtifactError: there are none, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(f"{folder}: has no {WEIGHTS}", "run `ragray train` again")
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ArtifactError(
            f"{folder}: {WEIGHTS} is damaged: {error}",
            "copy the adapter again, or train again; if it belongs to a checkpoint, remove that folder first",
        ) from None


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


def adapter_config(settings: LoraConfig, base_model: str, weights: Iterable[str]) -> dict[str, Any]:
    """What PEFT reads from adapter_config.json; `weights` are the names in the adapter's file."""
    import peft

    trained = sorted(name.removesuffix(TOKENS).rpartition(".")[2] for name in weights if name.endswith(TOKENS))
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
        "trainable_token_indices": {name: token_ids(settings) for name in trained} or None,
        "use_dora": settings.method == "dora",
        "use_rslora": settings.use_rslora,
    }


def _file_name(parameter: str) -> str:
    """The name in an adapter file of a parameter of a PEFT model, perhaps inside another module."""
    name = parameter[parameter.index("base_model.") :].removesuffix(".default")
    return name.replace(".default.", ".").replace(f"{MAGNITUDE}.weight", MAGNITUDE)
