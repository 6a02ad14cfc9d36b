"""Tokens per second and MFU of training on one GPU: bf16, packed rows against padded ones, models with random weights.

In: nothing but the GPU; neither a network nor weights are needed. `packed` is what `ragray train` does: rows without
padding, attention inside each example, logits at the answers alone. `padded` is the usual way: each example a line,
padded to the longest of its batch, causal attention with a mask, logits everywhere. Both train the same adapter on the
same examples by DeepSpeed. MFU is by useful work alone, see `ragray.train.flops`.

  python benchmarks/training_gpu.py --shapes 0.5b,7b

`--shapes tiny` also runs on a CPU, to see that the script works.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import options, publish

# Qwen2.5's configurations: hidden, layers, heads, key-value heads, intermediate, vocabulary, tied embeddings.
SHAPES = {
    "tiny": (64, 2, 4, 2, 128, 512, True),
    "0.5b": (896, 24, 14, 2, 4864, 151_936, True),
    "7b": (3584, 28, 28, 4, 18_944, 152_064, False),
}
_SPREAD = 0.3  # of the logarithm of the examples' lengths


def build_model(shape: str, attention: str, device: Any, dtype: Any) -> Any:
    """A causal language model of that shape with random weights, made on the device."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, key_value, intermediate, vocabulary, tied = SHAPES[shape]
    config = Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32_768,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM._from_config(config, attn_implementation=attention, dtype=dtype)


def make_steps(args: argparse.Namespace, vocabulary: int) -> list[list[Any]]:
    """The examples of each step: lengths from a log-normal distribution, tokens at random."""
    from ragray.train.examples import Example

    draw = random.Random(17)
    steps = []
    for _ in range(args.steps):
        examples = []
        for number in range(args.batch):
            length = min(max(round(draw.lognormvariate(math.log(args.length), _SPREAD)), 8), 8 * args.length)
            answer = max(1, round(length * args.answer_share))
            token_ids = tuple(draw.randrange(vocabulary) for _ in range(length))
            examples.append(Example(str(number), token_ids, length - answer))
        steps.append(examples)
    return steps


def _padded_loss() -> type:
    import torch
    from torch.nn import functional

    class PaddedLoss(torch.nn.Module):
        """A causal language model whose output is the loss of a padded batch's answers."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Any) -> Any:
            token_ids, mask, labels = batch
            logits = self.model(input_ids=token_ids, attention_mask=mask, use_cache=False).logits
            return functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )

    return PaddedLoss


def _pad(examples: Sequence[Any], device: Any) -> tuple[Any, int]:
    """((token ids, mask, labels), tokens with padding) of a batch."""
    import torch

    longest = max(len(example) for example in examples)
    token_ids, mask = (torch.zeros(len(examples), longest, dtype=torch.int64) for _ in range(2))
    labels = torch.full((len(examples), longest), -100)
    for row, example in enumerate(examples):
        token_ids[row, : len(example)] = torch.tensor(example.token_ids)
        mask[row, : len(example)] = 1
        labels[row, : len(example)] = torch.tensor(example.labels)
    return tuple(tensor.to(device) for tensor in (token_ids, mask, labels)), token_ids.numel()


def _batches(kind: str, examples: Sequence[Any], args: argparse.Namespace, device: Any) -> list[tuple[Any, int]]:
    """The rows of a step with their tokens, at most `--row-tokens` useful ones each where examples allow it."""
    from ragray.train.packing import pack, share_out

    groups = share_out([len(example) for example in examples], 1, args.row_tokens)[0]
    chosen = [[examples[i] for i in group] for group in groups]
    if kind == "padded":
        return [_pad(group, device) for group in chosen]
    rows = [pack(group).to(device) for group in chosen]
    return [(row, row.token_ids.numel()) for row in rows]


def _kernel(device: Any) -> Any:
    """PyTorch's flash attention on a GPU; on a CPU what there is."""
    return "varlen" if device.type == "cuda" else "sdpa"


