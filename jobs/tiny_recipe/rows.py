"""Rows: token ids, with how much predicting each of them counts; random prompts first, then real ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragray import prompt
from tiny_recipe.tasks import TASKS, Example, Library, Size
from tiny_recipe.tokenizer import MARKERS, SPECIAL, VOCABULARY, marker_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Level:
    """A step of the curriculum of choosing: prompts of random tokens, and the accuracy that ends it."""

    blocks: int  # most passages
    title: int  # longest title, in tokens
    text: int  # longest text, in tokens
    changed: float  # share of questions that are not the whole title in order
    declined: float  # share of questions that no title matches
    shared: float  # share of wrong titles that hold a token of the right one
    enough: float  # share of right choices, over the last 300


LEVELS = (
    Level(2, 4, 3, changed=0.0, declined=0.0, shared=0.0, enough=0.93),
    Level(3, 6, 4, changed=0.3, declined=0.1, shared=0.2, enough=0.93),
    Level(4, 8, 8, changed=0.6, declined=0.25, shared=0.5, enough=0.85),
    Level(4, 12, 24, changed=0.7, declined=0.25, shared=0.5, enough=0.85),
)
STEP_TOKENS = 4096  # half as many while levels grow


CHOICE = 4.0  # how much the first token of an answer counts: it says which passage


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence. `weights[i]`: how much predicting `ids[i]` counts, 0 = not at all."""

    task: str
    ids: list[int]
    weights: list[float]


def random_tokens(rng: random.Random, count: int) -> list[int]:
    """`count` ordinary tokens."""
    return [rng.randrange(20, VOCABULARY - len(MARKERS) - 3) for _ in range(count)]


