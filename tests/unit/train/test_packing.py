"""Packed equals unpacked, shares are fair, and the order is a function of the step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragray.config_train import LoraConfig
from ragray.train.examples import Example, read_examples
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.lora import attach_lora, trainable
from ragray.train.losses import AnswerLoss
from ragray.train.packing import DataOrder, epoch_order, pack, register_packed_attention, share_out


def adapted(folder, attention):
    model = attach_lora(load_model(folder, torch.float32, attention), LoraConfig(rank=4, alpha=8), seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(std=0.1)  # B starts at zero, which would hide A's gradients
    return model


def gradients(model):
    return torch.cat([p.grad.flatten() for p in trainable(model).values()])


@pytest.fixture(scope="module")
def examples(tiny_model, examples_file):
    return read_examples(examples_file, "train", load_tokenizer(tiny_model), 1024).examples


def test_packed_loss_and_gradients_equal_those_of_examples_one_by_one(tiny_model, examples):
    """Against transformers itself: plain attention, one example at a time, its own loss over all logits."""
    packed = adapted(tiny_model, register_packed_attention())
    loss = AnswerLoss(packed, 0.0)(pack(examples))
    loss.backward()
    plain = adapted(tiny_model, "sdpa")
    total = torch.zeros(())
    for example in examples:
        ids, labels = torch.tensor([example.token_ids]), torch.tensor([example.labels])
        total = total + plain(input_ids=ids, labels=labels).loss * example.answer_tokens
    total.backward()
    assert float(loss) == pytest.approx(float(total), rel=1e-5)
    found, expected = gradients(packed), gradients(plain)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_any_other_packing_gives_the_same(tiny_model, examples):
    model = AnswerLoss(adapted(tiny_model, register_packed_attention()), 0.1)
    whole = float(model(pack(examples)))
    parts = [examples[:1], examples[1:5], [], examples[5:]]
    assert sum(float(model(pack(part))) for part in parts) == pytest.approx(whole, rel=1e-5)


def test_a_row_by_hand():
    row = pack([Example("a", (5, 6, 7), 1), Example("b", (8, 9, 10, 11), 3)])
    assert row.token_ids.tolist() == [[5, 6, 7, 8, 9, 10, 11]]
    assert row.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert row.boundaries.tolist() == [0, 3, 7]
    assert row.predict_at.tolist() == [0, 1, 5]
    assert row.targets.tolist() == [6, 7, 11]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 5), st.integers(100, 400))
def test_shares_hold_every_example_once_in_rows_that_fit(lengths, workers, limit):
    shares = share_out(lengths, workers, limit)
    assert len(shares) == workers
    assert len({len(rows) for rows in shares}) == 1
    assert sorted(i for rows in shares for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= limit for rows in shares for row in rows)


def test_workers_get_nearly_the_same_number_of_tokens():
    lengths = [300 + 17 * (i % 9) for i in range(16)]
    first, second = (sum(lengths[i] for row in rows for i in row) for rows in share_out(lengths, 2, 4096))
    assert abs(first - second) <= 17 * 2
    assert [len(rows) for rows in share_out(lengths, 2, 4096)] == [1, 1]


IDS = tuple(f"e{n}" for n in range(10))


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch_alone():
    assert sorted(epoch_order(IDS, 1, 0)) == list(range(10))
    assert epoch_order(IDS, 1, 0) != epoch_order(IDS, 1, 1)
    assert epoch_order(IDS, 1, 0) != epoch_order(IDS, 2, 0)
    backwards = epoch_order(IDS[::-1], 1, 0)
    assert [IDS[::-1][i] for i in backwards] == [IDS[i] for i in epoch_order(IDS, 1, 0)]


def test_each_epoch_takes_every_example_once_across_step_borders():
    order = DataOrder(IDS, 1, examples_per_step=4, epochs=2.0)
    assert order.total_steps == 5
    taken = [i for step in range(5) for i in order.step_examples(step)]
    assert taken == epoch_order(IDS, 1, 0) + epoch_order(IDS, 1, 1)
    assert [order.ends_epoch(step) for step in range(5)] == [False, False, True, False, True]


def test_part_of_an_epoch_and_max_steps():
    assert DataOrder(IDS, 1, 4, epochs=0.5).total_steps == 2
    assert len(DataOrder(IDS, 1, 4, epochs=0.5).step_examples(1)) == 1
    assert DataOrder(IDS, 1, 4, epochs=9.0, max_steps=3).total_steps == 3
    assert DataOrder(IDS, 1, 16, epochs=2.0).step_examples(0)[:10] == epoch_order(IDS, 1, 0)
