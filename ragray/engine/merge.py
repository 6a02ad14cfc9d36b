"""Merging an adapter into its base model.

In: an adapter folder that knows its base model. Out: a plain model folder (weights, tokenizer, chat
template, generation settings) that needs no adapter, with the same bytes each time. The base is loaded
afresh in full precision, never from a quantized copy, whose weights a forward pass may repack in place.
The law W_merged = W + (alpha / r) B A is checked on every layer, and the logits against the adapter's.

The merged weights are float32: the update is small beside W, and rounding the sum to bfloat16 would
lose most of it. Engines and quantizers round once, from these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ragray import prompt
from ragray.artifact import folder_digest
from ragray.errors import ArtifactError, EngineError
from ragray.train.examples import prompt_tokens
from ragray.train.loading import load_model, load_tokenizer, model_folder
from ragray.train.lora import CONFIG, load_adapter, lora_delta

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE_MODEL = "base_model.json"
WEIGHT_TOLERANCE = 1e-6  # of the largest weight, between our sum and PEFT's
LOGIT_TOLERANCE = 1e-3  # of the largest logit, between the adapted and the merged model

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """How well the merged model keeps the law, and how much the adapter changed."""

    layers: int
    max_weight_error: float  # max |merged - (W + (alpha/r) B A)|
    max_logit_error: float  # max |merged logits - adapted logits| on a fixed prompt
    max_logit: float
    relative_update: float  # Frobenius norm of all updates over that of the weights they change


def merge_adapter(adapter_folder: Path, base_record: Path, out_folder: Path) -> dict[str, float]:
    """Write the merged model, and check it against the adapted one.

    Args:
        adapter_folder: adapter_config.json and adapter_model.safetensors.
        base_record: base_model.json with the base model's path and digest.
        out_folder: created; a model folder for transformers.

    Returns:
        What was checked, by name.

    Raises:
        ArtifactError: the base model is not the one that the adapter was trained on.
        EngineError: the merged weights or logits are off.
    """
    base_folder = find_base(base_record)
    check = _merge_weights(base_folder, adapter_folder, out_folder)
    copy_companions(base_folder, out_folder)
    return {name: float(value) for name, value in asdict(check).items()}


def find_base(base_record: Path) -> Path:
    """The folder of the base model that an adapter names.

    Raises:
        ArtifactError: its content is not what the adapter was trained on.
    """
    record = json.loads(base_record.read_text(encoding="utf-8"))
    folder = model_folder(record["path"])
    if folder_digest(folder) != record["digest"]:
        raise ArtifactError(
            f"{record['path']}: not the base model that this adapter was trained on",
            "put the model back as it was, or run `ragray train` again",
        )
    return folder


def _merge_weights(base_folder: Path, adapter_folder: Path, out_folder: Path) -> MergeCheck:
    import peft

    model = load_model(base_folder, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    updates = adapter_updates(adapter_folder)
    adapted = peft.PeftModel.from_pretrained(model, str(adapter_folder)).eval()
    prompt_ids = torch.tensor([_check_prompt(base_folder)])
    with torch.no_grad():
        expected = adapted(prompt_ids, use_cache=False).logits
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
        found = merged(prompt_ids, use_cache=False).logits
    check = _check(before, updates, merged, expected, found)
    merged.save_pretrained(out_folder, max_shard_size="4GB")
    return check


def adapter_updates(adapter_folder: Path) -> dict[str, torch.Tensor]:
    """(alpha / r) B A of every adapted layer, float32, by the name of the weight that it changes."""
    config = json.loads((adapter_folder / CONFIG).read_text(encoding="utf-8"))
    weights = load_adapter(adapter_folder)
    layers = sorted(name.removesuffix(_A) for name in weights if name.endswith(_A))
    return {
        f"{layer.removeprefix(_PEFT_PREFIX)}.weight": lora_delta(
            weights[layer + _A], weights[layer + _B], config["lora_alpha"], config["r"]
        )
        for layer in layers
    }


def _check(
    before: Mapping[str, torch.Tensor],
    updates: Mapping[str, torch.Tensor],
    merged: PreTrainedModel,
    expected: torch.Tensor,
    found: torch.Tensor,
) -> MergeCheck:
    after = merged.state_dict()
    errors = [0.0]
    for name, weight in before.items():
        should = weight + updates[name] if name in updates else weight
        errors.append(float((after[name] - should).abs().max()))
    largest = max(float(weight.abs().max()) for weight in before.values())
    update_norm = sum(float(update.square().sum()) for update in updates.values()) ** 0.5
    weight_norm = sum(float(before[name].square().sum()) for name in updates) ** 0.5
    check = MergeCheck(
        layers=len(updates),
        max_weight_error=max(errors),
        max_logit_error=float((found - expected).abs().max()),
        max_logit=float(expected.abs().max()),
        relative_update=update_norm / weight_norm,
    )
    if not check.max_weight_error <= WEIGHT_TOLERANCE * largest:
        raise EngineError(
            f"merge: weights differ from W + (alpha/r)BA by {check.max_weight_error:.2e}", "report this as a defect"
        )
    if not check.max_logit_error <= LOGIT_TOLERANCE * max(1.0, check.max_logit):
        raise EngineError(
            f"merge: logits differ from the adapted model's by {check.max_logit_error:.2e}", "report this as a defect"
        )
    return check


def _check_prompt(base_folder: Path) -> list[int]:
    passages = [("Refunds", "Open the order and press Refund. 打开订单，点击退款。")]
    return prompt_tokens(load_tokenizer(base_folder), prompt.messages("How do I get a refund?", passages, "en"))


def copy_companions(base_folder: Path, out_folder: Path) -> None:
    """Copy all that a model folder holds beside weights: tokenizer, chat template, generation settings."""
    written = {"config.json", "generation_config.json"}
    for path in sorted(base_folder.iterdir()):
        is_weights = ".safetensors" in path.name or path.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
        is_card = path.name.lower().startswith(("readme", "license", "."))
        if path.is_file() and not is_weights and not is_card and path.name not in written:
            shutil.copyfile(path, out_folder / path.name)