def random_row(rng: random.Random, longest: int) -> Row:
    """A random text of 8 to `longest` tokens, a gap, and the text again, which counts.

    Four in ten have few distinct tokens, so that one token of context misleads and several are needed.
    """
    length = rng.randint(8, longest)
    text = random_tokens(rng, length)
    if rng.random() < 0.4:
        text = [rng.choice(text[: max(4, length // 3)]) for _ in range(length)]
    gap = random_tokens(rng, rng.randint(0, 200))
    return Row("random", text + gap + text, [0.0] * (length + len(gap) + 1) + [1.0] * (length - 1))


def example_row(example: Example, tokenizer: PreTrainedTokenizerFast) -> Row:
    """An example's tokens: the answer counts, its first token four times, the question's second statement 0.3."""
    asked = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(asked)["input_ids"])
    answer = list(tokenizer(f"{example.answer}<|end|>")["input_ids"])
    weights = [0.0] * len(ids) + [CHOICE] + [1.0] * (len(answer) - 1)
    if example.passages:
        again = tokenizer(example.messages[1]["content"].rsplit("\n\n", 1)[1])["input_ids"]
        for place in range(len(ids) - 2 - len(again) + 3, len(ids) - 2):
            weights[place] = 0.3
    return Row(example.task, ids + answer, weights)


@dataclass(frozen=True, slots=True)
class Frame:
    """The token ids around a prompt's parts in one language, so that random tokens fill its real shape."""

    head: list[int]
    gap: list[int]
    line: list[int]
    ask: list[int]
    tail: list[int]
    decline: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, lang: str) -> Frame:
        """Read the frame off the real template."""
        ask = prompt.QUESTION[lang]
        head = f"<|system|>{prompt.SYSTEM[lang]}<|end|><|user|>{ask}"
        parts = (head, "\n\n", "\n", ask, "<|end|><|assistant|>", prompt.DECLINE[lang])
        return cls(*(list(tokenizer(part)["input_ids"]) for part in parts))


def random_question(rng: random.Random, titles: Sequence[list[int]], right: int | None, level: Level) -> list[int]:
    """The right title, its tokens often thinned, mixed and moved; or, with none right, one that matches no title."""
    if right is None:
        question = random_tokens(rng, rng.randint(2, 7))
        if rng.random() < 0.4:
            question[rng.randrange(len(question))] = rng.choice(rng.choice(titles))
        return question
    question = list(titles[right])
    if rng.random() < level.changed:
        kept = max(1, round(len(question) * rng.uniform(0.4, 1)))
        question = rng.sample(question, kept) + random_tokens(rng, rng.randint(0, 3))
        rng.shuffle(question)
    return question


def marker_row(rng: random.Random, frame: Frame, level: Level) -> Row:
    """A prompt in its real shape, of random tokens: choose the title that is asked for, copy its text."""
    count = rng.randint(2, level.blocks)
    titles = [random_tokens(rng, rng.randint(2, level.title)) for _ in range(count)]
    texts = [random_tokens(rng, rng.randint(1, level.text)) for _ in range(count)]
    right = rng.randrange(count)
    for number, title in enumerate(titles):
        if number != right and rng.random() < level.shared:
            title[rng.randrange(len(title))] = rng.choice(titles[right])
    declined = rng.random() < level.declined
    question = random_question(rng, titles, None if declined else right, level)
    ids = frame.head + question
    for number in range(count):
        ids = ids + frame.gap + titles[number] + frame.line + [marker_id(number + 1), *texts[number]]
    ids = ids + frame.gap + frame.ask + question + frame.tail
    answer = frame.decline if declined else [marker_id(right + 1), *texts[right]]
    answer = [*answer, SPECIAL.index("<|end|>")]
    return Row("marker", ids + answer, [0.0] * len(ids) + [CHOICE] + [1.0] * (len(answer) - 1))


class RowMaker:
    """Draws rows as the progress of training, 0 to 1, and the level of choosing want them."""

    def __init__(self, library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
        self.library, self.tokenizer = library, tokenizer
        self.frames = [Frame.of(tokenizer, lang) for lang in ("zh", "en")]

    def row(self, rng: random.Random, progress: float, level: int) -> Row:
        """One row; while levels grow most are random prompts, with some real ones that have an answer."""
        growing, size = level < len(LEVELS), Size.at(progress)
        if growing and rng.random() < 0.08:
            return random_row(rng, 60)
        if rng.random() < (0.8 if growing else 0.3):
            return marker_row(rng, rng.choice(self.frames), LEVELS[min(level, len(LEVELS) - 1)])
        if growing:
            return self.real(rng, "ask" if rng.random() < 0.6 else "quote", size)
        if rng.random() < max(0.06, 0.3 - 2 * progress):
            return random_row(rng, 120)
        return self.real(rng, rng.choices(list(TASKS), list(TASKS.values()))[0], size)

    def real(self, rng: random.Random, task: str, size: Size) -> Row:
        """A real prompt of a task, drawn until it is no longer than 640 tokens."""
        while True:
            example = self.library.example(rng, task, self.library.draw(rng), size)
            row = example_row(example, self.tokenizer)
            if len(row.ids) <= 640:
                return row

    def step(self, rng: random.Random, progress: float, level: int) -> list[Row]:
        """The rows of one step."""
        rows: list[Row] = []
        wanted = STEP_TOKENS // 2 if level < len(LEVELS) else STEP_TOKENS
        while sum(len(row.ids) for row in rows) < wanted:
            rows.append(self.row(rng, progress, level))
        return rows


def batches(rows: Iterable[Row], tokens: int = 2048) -> list[list[Row]]:
    """Rows of like length together, at most `tokens` a batch with padding."""
    made: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if not made or (len(made[-1]) + 1) * len(row.ids) > tokens:
            made.append([])
        made[-1].append(row)
    return made


def answer_only(row: Row) -> Row:
    """The row with nothing counted but the answer."""
    start = row.ids.index(SPECIAL.index("<|assistant|>"))
    return Row(row.task, row.ids, [float(place > start) for place in range(len(row.ids))])
