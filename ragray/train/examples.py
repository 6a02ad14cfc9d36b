"""From rows of examples.parquet to token ids with a loss mask.

In: a question, the passages shown, the number of the right one, the answer. Out: `Example`, whose
prompt is token for token what serving sends (`ragray.prompt` and the tokenizer's chat template), and
whose answer, with the token that ends it, is all that the loss sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ragray import prompt
from ragray.errors import DataError, EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100
_SPECIAL: WeakKeyDictionary[PreTrainedTokenizerBase, re.Pattern[str]] = WeakKeyDictionary()
Wrong = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class Example:
    """One training example. The loss covers `token_ids[answer_start:]`: the answer and its end token.

    `wrong_ids` is the same prompt with a wrong answer and the end token, or empty.
    """

    example_id: str
    token_ids: tuple[int, ...]
    answer_start: int
    wrong_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Tokens in a row: those of both sequences."""
        return len(self.token_ids) + len(self.wrong_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longer sequence."""
        return max(len(self.token_ids), len(self.wrong_ids))

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """What is laid into a row: the right sequence, and the wrong one where there is one."""
        return (self.token_ids, self.wrong_ids) if self.wrong_ids else (self.token_ids,)

    @property
    def blamed(self) -> range:
        """The places in `wrong_ids` that make it wrong: after what both answers begin with, before the end token."""
        first = self.answer_start
        while first < min(len(self.token_ids), len(self.wrong_ids)) and self.token_ids[first] == self.wrong_ids[first]:
            first += 1
        return range(first, len(self.wrong_ids) - 1)

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
    without_wrong: tuple[str, ...] = ()  # left out, as a loss that compares answers has nothing to compare

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
    negative: str = ""  # an answer that is wrong, where one was mined
    negative_number: int = 0  # the passage that it comes from, from 1; 0: none that is shown

    @classmethod
    def of(cls, row: dict[str, Any]) -> ExampleRow:
        """From a row as pyarrow gives it."""
        shown = tuple((passage["title"], passage["text"]) for passage in row["passages"] or ())
        names = ("example_id", "question", "lang", "answer", "number", "closed_book")
        negative, negative_number = row.get("negative") or "", row.get("negative_number") or 0
        given = {name: row[name] for name in names}
        return cls(**given, passages=shown, negative=negative, negative_number=negative_number)

    def without_last_passage(self) -> ExampleRow | None:
        """The row without its last passage that no answer cites; None where none can go."""
        cited = {self.number, self.negative_number} - {0}
        free = [number for number in range(1, len(self.passages) + 1) if number not in cited]
        if self.closed_book or len(self.passages) < 2 or not free:
            return None
        dropped = free[-1]
        return replace(
            self,
            passages=self.passages[: dropped - 1] + self.passages[dropped:],
            number=self.number - (self.number > dropped),
            negative_number=self.negative_number - (self.negative_number > dropped),
        )

    def without_negative(self) -> ExampleRow:
        """The row with its right answer alone."""
        return replace(self, negative="", negative_number=0)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """What became of a row of examples.parquet."""

    split: str
    example_id: str
    example: Example | None
    reason: str  # why there is none: "too_long" or "without_wrong"; else ""
    shortened: bool  # it lost passages to fit


def read_examples(
    path: Path, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int, wrong: Wrong = "none"
) -> ExampleSet:
    """Tokenize the examples of one split and hold them all; `token_store` keeps them on the disk instead.

    Args:
        path: examples.parquet.
        split: "train" or "valid".
        tokenizer: with a chat template.
        max_length: longest sequence, tokens; longer ones lose their last passages that are not cited.
        wrong: whether examples have a wrong answer beside the right one: "none"; "some", where the file has one;
            "all", and examples without one are left out.

    Raises:
        DataError: there is no example, or all are too long.
        EngineError: the chat template does not show a reply as the continuation of its prompt.
    """
    found = list(tokenize_rows(pq.read_table(path), tokenizer, max_length, {split: wrong}))
    kept = tuple(each.example for each in found if each.example is not None)
    too_long = tuple(each.example_id for each in found if each.reason == "too_long")
    left_out = tuple(each.example_id for each in found if each.reason == "without_wrong")
    check_some(path, split, len(kept), len(too_long), len(left_out), max_length)
    return ExampleSet(kept, too_long, sum(each.shortened for each in found), left_out)


def tokenize_rows(
    table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int, wrong: Mapping[str, Wrong]
) -> Iterator[Tokenized]:
    """What becomes of each row, in the table's order; rows of splits that `wrong` does not name are passed over.

    Args:
        table: rows of examples.parquet.
        tokenizer: with a chat template.
        max_length: longest sequence, tokens.
        wrong: by split, as in `read_examples`.
    """
    named = pc.is_in(table["split"], value_set=pa.array(list(wrong), pa.string()))
    for values in table.filter(named).to_pylist():
        split, row = values["split"], ExampleRow.of(values)
        if wrong[split] == "none":
            row = row.without_negative()
        elif wrong[split] == "all" and not row.negative:
            yield Tokenized(split, row.example_id, None, "without_wrong", shortened=False)
            continue
        example, lost = fit(row, tokenizer, max_length)
        reason = "too_long" if example is None else ""
        yield Tokenized(split, row.example_id, example, reason, shortened=example is not None and lost > 0)


def check_some(path: Path, split: str, kept: int, too_long: int, without_wrong: int, max_length: int) -> None:
    """Check that there is something to train on.

    Raises:
        DataError: there is no example, all are too long, or none has a wrong answer where all need one.
    """
    rows = kept + too_long + without_wrong
    if without_wrong and without_wrong == rows:
        raise DataError(
            f"{path}: no example has a wrong answer to compare with",
            "raise augment.negatives_per_question, or choose another train.loss.kind",
        )
    if split == "train" and not kept:
        reason = f"all {rows} are longer than {max_length} tokens" if rows else "there is none"
        raise DataError(f"{path}: no example to train on: {reason}", "add data, or raise train.max_length")


def fit(row: ExampleRow, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Example | None, int]:
    """The example of a row, and the passages that it lost to fit; no example where it cannot fit."""
    shorter: ExampleRow | None = row
    while shorter is not None:
        example = encode(shorter, tokenizer)
        if example.longest <= max_length:
            return example, len(row.passages) - len(shorter.passages)
        shorter = shorter.without_last_passage()
    return None, len(row.passages)


def encode(row: ExampleRow, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Token ids of a row's prompt and of its answers.

    Prompt and answer are tokenized apart: at serving the prompt stands alone and the model continues it. An
    answer is escaped like the passage that it was taken from, so that it stays a verbatim copy.
    """
    messages = prompt.messages(row.question, None if row.closed_book else row.passages, row.lang)
    asked = _render(tokenizer, messages, add_generation_prompt=True)
    prompt_ids = _tokenize(tokenizer, asked)
    answer_ids = _reply_ids(tokenizer, messages, asked, row.answer, row.number)
    wrong_ids: tuple[int, ...] = ()
    if row.negative:
        wrong_ids = (*prompt_ids, *_reply_ids(tokenizer, messages, asked, row.negative, row.negative_number))
    return Example(row.example_id, (*prompt_ids, *answer_ids), len(prompt_ids), wrong_ids)


def _reply_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], asked: str, answer: str, number: int
) -> list[int]:
    """Token ids of a reply to a rendered prompt, with its end token; without a citation where `number` is 0."""
    reply = prompt.target(prompt.escape(answer), number or None)
    told = _render(tokenizer, [*messages, {"role": "assistant", "content": reply}], add_generation_prompt=False)
    if not told.startswith(asked):
        raise EngineError(
            "the chat template does not show a reply as the continuation of its prompt",
            "use a model whose chat template renders add_generation_prompt as the beginning of a reply",
        )
    return _until_end(_tokenize(tokenizer, told[len(asked) :]), tokenizer)


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """The token ids of a conversation, up to where the model's reply begins: at training as at serving."""
    return _tokenize(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    special = _special_tokens(tokenizer)
    told = [{**message, "content": special.sub(_broken, message["content"])} for message in messages]
    text = tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert isinstance(text, str)  # tokenize=False
    return text


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds the tokenizer's own control tokens, which no text of a question or a document may hold."""
    pattern = _SPECIAL.get(tokenizer)
    if pattern is None:
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted((token for token in added if len(token) > 1), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        _SPECIAL[tokenizer] = pattern
    return pattern


def _broken(token: re.Match[str]) -> str:
    return f"{token[0][0]} {token[0][1:]}"


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _until_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The reply up to its end token, which is added where the template writes none."""
    end = tokenizer.eos_token_id
    if end is None:
        raise EngineError("the tokenizer has no end token", "set eos_token in tokenizer_config.json")
    return [*ids[: ids.index(end)], end] if end in ids else [*ids, end]
