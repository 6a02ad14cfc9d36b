"""The tokenizer's side of an engine: loading, stop tokens, and text out of a stream of tokens.

In: a model folder and token ids. Out: a tokenizer, the ids that end an answer, pieces of whole characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.errors import EngineError
from ragray.train.template import check_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"  # what decoding gives for bytes that are not (yet) a character
_END_OF_TURN = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        EngineError: there is none, it has no chat template, or the model was trained with another.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{folder}: no usable tokenizer: {error}", "name a folder with tokenizer.json and tokenizer_config.json"
        ) from None
    if tokenizer.chat_template is None:
        raise EngineError(
            f"{folder}: its tokenizer has no chat template",
            "choose an instruction-tuned model, or add chat_template.jinja",
        )
    check_template(folder, tokenizer)
    return tokenizer


def stop_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end an answer: end of sequence and end of turn, wherever the folder names them."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.exists():
            found.update(_as_ids(json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")))
    found.update(_as_ids(tokenizer.eos_token_id))
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    found.update(special[token] for token in _END_OF_TURN if token in special)
    if not found:
        raise EngineError(f"{folder}: no end-of-sequence token", "set eos_token_id in generation_config.json")
    return frozenset(found)


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of token ids, control tokens left out."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)


class TextStream:
    """Tokens in, text out, in pieces that never split a character.

    A Chinese character may span several byte-level tokens: they are held back until it is whole. Decoding
    starts at the last piece, whose text is cut off again, as a token's text may depend on the one before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # decoding starts here
        self._emitted = 0  # ids before this are in pieces already given out

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that became whole with these tokens; may be empty."""
        self._ids.extend(token_ids)
        text = self._pending()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._context, self._emitted = self._emitted, len(self._ids)
        return text

    def flush(self) -> str:
        """What is left at the end, unfinished bytes as U+FFFD."""
        text = self._pending()
        self._context = self._emitted = len(self._ids)
        return text

    def _pending(self) -> str:
        before = decode(self._tokenizer, self._ids[self._context : self._emitted])
        return decode(self._tokenizer, self._ids[self._context :])[len(before) :]


def _as_ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