def measure(shape: str, kind: str, args: argparse.Namespace) -> str:
    """A row of the table."""
    import torch

    from ragray.config_train import TrainConfig
    from ragray.train.flops import StepWork, peak_flops
    from ragray.train.loading import DTYPES
    from ragray.train.lora import attach_lora
    from ragray.train.losses import AnswerLoss
    from ragray.train.packing import register_packed_attention
    from ragray.train.zero import ZeroEngine

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = TrainConfig(base_model="random", precision=args.precision, zero_stage=args.zero_stage)
    attention = register_packed_attention(_kernel(device)) if kind == "packed" else "sdpa"
    model = attach_lora(build_model(shape, attention, device, DTYPES[settings.precision]), settings.lora, 17).train()
    work = StepWork.of(model)
    assert work is not None
    engine = ZeroEngine(AnswerLoss(model) if kind == "packed" else _padded_loss()(model), settings)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, useful, computed, flops = [], 0, 0, 0.0
    for number, examples in enumerate(make_steps(args, SHAPES[shape][5])):
        started = time.perf_counter()
        batches = _batches(kind, examples, args, device)
        answers = sum(example.answer_tokens for example in examples)
        for position, (batch, _) in enumerate(batches):
            engine.backward(engine.forward(batch, last=position == len(batches) - 1) / answers)
        engine.step(1e-4)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= args.warm_up:
            seconds.append(time.perf_counter() - started)
            useful += sum(len(example) for example in examples)
            computed += sum(tokens for _, tokens in batches)
            flops += work.flops([len(example) for example in examples], answers)
    whole, peak = sum(seconds), peak_flops(engine.device, settings.precision, measure=True)
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device.type == "cuda" else "-"
    mfu = f"{flops / whole / peak:.1%}" if peak else "-"
    cells = (shape, kind, f"{1000 * statistics.median(seconds):,.0f}", f"{useful / whole:,.0f}",
             f"{computed / whole:,.0f}", mfu, memory)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--shapes", default="0.5b,7b", help=f"of {', '.join(SHAPES)}")
    made.add_argument("--precision", default="bf16", choices=("bf16", "fp16", "fp32"), help="of the arithmetic")
    made.add_argument("--zero-stage", type=int, default=2, help="DeepSpeed ZeRO stage")
    made.add_argument("--steps", type=int, default=20, help="optimizer steps of each case")
    made.add_argument("--warm-up", type=int, default=5, help="of them not counted")
    made.add_argument("--batch", type=int, default=64, help="examples of a step")
    made.add_argument("--length", type=int, default=150, help="median tokens of an example")
    made.add_argument("--answer-share", type=float, default=0.15, help="share of its tokens that carry loss")
    made.add_argument("--row-tokens", type=int, default=8192, help="most useful tokens in a row")
    return made


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def main() -> None:
    """Measure, print and record."""
    import torch

    args = parser().parse_args()
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = f"file://{Path(folder) / 'store'}"
        torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
        for shape in args.shapes.split(","):
            for kind in ("packed", "padded"):
                try:
                    rows.append(measure(shape, kind, args))
                except torch.OutOfMemoryError:
                    rows.append(f"| {shape} | {kind} | out of memory | | | | |")
                print(rows[-1], flush=True)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        torch.distributed.destroy_process_group()
    setting = (
        f"{_device_name()}, {args.precision}, ZeRO-{args.zero_stage}, LoRA on all linear layers, {args.batch} examples "
        f"a step of {args.length} tokens (median, log-normal), {args.answer_share:.0%} of them answers, rows of "
        f"{args.row_tokens} tokens; {args.steps} steps of which {args.warm_up} are not counted"
    )
    columns = ("model", "rows", "step ms", "useful tokens/s", "computed tokens/s", "MFU", "GPU memory, GiB")
    publish("training_gpu", setting, columns, rows, keep=not args.no_record)


if __name__ == "__main__":
    main()
