"""Fixed prompts, and how far two models' greedy answers to them agree.

In: engines. Out: prompts in both languages, in the shape that users' questions take, and the agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragray import prompt
from ragray.engine.manifest import Verification
from ragray.engine.protocol import Completion, Engine, SamplingParams
from ragray.train.examples import prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BARS = {"fp32": 0.99, "int8": 0.5, "int4": 0.3}  # least prefix share by weight format
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


def fixed_prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Eight prompts as token ids: three with passages and one without, in each language."""
    prompts: list[list[int]] = []
    for lang, questions in _QUESTIONS.items():
        chats = [prompt.messages(question, _PASSAGES[lang], lang) for question in questions]
        chats.append(prompt.messages(questions[0], None, lang))
        prompts.extend(prompt_tokens(tokenizer, chat) for chat in chats)
    return prompts


def verify(engine: Engine, reference: Engine, weights: str) -> Verification:
    """Compare an engine's greedy answers to the fixed prompts with those of the reference."""
    prompts = fixed_prompts(reference.tokenizer)
    return agreement(engine.generate(prompts, GREEDY), reference.generate(prompts, GREEDY), BARS[weights])


def agreement(answers: Sequence[Completion], expected: Sequence[Completion], bar: float) -> Verification:
    """How far answers agree with the expected ones, token by token."""
    pairs = [(a.token_ids, e.token_ids) for a, e in zip(answers, expected, strict=True)]
    share = sum(prefix_share(a, e) for a, e in pairs) / len(pairs)
    return Verification(
        prompts=len(pairs),
        tokens=sum(len(e) for _, e in pairs),
        prefix_share=round(share, 4),
        equal_answers=sum(a == e for a, e in pairs),
        bar=bar,
        usable=share >= bar,
    )


def prefix_share(answer: Sequence[int], expected: Sequence[int]) -> float:
    """Length of the equal beginning / length of the longer; 1.0 for two empty answers."""
    longer = max(len(answer), len(expected))
    equal = next((n for n, (a, e) in enumerate(zip(answer, expected, strict=False)) if a != e), None)
    if equal is None:
        equal = min(len(answer), len(expected))
    return equal / longer if longer else 1.0
