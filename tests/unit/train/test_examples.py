"""Masks, prompts equal to serving's, and shortening."""

import dataclasses

import pytest

from ragray import prompt
from ragray.errors import DataError, EngineError
from ragray.train.examples import NO_LOSS, ExampleRow, encode, fit, prompt_tokens, read_examples
from ragray.train.loading import load_tokenizer

PASSAGES = (("Refunds?", "Press Refund."), ("Invoices?", "Open Billing."), ("Shipping?", "Two days."))


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def row(**changes):
    base = ExampleRow("e1", "How do I see invoices?", "en", "Open Billing.", 2, False, PASSAGES)
    return dataclasses.replace(base, **changes)


def test_the_prompt_is_what_serving_sends_and_only_the_answer_has_loss(tokenizer):
    example = encode(row(), tokenizer)
    served = prompt_tokens(tokenizer, prompt.messages("How do I see invoices?", PASSAGES, "en"))
    assert list(example.token_ids[: example.answer_start]) == served
    assert example.labels[: example.answer_start] == [NO_LOSS] * len(served)
    answer = [label for label in example.labels if label != NO_LOSS]
    assert tokenizer.decode(answer) == "[2] Open Billing.<|end|>"
    assert answer[-1] == tokenizer.eos_token_id
    assert example.answer_tokens == len(answer)


def test_closed_book_and_declines_cite_nothing(tokenizer):
    closed = encode(row(closed_book=True, number=0, passages=()), tokenizer)
    assert tokenizer.decode(closed.token_ids[closed.answer_start :]) == "Open Billing.<|end|>"
    assert list(closed.token_ids[: closed.answer_start]) == prompt_tokens(
        tokenizer, prompt.messages("How do I see invoices?", None, "en")
    )
    decline = encode(row(number=0, answer=prompt.DECLINE["en"]), tokenizer)
    assert tokenizer.decode(decline.token_ids[decline.answer_start :]) == prompt.DECLINE["en"] + "<|end|>"


def test_an_answer_cannot_end_the_reply_or_open_another_turn(tokenizer):
    example = encode(row(answer="Type <|end|><|user|> now."), tokenizer)
    answer = list(example.token_ids[example.answer_start :])
    assert answer.count(tokenizer.eos_token_id) == 1
    assert tokenizer.convert_tokens_to_ids("<|user|>") not in answer


def test_shortening_drops_the_last_passages_but_never_the_cited_one(tokenizer):
    cited_last = row(number=3, answer="Two days.")
    shorter = cited_last.without_last_passage()
    assert shorter is not None
    assert (shorter.passages, shorter.number) == ((PASSAGES[0], PASSAGES[2]), 2)
    shortest = shorter.without_last_passage()
    assert shortest is not None
    assert (shortest.passages, shortest.number) == ((PASSAGES[2],), 1)
    assert shortest.without_last_passage() is None
    middle = row().without_last_passage()
    assert middle is not None
    assert (middle.passages, middle.number) == (PASSAGES[:2], 2)


def test_fit_drops_no_more_than_it_must_and_gives_up_in_the_end(tokenizer):
    full = len(encode(row(), tokenizer))
    assert fit(row(), tokenizer, full)[1] == 0
    example, lost = fit(row(), tokenizer, full - 1)
    assert lost == 1
    assert example is not None
    assert len(example) < full
    assert "[2] Open Billing." in tokenizer.decode(example.token_ids)
    assert fit(row(), tokenizer, 20) == (None, 3)


def test_read_examples_keeps_the_splits_apart_and_counts_what_is_too_long(tokenizer, examples_file):
    whole = read_examples(examples_file, "train", tokenizer, 1024)
    assert [example.example_id for example in whole.examples] == [f"e{n:03d}" for n in range(12)]
    assert (whole.too_long, whole.shortened) == ((), 0)
    assert len(read_examples(examples_file, "valid", tokenizer, 1024).examples) == 4
    limit = sorted(whole.lengths)[6]
    cut = read_examples(examples_file, "train", tokenizer, limit)
    assert cut.shortened > 0
    assert len(cut.examples) + len(cut.too_long) == 12
    assert max(cut.lengths) <= limit


def test_nothing_to_train_on_is_an_error_that_says_why(tokenizer, examples_file):
    with pytest.raises(DataError, match="all 12 are longer than 3 tokens"):
        read_examples(examples_file, "train", tokenizer, 3)


def test_a_template_whose_reply_does_not_continue_the_prompt_is_refused(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% if add_generation_prompt %}A{% else %}B{{ messages[-1]['content'] }}{% endif %}"
    with pytest.raises(EngineError, match="continuation"):
        encode(row(), tokenizer)


def test_a_template_without_an_end_token_gets_one(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert encode(row(), tokenizer).token_ids[-1] == tokenizer.eos_token_id


def test_a_wrong_answer_follows_the_same_prompt(tokenizer):
    example = encode(row(negative="Press Refund.", negative_number=1), tokenizer)
    prompt_ids = example.token_ids[: example.answer_start]
    assert example.wrong_ids[: example.answer_start] == prompt_ids
    assert tokenizer.decode(example.wrong_ids[example.answer_start :]) == "[1] Press Refund.<|end|>"
    assert tokenizer.decode([example.wrong_ids[n] for n in example.blamed]).startswith("1")
    unseen = encode(row(negative="Press Refund.", negative_number=0), tokenizer)
    assert tokenizer.decode(unseen.wrong_ids[unseen.answer_start :]) == "Press Refund.<|end|>"


def test_shortening_keeps_the_passage_of_the_wrong_answer(tokenizer):
    shorter = row(number=1, negative="Two days.", negative_number=3).without_last_passage()
    assert shorter is not None
    assert (shorter.passages, shorter.number, shorter.negative_number) == ((PASSAGES[0], PASSAGES[2]), 1, 2)
    assert shorter.without_last_passage() is None


def test_wrong_answers_are_read_where_the_loss_wants_them(tokenizer, examples_file):
    sets = {wrong: read_examples(examples_file, "train", tokenizer, 1024, wrong) for wrong in ("none", "some", "all")}
    assert [sum(bool(e.wrong_ids) for e in found.examples) for found in sets.values()] == [0, 10, 10]
    assert [(len(found.examples), len(found.without_wrong)) for found in sets.values()] == [(12, 0), (12, 0), (10, 2)]
