"""Useful tokens a second of LoRA training on the CPU: packed rows and answer-only loss against padding.

In: nothing; examples are made up from a seed, with lengths as of short questions with answers (about 58 tokens, 40 %
of them answer) or of retrieval prompts (about 150 tokens, 85 % of them prompt). Out: a Markdown section. All cases
train the same model (Qwen2 shape, random weights) with the same LoRA on the same examples in the same steps:

- ragray: `AnswerLoss` on packed rows, as the training loop calls it;
- dynamic: plain transformers and PEFT, each batch padded to its longest example;
- maximum: the same, each batch padded to 256 tokens.

Padding is never counted. The last loss of every case is shown: the three train alike. The record of a run counts
tokens in place of records. One optimizer step before the clock starts is not timed.

  python benchmarks/training.py --shape short
  python benchmarks/training.py --shape retrieval
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import Case, Outcome, main, options

if TYPE_CHECKING:
    import torch

SHAPES = {"short": (58, 0.6), "retrieval": (150, 0.85)}  # median tokens, share of the prompt
MOST = 256  # tokens; what "maximum" pads to
Tokens = tuple[list[int], int]  # ids, and where the answer starts
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def made_up(args: argparse.Namespace) -> list[list[Tokens]]:
    """The batches: one to warm up, then those that are timed. Lengths are log-normal, 20 to 250 tokens."""
    drawn, (median, prompt) = random.Random(17), SHAPES[args.shape]

    def example() -> Tokens:
        length = int(min(250, max(20, median * drawn.lognormvariate(0.0, 0.3))))
        return [drawn.randrange(args.vocabulary) for _ in range(length)], int(length * prompt)

    return [[example() for _ in range(args.batch)] for _ in range(args.steps + 1)]


def make_model(args: argparse.Namespace, attention: str) -> Any:
    """The model with LoRA, the same weights in every case."""
    import peft
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(args.threads)
    torch.manual_seed(17)
    config = Qwen2Config(
        vocab_size=args.vocabulary, hidden_size=args.hidden, intermediate_size=4 * args.hidden,
        num_hidden_layers=args.layers, num_attention_heads=args.hidden // 64, num_key_value_heads=args.hidden // 128,
        max_position_embeddings=4096, tie_word_embeddings=True, attn_implementation=attention,
    )  # fmt: skip
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    return peft.get_peft_model(Qwen2ForCausalLM(config), lora).train()


def trained(
    model: Any, loss_of: Callable[[Sequence[Tokens]], torch.Tensor], args: argparse.Namespace
) -> Callable[[], Callable[[], Outcome]]:
    """The work: an optimizer step for each batch."""
    import torch

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    first, *batches = made_up(args)
    losses = []

    def step(batch: Sequence[Tokens]) -> None:
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    def work() -> Callable[[], Outcome]:
        for batch in batches:
            step(batch)
        tokens = sum(len(ids) for batch in batches for ids, _ in batch)
        return lambda: {"rows": tokens, "first loss": f"{losses[0]:.4f}", "last loss": f"{losses[-1]:.4f}"}

    step(first)
    return work


def start_ragray(args: argparse.Namespace) -> Callable[[], Callable[[], Outcome]]:
    """ragray's packed step."""
    from ragray.train.examples import Example
    from ragray.train.losses import AnswerLoss, loss_units
    from ragray.train.packing import pack, register_packed_attention

    objective = AnswerLoss(make_model(args, register_packed_attention()))

    def loss_of(batch: Sequence[Tokens]) -> torch.Tensor:
        examples = [Example(str(n), tuple(ids), start) for n, (ids, start) in enumerate(batch)]
        loss: torch.Tensor = objective(pack(examples)) / loss_units([e.answer_tokens for e in examples])
        return loss

    return trained(objective, loss_of, args)


def padded(to: int | None) -> Callable[[argparse.Namespace], Callable[[], Callable[[], Outcome]]]:
    """A step of plain transformers and PEFT, padded to so many tokens, or to the longest example."""

    def start(args: argparse.Namespace) -> Callable[[], Callable[[], Outcome]]:
        model = make_model(args, "sdpa")
        return trained(model, lambda batch: model(**_pad(batch, to)).loss, args)

    return start


def _pad(batch: Sequence[Tokens], to: int | None) -> Mapping[str, torch.Tensor]:
    import torch

    width = to or max(len(ids) for ids, _ in batch)
    rows = [
        (ids + [0] * (width - len(ids)), [-100] * answer + ids[answer:] + [-100] * (width - len(ids)), len(ids))
        for ids, answer in batch
    ]
    return {
        "input_ids": torch.tensor([ids for ids, _, _ in rows]),
        "labels": torch.tensor([labels for _, labels, _ in rows]),
        "attention_mask": torch.tensor([[1] * length + [0] * (width - length) for _, _, length in rows]),
    }


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="short", help="what the examples are like")
    parser.add_argument("--steps", type=int, default=6, help="timed optimizer steps of a run")
    parser.add_argument("--batch", type=int, default=16, help="examples of a step")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    packages = ("torch", "transformers", "peft")
    cases = [
        Case("ragray", start_ragray, packages, "packed rows, logits and last MLP at answers alone"),
        Case("dynamic", padded(None), packages, "padded to the longest of each batch"),
        Case("maximum", padded(MOST), packages, f"padded to {MOST} tokens"),
    ]
    main("training", cases, parser)
