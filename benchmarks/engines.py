"""Tokens a second of the CPU engines, greedy, against transformers' own `generate`.

In: a model of transformers: a folder, or `--shape 0.5b` for random weights of that shape. Each case loads and warms up
before its clock starts, then answers `--prompts` prompts of `--prompt-tokens` tokens by `--new-tokens` tokens each,
`--batch` at a time. Prompts share no prefix; stop tokens end no answer, so all cases generate as many tokens.

  python benchmarks/engines.py --batch 1
  python benchmarks/engines.py --batch 16
  python benchmarks/engines.py --shape 0.5b --batch 1 --prompts 2 --runs 5
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

from harness import ROOT, Case, Outcome, Work, main, options

BUNDLED = ROOT / "data" / "models" / "ragray-tiny"
_SHAPES: dict[str, dict[str, int]] = {  # of Qwen2.5-0.5B: its configuration on the Hugging Face hub
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    }
}
_SEED = 17


def model_of(args: argparse.Namespace, folder: Path) -> Path:
    """The model's folder; one of random weights is made in `folder`."""
    if args.shape is None:
        return Path(args.model)
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    torch.manual_seed(_SEED)
    config = Qwen2Config(
        **_SHAPES[args.shape],
        vocab_size=151_936,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts_of(args: argparse.Namespace, vocabulary: int) -> list[list[int]]:
    """Random prompts, the same in every run."""
    import numpy as np

    drawn = np.random.default_rng(_SEED).integers(300, vocabulary, (args.prompts, args.prompt_tokens))
    return [[int(token) for token in row] for row in drawn]


def _start_transformers(args: argparse.Namespace) -> Work:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = model_of(args, Path(name))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokens = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}
    config = GenerationConfig(**tokens, do_sample=False, pad_token_id=0, eos_token_id=None)

    def answer(prompts: list[list[int]]) -> int:
        ids = torch.tensor(prompts)
        given = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return int(given[:, ids.shape[1] :].numel())

    return _timed(args, prompts_of(args, _vocabulary(model)), answer)


def _vocabulary(model: Any) -> int:
    return int(min(model.config.vocab_size, 4000))


def _start_openvino(args: argparse.Namespace, weights: str) -> Work:
    from ragray.config import EngineConfig
    from ragray.engine.build import build_engine
    from ragray.engine.protocol import SamplingParams
    from ragray.engine.runtime import load_engine

    settings = EngineConfig(weights=weights, cpu_threads=args.threads, max_batch_size=args.batch)
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as built:
        build_engine(model_of(args, Path(made)), settings, Path(built))
        engine = load_engine(Path(built), settings)
    params = SamplingParams(max_new_tokens=args.new_tokens, ignore_stop=True)

    def answer(prompts: list[list[int]]) -> int:
        return sum(len(given.token_ids) for given in engine.generate(prompts, params))

    return _timed(args, prompts_of(args, min(len(engine.tokenizer), 4000)), answer)


def _timed(args: argparse.Namespace, prompts: list[list[int]], answer: Any) -> Work:
    answer([prompt[::-1] for prompt in prompts[: args.batch]])  # warm

    def work() -> Any:
        tokens = sum(answer(prompts[n : n + args.batch]) for n in range(0, len(prompts), args.batch))
        return lambda: _outcome(tokens)

    return work


def _outcome(tokens: int) -> Outcome:
    return {"rows": tokens}


_PACKAGES = ("openvino", "openvino-genai", "nncf", "torch", "transformers")
CASES = (
    Case("ragray_int8", functools.partial(_start_openvino, weights="int8"), _PACKAGES, "rows are generated tokens"),
    Case("ragray_fp32", functools.partial(_start_openvino, weights="fp32"), _PACKAGES),
    Case("ragray_int4", functools.partial(_start_openvino, weights="int4"), _PACKAGES),
    Case("transformers_fp32", _start_transformers, ("torch", "transformers"), "generate() on equally long prompts"),
)


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--model", type=Path, default=BUNDLED, help="the model, or only its tokenizer's with --shape")
    made.add_argument("--shape", choices=sorted(_SHAPES), help="random weights of this shape instead")
    made.add_argument("--batch", type=int, default=1, help="prompts at a time")
    made.add_argument("--prompts", type=int, default=16, help="prompts in all")
    made.add_argument("--prompt-tokens", type=int, default=128, help="length of each prompt")
    made.add_argument("--new-tokens", type=int, default=64, help="length of each answer")
    return made


if __name__ == "__main__":
    main("engines", CASES, parser())
