"""Quantized checkpoints, each compared with the full model after it is read back.

In: a model folder. Out: a Hugging Face folder of the quantized model, and a `QuantizationRecord`.

A bitsandbytes model repacks weights in its first forward pass, and what is saved after that is wrong without
any error. So: quantize, save before any forward, read the saved files back, and compare those.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ragray.engine.manifest import installed
from ragray.engine.tokens import load_tokenizer
from ragray.engine.transformers_runtime import load_model, load_model_folder
from ragray.engine.verification import GREEDY, fixed_prompts
from ragray.errors import EngineError
from ragray.train.template import TEMPLATE

_MOST_KL = 0.5  # nats; beyond this the saved files are taken to be damaged


@dataclass(frozen=True, slots=True)
class QuantizationRecord:
    """What became of a checkpoint: sizes on disk, and its distance to the full model."""

    method: str
    bytes: int  # of the quantized weights' files
    full_bytes: int
    positions: int  # tokens whose next-token distributions were compared
    kl_nats: float  # mean KL(full || quantized)
    argmax_agreement: float  # share of positions with the same most probable token
    versions: dict[str, str]


def quantize(method: str, model_folder: Path, out: Path) -> QuantizationRecord:
    """Write the quantized checkpoint of a model folder into the folder `out`, and compare both.

    Raises:
        EngineError: the method is unknown, or what was saved is far from the full model.
    """
    if method not in METHODS:
        raise EngineError(f"no quantization method {method!r}", f"choose one of {', '.join(METHODS)}")
    METHODS[method](model_folder, out)
    gc.collect()
    load_tokenizer(model_folder).save_pretrained(out)
    if (model_folder / TEMPLATE).is_file():
        shutil.copyfile(model_folder / TEMPLATE, out / TEMPLATE)
    sequences = comparison_sequences(model_folder)
    expected = _log_probabilities(load_model(model_folder), sequences)
    gc.collect()
    kl, agreement = divergence(expected, _log_probabilities(load_model(out), sequences))
    if not kl <= _MOST_KL:
        raise EngineError(
            f"{method}: the saved model differs from the full one by {kl:.2f} nats", "report this as a defect of ragray"
        )
    return QuantizationRecord(
        method=method,
        bytes=weight_bytes(out),
        full_bytes=weight_bytes(model_folder),
        positions=sum(len(rows) for rows in expected),
        kl_nats=round(kl, 6),
        argmax_agreement=round(agreement, 4),
        versions=installed("bitsandbytes", "torch", "transformers"),
    )


def comparison_sequences(model_folder: Path) -> list[list[int]]:
    """The fixed prompts, each followed by the full model's own greedy answer, as token ids."""
    engine = load_model_folder(model_folder, batch_size=8, threads=0)
    try:
        prompts = fixed_prompts(engine.tokenizer)
        answers = engine.generate(prompts, GREEDY)
    finally:
        engine.close()
    return [prompt + list(answer.token_ids) for prompt, answer in zip(prompts, answers, strict=True)]


def divergence(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Mean KL(expected || found) in nats, and the share of equal arg maxima.

    Args:
        expected: log probabilities float32 [tokens, vocabulary] of each sequence.
        found: those of the other model.
    """
    total, same, positions = 0.0, 0, 0
    for p, q in zip(expected, found, strict=True):
        total += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        positions += len(p)
    return total / positions, same / positions


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights' files of a model folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _bitsandbytes_int8(model_folder: Path, out: Path) -> None:
    """LLM.int8: linear layers in int8 with a scale per row; embedding and output layer stay.

    Source: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale".
    """
    model = AutoModelForCausalLM.from_pretrained(
        model_folder,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),  # type: ignore[no-untyped-call]
        dtype=torch.float32,
        local_files_only=True,
    )
    model.save_pretrained(out)  # before any forward: see the module's docstring


METHODS: Mapping[str, Callable[[Path, Path], None]] = {"bitsandbytes_int8": _bitsandbytes_int8}


@torch.inference_mode()
def _log_probabilities(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Log probabilities of the next token, float32 [tokens, vocabulary] for each sequence."""
    rows = []
    for sequence in sequences:
        logits = model(input_ids=torch.tensor([sequence])).logits[0]
        rows.append(torch.log_softmax(logits.float(), dim=-1))
    return rows
