"""Fixed prompts, and how far two models' greedy answers to them agree.

In: a merged model, and what its engine answered.
Out: prompts in both languages, in the shape that users' questions take, and the agreement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragray import prompt
from ragray.artifact import file_digest, folder_digest
from ragray.engine.manifest import SourceDigests, Verification
from ragray.engine.protocol import SamplingParams
from ragray.errors import EngineError
from ragray.evaluation.answers import token_f1
from ragray.train.examples import prompt_tokens
from ragray.train.template import template_digests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Bars:
    """The least agreement of a usable engine with its model, on the fixed prompts."""

    prefix_share: float
    f1: float


# OpenVINO engines of two demo models and three random ones, 2026-11-26: fp32 1.0 and 1.0; int8 agreement .84-1.0, F1
# .82-1.0; int4 of the demo models .75-.88 in both, of random weights .21-.57 and .25-.75; another model's agreement .0.
# One answer of the eight that is wholly another costs .125: int8 may have two of them. The others were not measured.
BARS: Mapping[str, Bars] = {
    "fp32": Bars(0.99, 0.99),
    "fp16": Bars(0.75, 0.85),
    "bf16": Bars(0.7, 0.85),
    "fp8": Bars(0.6, 0.75),
    "int8": Bars(0.65, 0.75),
    "int4": Bars(0.4, 0.6),
}
GREEDY = SamplingParams(max_new_tokens=32)

_PASSAGES = {
    "en": (
        ("How do I install it?", "Run `make demo`. It creates a virtual environment and installs all packages."),
        ("Which Python is needed?", "Python 3.11 or newer. Older versions are refused with an error."),
        ("Where are the results?", "Below the folder that `output` names, one folder for each stage."),
    ),
    "zh": (
        ("如何安装？", "运行 make demo，它会创建虚拟环境并安装全部依赖。"),
        ("需要哪个 Python 版本？", "需要 Python 3.11 或更新的版本，旧版本会报错。"),
        ("结果保存在哪里？", "保存在 output 指定的文件夹里，每个阶段一个文件夹。"),
    ),
}
_QUESTIONS = {
    "en": ("What must I type to set it up?", "Does it run on Python 3.9?", "Who won the match?"),
    "zh": ("怎样把它装到电脑上？", "Python 3.9 可以用吗？", "昨天谁赢了比赛？"),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A merged model's own greedy answers to the fixed prompts: what its engines are compared with, on any machine."""

    prompts: tuple[tuple[int, ...], ...]
    languages: tuple[str, ...]  # of the prompts
    answers: tuple[tuple[int, ...], ...]
    source: SourceDigests  # of the merged model
    calibration: tuple[tuple[int, ...], ...] = ()  # training examples, for builders that look at activations


def fixed_prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Eight prompts as token ids: three with passages and one without, in each language."""
    prompts: list[list[int]] = []
    for lang, questions in _QUESTIONS.items():
        chats = [prompt.messages(question, _PASSAGES[lang], lang) for question in questions]
        chats.append(prompt.messages(questions[0], None, lang))
        prompts.extend(prompt_tokens(tokenizer, chat) for chat in chats)
    return prompts


def make_reference(checkpoint: Path, threads: int) -> Reference:
    """Let a merged model answer the fixed prompts, by transformers in float32 on the CPU.

    Args:
        checkpoint: Hugging Face folder with tokenizer.
        threads: of the CPU; 0: as many as there are cores.

    Raises:
        EngineError: it cannot be loaded.
    """
    from ragray.engine.transformers_runtime import load_model_folder

    digest = folder_digest(checkpoint)
    engine = load_model_folder(checkpoint, len(_QUESTIONS) * 4, threads, digest)
    try:
        prompts = fixed_prompts(engine.tokenizer)
        answers = [completion.token_ids for completion in engine.generate(prompts, GREEDY)]
        template = template_digests(engine.tokenizer)["chat_template"]
    finally:
        engine.close()
    return Reference(
        prompts=tuple(tuple(ids) for ids in prompts),
        languages=tuple(lang for lang in _QUESTIONS for _ in range(len(prompts) // len(_QUESTIONS))),
        answers=tuple(answers),
        source=SourceDigests(digest, file_digest(checkpoint / "tokenizer.json"), template),
    )


def verify(answers: Sequence[Sequence[int]], reference: Reference, checkpoint: Path, weights: str) -> Verification:
    """Compare an engine's greedy answers to the fixed prompts with its model's.

    Args:
        answers: token ids, in the order of `reference.prompts`.
        reference: the model's.
        checkpoint: the model's folder; its tokenizer turns both into text.
        weights: the engine's format, which sets the bars.

    Raises:
        EngineError: no bars are known for the format.
    """
    from tokenizers import Tokenizer

    bars = bars_of(weights)
    decode = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).decode
    shares = [
        token_f1(decode(list(answer)), [decode(list(expected))], lang)
        for answer, expected, lang in zip(answers, reference.answers, reference.languages, strict=True)
    ]
    return judged(answers, reference.answers, sum(shares) / len(shares), bars)


def bars_of(weights: str) -> Bars:
    """The bars of a weight format; "int8_smoothquant" has those of "int8".

    Raises:
        EngineError: none are known.
    """
    found = BARS.get(weights.partition("_")[0])
    if found is None:
        raise EngineError(f"no bars are known for {weights} weights", f"choose one of {', '.join(BARS)}")
    return found


def judged(answers: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], f1: float, bars: Bars) -> Verification:
    """Token agreement and F1 of answers, held against bars."""
    pairs = [(tuple(a), tuple(e)) for a, e in zip(answers, expected, strict=True)]
    share = sum(prefix_share(a, e) for a, e in pairs) / len(pairs)
    return Verification(
        prompts=len(pairs),
        tokens=sum(len(e) for _, e in pairs),
        prefix_share=round(share, 4),
        equal_answers=sum(a == e for a, e in pairs),
        f1=round(f1, 4),
        least_prefix_share=bars.prefix_share,
        least_f1=bars.f1,
        usable=share >= bars.prefix_share and f1 >= bars.f1,
    )


def prefix_share(answer: Sequence[int], expected: Sequence[int]) -> float:
    """Length of the equal beginning / length of the longer; 1.0 for two empty answers."""
    longer = max(len(answer), len(expected))
    equal = next((n for n, (a, e) in enumerate(zip(answer, expected, strict=False)) if a != e), None)
    if equal is None:
        equal = min(len(answer), len(expected))
    return equal / longer if longer else 1.0
