"""From rows of examples.parquet to token ids with a loss mask.

In: a question, the passages shown, the number of the right one, the answer. Out: `Example`, whose
prompt is token for token what serving sends (`ragray.prompt` and the tokenizer's chat template), and
whose answer, with the token that ends it, is all that the loss sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ragray import prompt
from ragray.errors import DataError, EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One training example. The loss covers `token_ids[answer_start:]`: the answer and its end token."""

    example_id: str
    token_ids: tuple[int, ...]
    answer_start: int

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def answer_tokens(self) -> int:
        """How many tokens carry loss."""
        return len(self.token_ids) - self.answer_start

    @property
    def labels(self) -> list[int]:
        """The token ids where there is loss, else `NO_LOSS`; same length as `token_ids`."""
        return [NO_LOSS] * self.answer_start + list(self.token_ids[self.answer_start :])


@dataclass(frozen=True)
class ExampleSet:
    """The examples of one split, in the file's order, and the ids of those that are too long."""

    examples: tuple[Example, ...]
    too_long: tuple[str, ...]
    shortened: int  # examples that lost passages to fit

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(example) for example in self.examples]


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A row of examples.parquet."""

    example_id: str
    question: str
    lang: str
    answer: str
    number: int  # the cited passage, from 1; 0: decline, or closed book
    closed_book: bool
    passages: tuple[tuple[str, str], ...] = field(default=())  # (title, text), in the order shown

    @classmethod
    def of(cls, row: dict[str, Any]) -> ExampleRow:
        """From a row as pyarrow gives it."""
        shown = tuple((passage["title"], passage["text"]) for passage in row["passages"] or ())
        names = ("example_id", "question", "lang", "answer", "number", "closed_book")
        return cls(**{name: row[name] for name in names}, passages=shown)

    def without_last_passage(self) -> ExampleRow | None:
        """The row without its last passage that is not the cited one; None where none can go."""
        keep_at_least = 1 if self.number == 0 else 2
        if self.closed_book or len(self.passages) < max(2, keep_at_least):
            return None
        last = len(self.passages) - 1
        dropped = last - 1 if self.number - 1 == last else last
        passages = self.passages[:dropped] + self.passages[dropped + 1 :]
        number = self.number - 1 if self.number - 1 > dropped else self.number
        return ExampleRow(self.example_id, self.question, self.lang, self.answer, number, self.closed_book, passages)


def read_examples(path: Path, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> ExampleSet:
    """Tokenize the examples of one split.

    Args:
        path: examples.parquet.
        split: "train" or "valid".
        tokenizer: with a chat template.
        max_length: longest example, tokens; longer ones lose their last passages that are not cited.

    Raises:
        DataError: there is no example, or all are too long.
        EngineError: the chat template does not show a reply as the continuation of its prompt.
    """
    table = pq.read_table(path)
    rows = [ExampleRow.of(row) for row in table.filter(pc.equal(table["split"], split)).to_pylist()]
    examples: list[Example] = []
    too_long: list[str] = []
    shortened = 0
    for row in rows:
        example, lost = fit(row, tokenizer, max_length)
        if example is None:
            too_long.append(row.example_id)
            continue
        examples.append(example)
        shortened += lost > 0
    if split == "train" and not examples:
        reason = f"all {len(rows)} are longer than {max_length} tokens" if rows else "there is none"
        raise DataError(f"{path}: no example to train on: {reason}", "add data, or raise train.max_length")
    return ExampleSet(tuple(examples), tuple(too_long), shortened)


def fit(row: ExampleRow, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Example | None, int]:
    """The example of a row, and the passages that it lost to fit; no example where it cannot fit."""
    shorter: ExampleRow | None = row
    while shorter is not None:
        example = encode(shorter, tokenizer)
        if len(example) <= max_length:
            return example, len(row.passages) - len(shorter.passages)
        shorter = shorter.without_last_passage()
    return None, len(row.passages)


def encode(row: ExampleRow, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Token ids of a row's prompt and of its answer.

    The two are tokenized apart: at serving the prompt stands alone and the model continues it. The
    answer is escaped like the passage that it was taken from, so that it stays a verbatim copy.
    """
    messages = prompt.messages(row.question, None if row.closed_book else row.passages, row.lang)
    number = None if row.closed_book or row.number == 0 else row.number
    reply = prompt.target(prompt.escape(row.answer), number)
    asked = _render(tokenizer, messages, add_generation_prompt=True)
    told = _render(tokenizer, [*messages, {"role": "assistant", "content": reply}], add_generation_prompt=False)
    if not told.startswith(asked):
        raise EngineError(
            "the chat template does not show a reply as the continuation of its prompt",
            "use a model whose chat template renders add_generation_prompt as the beginning of a reply",
        )
    prompt_ids = _tokenize(tokenizer, asked)
    answer_ids = _until_end(_tokenize(tokenizer, told[len(asked) :]), tokenizer)
    return Example(row.example_id, (*prompt_ids, *answer_ids), len(prompt_ids))


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """The token ids of a conversation, up to where the model's reply begins: at training as at serving."""
    return _tokenize(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
    assert isinstance(text, str)  # tokenize=False
    return text


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _until_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The reply up to its end token, which is added where the template writes none."""
    end = tokenizer.eos_token_id
    if end is None:
        raise EngineError("the tokenizer has no end token", "set eos_token in tokenizer_config.json")
    return [*ids[: ids.index(end)], end] if end in ids else [*ids, end]
