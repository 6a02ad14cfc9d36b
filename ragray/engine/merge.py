"""Merging an adapter into its base model.

In: an adapter folder that knows its base model. Out: a plain model folder (weights, tokenizer, chat
template, generation settings) that needs no adapter, with the same bytes each time. The base is loaded
afresh in full precision, never from a quantized copy, whose weights a forward pass may repack in place.
What the adapter's own configuration says decides how (LoRA, rsLoRA, DoRA, trained embeddings: `train.adapter`).
The law, for LoRA W_merged = W + (alpha / r) B A, is checked on every weight, and the logits against the adapter's.

The merged weights are float32: the update is small beside W, and rounding the sum to bfloat16 would
lose most of it. Engines and quantizers round once, from these.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ragray import prompt
from ragray.engine.weight_format import check_full
from ragray.errors import ArtifactError, EngineError
from ragray.train.adapter import Adapter, read_adapter
from ragray.train.base_record import find_base, keep_template
from ragray.train.examples import prompt_tokens
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.template import check_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHT_TOLERANCE = 1e-6  # of the largest weight, between our sum and PEFT's
LOGIT_TOLERANCE = 1e-3  # of the largest logit, between the adapted and the merged model


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """How well the merged model keeps the law, and how much the adapter changed."""

    layers: int
    token_rows: int  # trained rows of the embedding and the output layer
    max_weight_error: float  # max |merged - the law's|, for LoRA |merged - (W + (alpha/r) B A)|
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
        ArtifactError: the base model is not the one that the adapter was trained on, or the adapter is of an unknown
            kind.
        EngineError: the base model is quantized, or the merged weights or logits are off.
    """
    base_folder = find_base(base_record)
    check_full(base_folder)
    check = _merge_weights(base_folder, adapter_folder, out_folder)
    copy_companions(base_folder, out_folder)
    keep_template(base_record, out_folder)
    check_template(out_folder, load_tokenizer(out_folder))
    return {name: float(value) for name, value in asdict(check).items()}


def _merge_weights(base_folder: Path, adapter_folder: Path, out_folder: Path) -> MergeCheck:
    import peft

    adapter = read_adapter(adapter_folder)
    model = load_model(base_folder, torch.float32)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adapted = peft.PeftModel.from_pretrained(model, str(adapter_folder)).eval()
    prompt_ids = torch.tensor([_check_prompt(base_folder)])
    with torch.no_grad():
        expected = adapted(prompt_ids, use_cache=False).logits
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
        found = merged(prompt_ids, use_cache=False).logits
    check = _check(before, adapter, merged, expected, found)
    merged.save_pretrained(out_folder, max_shard_size="4GB")
    return check


def merged_weights(before: Mapping[str, torch.Tensor], adapter: Adapter) -> dict[str, torch.Tensor]:
    """The weights that an adapter changes, after merging, by name.

    Raises:
        ArtifactError: the base model has no such weight.
    """
    after: dict[str, torch.Tensor] = {}
    for part in adapter:
        if part.name not in before:
            raise ArtifactError(
                f"the base model has no {part.name}, which the adapter changes", "train again on this base model"
            )
        after[part.name] = part.merged(after.get(part.name, before[part.name]))
    return after


def _check(
    before: Mapping[str, torch.Tensor],
    adapter: Adapter,
    merged: PreTrainedModel,
    expected: torch.Tensor,
    found: torch.Tensor,
) -> MergeCheck:
    after = dict(merged.named_parameters())
    should = merged_weights(before, adapter)
    changed = [float((should[name] - before[name]).square().sum()) for name in should]
    check = MergeCheck(
        layers=len(adapter.layers),
        token_rows=sum(len(rows.ids) for rows in adapter.tokens),
        max_weight_error=max(float((after[n] - should.get(n, w)).abs().max()) for n, w in before.items()),
        max_logit_error=float((found - expected).abs().max()),
        max_logit=float(expected.abs().max()),
        relative_update=(sum(changed) / sum(float(before[name].square().sum()) for name in should)) ** 0.5,
    )
    largest = max(float(weight.abs().max()) for weight in before.values())
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
