"""A ModelOpt checkpoint in Hugging Face's layout, read back and measured against the full model.

In: stored tensors. Out: a model whose quantized layers compute in float32 with the stored numbers, inputs rounded as
the stored scales say, and its figures. That is what a GPU computes but for the order of additions; speed and memory
are not those of a GPU and are left out. transformers itself loads such a folder without its scales and without a
word, which is why it is read here.

Runs in ModelOpt's own environment: `modelopt_task` loads this file by its path; it imports no ragray.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PARTS = ("weight", "weight_scale", "bias", "pre_quant_scale", "input_scale")


def load_stored(folder: Path) -> Any:
    """The model that a folder's tensors describe, each quantized layer computing with its stored numbers."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    stored = {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.eval()
    for name in [name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale")]:
        parts = {part: stored.pop(f"{name}.{part}", None) for part in PARTS}
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, stored_linear(parts))
    plain = {name: tensor.float() for name, tensor in stored.items()}
    missing, unknown = model.load_state_dict(plain, strict=False)
    lost = [name for name in missing if name != "lm_head.weight"]
    if lost or unknown:
        raise ValueError(f"{folder}: tensors missing: {lost}; unknown: {unknown}")
    model.tie_weights()
    return model


def stored_linear(parts: dict[str, Any]) -> Any:
    """A linear layer of stored parts: dequantized weights, and inputs rounded where an input scale is stored.

    Args:
        parts: weight int8 or float8 [out, in], or uint8 [out / 2, in], two 4-bit rows a byte; weight_scale [out], [],
            or [out, in / 128]; bias [out]; pre_quant_scale [in], by which inputs are multiplied; input_scale [].
    """
    import torch

    weight, is_int8 = dequantized(parts["weight"], parts["weight_scale"]), parts["weight"].dtype == torch.int8
    bias, before, step = (
        None if parts[name] is None else parts[name].float() for name in ("bias", "pre_quant_scale", "input_scale")
    )

    class Stored(torch.nn.Module):
        """Its tensors are plain attributes, as no state is loaded into them."""

        def forward(self, values: Any) -> Any:
            if before is not None:
                values = values * before
            if step is not None and is_int8:
                values = (values / step).round().clamp(-128, 127) * step
            elif step is not None:
                values = (values / step).clamp(-448, 448).to(torch.float8_e4m3fn).float() * step
            return torch.nn.functional.linear(values, weight, bias)

    return Stored()


def dequantized(weight: Any, scale: Any) -> Any:
    """Stored weights as float32 [out, in]; see `stored_linear`."""
    import torch

    scale = scale.float()
    if weight.dtype == torch.uint8:
        low, high = (weight & 15).to(torch.int8), (weight >> 4).to(torch.int8)
        rows = torch.stack([low, high], dim=1).reshape(2 * weight.shape[0], weight.shape[1])
        signed = torch.where(rows > 7, rows - 16, rows).float()
        return signed * scale.repeat_interleave(signed.shape[1] // scale.shape[1], dim=1)
    return weight.float() * (scale if scale.dim() == 0 or scale.numel() == 1 else scale.reshape(-1, 1))


def measure(full: Any, request: dict[str, Any]) -> dict[str, Any]:
    """How the stored model differs from the full one: divergence on held-out texts, and its own answers."""
    stored = load_stored(Path(request["out"]))
    totals = {"kl": 0.0, "same": 0, "positions": 0, "nll": 0.0, "full_nll": 0.0, "answer_tokens": 0}
    for example in request["held_out"]:
        add_divergence(totals, full, stored, example["token_ids"], example["answer_start"])
    if not totals["positions"] or not totals["answer_tokens"]:
        raise ValueError("no held-out texts with answers")
    return {
        "simulated": True,
        "load_s": None,
        "memory_bytes": None,
        "peak_memory_bytes": None,
        "positions": totals["positions"],
        "kl_nats": totals["kl"] / totals["positions"],
        "argmax_agreement": totals["same"] / totals["positions"],
        "perplexity": math.exp(totals["nll"] / totals["answer_tokens"]),
        "full_perplexity": math.exp(totals["full_nll"] / totals["answer_tokens"]),
        "answers": list(answers(stored, request)),
        "generate_s": None,
    }


def add_divergence(totals: dict[str, Any], full: Any, stored: Any, ids: Sequence[int], answer_start: int) -> None:
    """Add one text: KL(full || stored) at every position, and both negative log-likelihoods of the answer's tokens."""
    import torch

    with torch.inference_mode():
        tokens = torch.tensor([list(ids)])
        p, q = (torch.log_softmax(model(tokens).logits[0].float(), dim=-1) for model in (full, stored))
    totals["kl"] += float((p.exp() * (p - q)).sum())
    totals["same"] += int((p.argmax(-1) == q.argmax(-1)).sum())
    totals["positions"] += len(p)
    predicting = torch.arange(answer_start - 1, len(ids) - 1)
    right = tokens[0, answer_start:]
    totals["nll"] -= float(q[predicting, right].sum())
    totals["full_nll"] -= float(p[predicting, right].sum())
    totals["answer_tokens"] += len(right)


def answers(model: Any, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Greedy answers to the prompts, in their order, padded on the left in batches."""
    import torch

    prompts, stops, size = request["prompts"], request["stop_token_ids"], request["batch_size"]
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        longest = max(map(len, batch))
        ids = torch.tensor([[stops[0]] * (longest - len(prompt)) + list(prompt) for prompt in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            rows = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=request["max_new_tokens"], do_sample=False,
                eos_token_id=list(stops), pad_token_id=stops[0],
            )  # fmt: skip
        for row in rows[:, longest:].tolist():
            end = next((place for place, token in enumerate(row) if token in stops), None)
            yield {"token_ids": row[:end], "finish_reason": "length" if end is None else "stop"}
