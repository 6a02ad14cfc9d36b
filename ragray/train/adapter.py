"""What an adapter folder says, and what it makes of the base model's weights.

In: adapter_config.json and adapter_model.safetensors in PEFT's layout, from this trainer or from PEFT. Out: the
adapter's layers, each with its scale, and the law of merging. An adapter whose configuration says something that is
not known here is refused, as merging it by another law would give a wrong model without any error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ragray.errors import ArtifactError
from ragray.train.lora import CONFIG, MAGNITUDE, TOKENS, load_adapter

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PREFIX = "base_model.model."
_UNDERSTOOD = {
    "alpha_pattern", "lora_alpha", "peft_type", "r", "rank_pattern", "trainable_token_indices", "use_dora",
    "use_rslora",
}  # fmt: skip
# they choose what is trained, or how it begins, and leave no trace in the law
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "target_modules", "task_type",
}  # fmt: skip
_NOTHING: tuple[object, ...] = (None, False, "", "none", [], {})
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base model's weights


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """The update of one linear layer.

    `a` is [r, in], `b` is [out, r], float32. `magnitude` is [out], the rows' lengths that DoRA trains.
    """

    name: str  # of the weight that it changes, in the base model
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]

    def delta(self) -> torch.Tensor:
        """The scaled BA, [out, in]."""
        return self.scale * (self.b @ self.a)

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """What the adapter makes of W: W + scale BA; with DoRA its rows are scaled to the trained lengths.

        Source: Hu et al. 2021, section 4.1; Liu et al. 2024, equation 5 (a row here is a column there).

        Args:
            weight: W, float32 [out, in].
        """
        changed = weight.add(self.delta())
        if self.magnitude is None:
            return changed
        lengths = torch.linalg.vector_norm(changed, dim=1)
        return changed.mul((self.magnitude / lengths)[:, None])


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Rows of an embedding or output layer that the adapter replaces: `values` is [ids, hidden], float32."""

    name: str
    ids: tuple[int, ...]
    values: torch.Tensor

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with these rows."""
        return weight.index_copy(0, torch.tensor(self.ids), self.values)


@dataclass(frozen=True)
class Adapter:
    """An adapter folder's content."""

    config: Mapping[str, Any]
    layers: tuple[LoraLayer, ...]
    tokens: tuple[TrainedRows, ...]

    def __iter__(self) -> Iterator[LoraLayer | TrainedRows]:
        """All that changes a weight, by its name."""
        yield from self.layers
        yield from self.tokens

    @property
    def kind(self) -> str:
        """In words: LoRA, rsLoRA, DoRA."""
        return ("rs" if self.config.get("use_rslora") else "") + ("DoRA" if self.config.get("use_dora") else "LoRA")


def read_adapter(folder: Path) -> Adapter:
    """All that an adapter folder says.

    Raises:
        ArtifactError: it is not whole, or of a kind that is not known here; the message names the key.
    """
    config = read_config(folder)
    weights = {name: tensor.float() for name, tensor in load_adapter(folder).items()}
    names = sorted(name.removesuffix(_A) for name in weights if name.endswith(_A))
    layers = tuple(_layer(name, weights, config) for name in names)
    tokens = tuple(_rows(name, tensor, config) for name, tensor in sorted(weights.items()) if name.endswith(TOKENS))
    known = {name + end for name in names for end in (_A, _B, MAGNITUDE)} | {n for n in weights if n.endswith(TOKENS)}
    if strange := sorted(weights.keys() - known):
        raise ArtifactError(f"{folder}: {strange[0]} is no weight of a LoRA adapter", "train again with `ragray train`")
    return Adapter(config, layers, tokens)


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, checked.

    Raises:
        ArtifactError: it is missing, damaged, or says something that is not known here; the message names the key.
    """
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder}: has no {CONFIG}", "name a folder that `ragray train` or PEFT wrote")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(
            f"{folder}: {CONFIG} is damaged: {error}", "copy the adapter again, or train again"
        ) from None
    if config.get("peft_type") != "LORA":
        raise _unknown(folder, "peft_type", config.get("peft_type"))
    if (start := config.get("init_lora_weights", True)) not in _PLAIN_STARTS:
        raise _unknown(folder, "init_lora_weights", start)
    for key in sorted(config.keys() - _UNDERSTOOD - _WITHOUT_EFFECT - {"init_lora_weights"}):
        if config[key] not in _NOTHING:
            raise _unknown(folder, key, config[key])
    if missing := [key for key in ("r", "lora_alpha") if not config.get(key)]:
        raise ArtifactError(f"{folder}: {CONFIG} does not say {missing[0]}", "copy the adapter again, or train again")
    return config


def _unknown(folder: Path, key: str, value: object) -> ArtifactError:
    return ArtifactError(
        f"{folder}: an adapter of an unknown kind: {key} is {value!r}",
        "merge it with the PEFT release that made it, or train again with `ragray train`",
    )


def _layer(name: str, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> LoraLayer:
    if name + _B not in weights or bool(config.get("use_dora")) != (name + MAGNITUDE in weights):
        raise ArtifactError(f"{name}: weights are missing from the adapter's file", "run `ragray train` again")
    layer = name.removeprefix(_PREFIX)
    return LoraLayer(
        name=f"{layer}.weight",
        a=weights[name + _A],
        b=weights[name + _B],
        scale=_scale(layer, config),
        magnitude=weights.get(name + MAGNITUDE),
    )


def _scale(layer: str, config: Mapping[str, Any]) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA, where a pattern may give a layer its own alpha and r."""
    rank = _by_pattern(config.get("rank_pattern"), layer, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), layer, config["lora_alpha"])
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _by_pattern(patterns: Mapping[str, float] | None, layer: str, default: float) -> float:
    """As PEFT has it: a pattern matches the end of a layer's name; the first one counts."""
    found = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", layer))
    return next(found, default)


def _rows(name: str, values: torch.Tensor, config: Mapping[str, Any]) -> TrainedRows:
    layer = name.removeprefix(_PREFIX).removesuffix(TOKENS)
    indices: Mapping[str, Sequence[int]] | Sequence[int] = config.get("trainable_token_indices") or {}
    by_layer = indices if isinstance(indices, Mapping) else {layer.rpartition(".")[2]: indices}
    ids = next((ids for end, ids in by_layer.items() if layer == end or layer.endswith(f".{end}")), ())
    if len(ids) != len(values):
        raise ArtifactError(
            f"{CONFIG}: trainable_token_indices names {len(ids)} tokens of {layer}, the file has {len(values)}",
            "run `ragray train` again",
        )
    return TrainedRows(f"{layer}.weight", tuple(ids), values)
