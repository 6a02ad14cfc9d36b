"""Pieces of text never split a character and always join to the whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import make_model_folder, make_tokenizer

from ragray.engine.tokens import TextStream, decode, load_tokenizer, stop_tokens
from ragray.errors import EngineError

TOKENIZER = make_tokenizer()


@given(st.text())
def test_pieces_join_to_the_text_and_hold_whole_characters(text: str) -> None:
    stream = TextStream(TOKENIZER)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = [stream.push([token]) for token in ids] + [stream.flush()]
    assert "".join(pieces) == decode(TOKENIZER, ids)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_a_chinese_character_of_three_byte_tokens_comes_at_its_last_byte() -> None:
    by_byte = [TOKENIZER.convert_tokens_to_ids(symbol) for symbol in ("é", "¾", "Ļ")]  # UTF-8 of 龙: e9 be 99
    stream = TextStream(TOKENIZER)
    assert [stream.push([token]) for token in by_byte] == ["", "", "龙"]
    assert stream.flush() == ""


def test_an_unfinished_character_at_the_end_is_flushed_as_a_replacement_mark() -> None:
    stream = TextStream(TOKENIZER)
    assert stream.push([TOKENIZER.convert_tokens_to_ids("é")]) == ""
    assert stream.flush() == "\ufffd"


def test_stop_tokens_come_from_tokenizer_and_configuration(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    tokenizer = load_tokenizer(folder)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert stop_tokens(folder, tokenizer) == {end}
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert stop_tokens(folder, tokenizer) == {end, 7, 9}


def test_a_folder_without_tokenizer_or_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="no chat template"):
        load_tokenizer(tmp_path)
