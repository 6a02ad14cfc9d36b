"""Tokens a second of the CPU engines, greedy, against transformers' own `generate`.

In, by `--config`: a finished run (`make demo`): its tuned model, and its own questions with the passages that its index
finds for them, each answered until a stop token or `--new-tokens` tokens.
Else a model of transformers, a folder or `--shape 0.5b` for random weights of that shape, and random prompts of
`--prompt-tokens` tokens; they share no prefix, and stop tokens end no answer, so all cases generate as many tokens.
Each case loads and warms up on other prompts before its clock starts, then answers `--prompts` of them, `--batch` at a
time. Greedy throughout. `ragray_int8_stepwise` guesses no tokens; `transformers_lookup` guesses 12, as ragray
does with a model of that size.

  python benchmarks/engines.py --config configs/demo.yaml --batch 1 --threads 2
  python benchmarks/engines.py --config configs/demo.yaml --batch 16 --threads 2
  python benchmarks/engines.py --batch 1
  python benchmarks/engines.py --batch 16 --prompts 64
  python benchmarks/engines.py --shape 0.5b --batch 1 --prompts 2 --new-tokens 32 --threads 2 --keep engines
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import ROOT, Case, Outcome, Work, main, options

if TYPE_CHECKING:
    from ragray.artifact import Artifact

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
_LOOKUP = 12  # the default of engine.prompt_lookup_tokens with a small model


def model_of(args: argparse.Namespace, folder: Path) -> Path:
    """The model's folder; one of random weights is made in `folder`."""
    if args.config is not None:
        return Path(_finished(args.config)["merge"].folder) / "model"
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


def _finished(config: str) -> Mapping[str, Artifact]:
    from ragray.config_loading import load_config
    from ragray.distributed.pipeline import finished

    return finished(load_config(config), "prepare", "index", "calibrate", "merge")


def prompts_of(args: argparse.Namespace, vocabulary: int) -> list[list[int]]:
    """The prompts to time, the same in every run, and behind them a batch to warm up with."""
    if args.config is not None:
        return _asked(args)[: args.prompts + args.batch]
    import numpy as np

    drawn = np.random.default_rng(_SEED).integers(300, vocabulary, (args.prompts + args.batch, args.prompt_tokens))
    return [[int(token) for token in row] for row in drawn]


def _asked(args: argparse.Namespace) -> list[list[int]]:
    """Prompts of the run's held-out questions that its index can answer, in their order."""
    import pyarrow.parquet as pq

    from ragray.engine.assistant import prompt_tokens, retrieve_batch
    from ragray.engine.tokens import load_tokenizer
    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.index import HybridIndex

    found = _finished(args.config)
    index, confidence = HybridIndex.open(found["index"].folder), Confidence.open(found["calibrate"].folder)
    questions = pq.read_table(found["prepare"].folder / "questions.parquet").column("question").to_pylist()
    tokenizer = load_tokenizer(found["merge"].folder / "model")
    retrieved = retrieve_batch(index, confidence, questions)
    return [prompt_tokens(tokenizer, one) for one in retrieved if one.answerable]


def _start_transformers(args: argparse.Namespace, lookup: int = 0) -> Work:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from ragray.engine.tokens import load_tokenizer, stop_tokens

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = model_of(args, Path(name))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        stops = frozenset[int]() if args.config is None else stop_tokens(folder, load_tokenizer(folder))
    tokens = {"max_new_tokens": args.new_tokens} | ({} if stops else {"min_new_tokens": args.new_tokens})
    guesses = {"prompt_lookup_num_tokens": lookup, "max_matching_ngram_size": 2} if lookup else {}
    config = GenerationConfig(**tokens, **guesses, do_sample=False, pad_token_id=0, eos_token_id=sorted(stops) or None)

    def answer(prompts: list[list[int]]) -> int:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        read = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        given = model.generate(ids, attention_mask=read, generation_config=config)[:, longest:].tolist()
        return sum(next((n for n, token in enumerate(row) if token in stops), len(row)) for row in given)

    return _timed(args, prompts_of(args, _vocabulary(model)), answer)


def _vocabulary(model: Any) -> int:
    return int(min(model.config.vocab_size, 4000))


def _start_openvino(args: argparse.Namespace, weights: str, **more: int) -> Work:
    from ragray.config import EngineConfig
    from ragray.engine.build import build_engine
    from ragray.engine.manifest import ENGINE_FOLDER, ENGINE_JSON, EngineManifest
    from ragray.engine.protocol import SamplingParams
    from ragray.engine.runtime import start_engine

    settings = EngineConfig(weights=weights, cpu_threads=args.threads, max_batch_size=args.batch, **more)
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as built:
        model = args.shape or Path(args.config or args.model).stem
        folder = Path(built) if args.keep is None else args.keep / f"{model}-{weights}"
        if not (folder / ENGINE_JSON).exists():
            folder.mkdir(parents=True, exist_ok=True)
            build_engine(model_of(args, Path(made)), settings, folder)
        manifest = EngineManifest.read(folder)  # random weights answer otherwise in INT8: the bar is not for them
        engine = start_engine(folder / ENGINE_FOLDER, manifest, settings)
    params = SamplingParams(max_new_tokens=args.new_tokens, ignore_stop=args.config is None)

    def answer(prompts: list[list[int]]) -> int:
        return sum(len(given.token_ids) for given in engine.generate(prompts, params))

    return _timed(args, prompts_of(args, min(len(engine.tokenizer), 4000)), answer)


def _timed(args: argparse.Namespace, prompts: list[list[int]], answer: Any) -> Work:
    timed, warm = prompts[: -args.batch], prompts[-args.batch :]
    answer(warm)

    def work() -> Any:
        tokens = sum(answer(timed[n : n + args.batch]) for n in range(0, len(timed), args.batch))
        return lambda: _outcome(tokens)

    return work


def _outcome(tokens: int) -> Outcome:
    return {"rows": tokens}


_PACKAGES = ("openvino", "openvino-genai", "nncf", "torch", "transformers")
CASES = (
    Case("ragray_int8", functools.partial(_start_openvino, weights="int8"), _PACKAGES, "rows are generated tokens"),
    Case("ragray_fp32", functools.partial(_start_openvino, weights="fp32"), _PACKAGES),
    Case("ragray_int4", functools.partial(_start_openvino, weights="int4"), _PACKAGES),
    Case("ragray_int8_stepwise", functools.partial(_start_openvino, weights="int8", prompt_lookup_tokens=0), _PACKAGES),
    Case("transformers_fp32", _start_transformers, ("torch", "transformers"), "generate() of the same prompts"),
    Case(
        "transformers_lookup",
        functools.partial(_start_transformers, lookup=_LOOKUP),
        ("torch", "transformers"),
        "generate() with prompt lookup decoding, which takes one prompt at a time",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--model", type=Path, default=BUNDLED, help="the model, or only its tokenizer's with --shape")
    made.add_argument("--config", help="a run's YAML; its artifacts must be finished")
    made.add_argument("--shape", choices=sorted(_SHAPES), help="random weights of this shape instead")
    made.add_argument("--keep", type=Path, help="folder for built engines, so that each run need not build its own")
    made.add_argument("--batch", type=int, default=1, help="prompts at a time")
    made.add_argument("--prompts", type=int, default=16, help="prompts in all")
    made.add_argument("--prompt-tokens", type=int, default=128, help="length of each prompt")
    made.add_argument("--new-tokens", type=int, default=64, help="length of each answer")
    return made


if __name__ == "__main__":
    main("engines", CASES, parser())
