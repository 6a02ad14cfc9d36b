"""Packed equals unpacked, shares are fair, and the order is a function of the step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragray.config_train import LoraConfig, LossConfig
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


@pytest.fixture(scope="module")
def pairs(tiny_model, examples_file):
    found = read_examples(examples_file, "train", load_tokenizer(tiny_model), 1024, "all")
    assert found.examples
    assert found.without_wrong
    return found.examples


def test_packed_loss_and_gradients_equal_those_of_examples_one_by_one(tiny_model, examples):
    """Against transformers itself: plain attention, one example at a time, its own loss over all logits."""
    packed = adapted(tiny_model, register_packed_attention())
    loss = AnswerLoss(packed)(pack(examples))
    loss.backward()
    plain = adapted(tiny_model, "sdpa")
    total = torch.zeros(())
    for example in examples:
        ids, labels = torch.tensor([example.token_ids]), torch.tensor([example.labels])
        total = total + plain(input_ids=ids, labels=labels).loss * example.answer_tokens
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    found, expected = gradients(packed), gradients(plain)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


LOSSES = {
    "smoothed": LossConfig(label_smoothing=0.1),
    "z": LossConfig(z_weight=1e-2),
    "focal": LossConfig(kind="focal", focal_gamma=1.5),
    "unlikelihood": LossConfig(kind="unlikelihood", unlikelihood_weight=0.5),
    "dpo": LossConfig(kind="dpo", dpo_nll_weight=0.3),
}


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
def test_any_other_packing_gives_the_same(tiny_model, pairs, settings):
    model = AnswerLoss(adapted(tiny_model, register_packed_attention()), settings)
    whole = model(pack(pairs))
    whole.backward()
    expected = gradients(model.model)
    model.zero_grad()
    parts = [model(pack(part)) for part in (pairs[:1], pairs[1:5], [], pairs[5:])]
    sum(parts).backward()
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)
    assert float((gradients(model.model) - expected).norm() / expected.norm()) < 1e-5


def test_a_row_by_hand():
    row = pack([Example("a", (8, 9, 10, 11), 3), Example("b", (5, 6, 7), 1)])
    assert row.token_ids.tolist() == [[5, 6, 7, 8, 9, 10, 11]], "shorter sequences first"
    assert row.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert row.boundaries.tolist() == [0, 3, 7]
    assert row.predict_at.tolist() == [0, 1, 5]
    assert row.targets.tolist() == [6, 7, 11]
    assert row.example_of.tolist() == [1, 1, 0]
    assert not row.wrong.any()


def test_a_pair_by_hand():
    pair = Example("a", (1, 2, 3, 4, 9), 2, (1, 2, 3, 5, 4, 9))
    row = pack([pair])
    assert (len(pair), pair.longest, pair.answer_tokens) == (11, 6, 3)
    assert row.boundaries.tolist() == [0, 5, 11]
    assert row.targets.tolist() == [3, 4, 9, 3, 5, 4, 9]
    assert row.example_of.tolist() == [0] * 7
    assert row.wrong.tolist() == [False] * 3 + [True] * 4
    assert row.blamed.tolist() == [False] * 4 + [True, True, False], "neither the shared beginning nor the end"


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


@pytest.mark.parametrize("run", [{"epochs": 2.0}, {"epochs": 2.5}, {"epochs": 0.3}, {"epochs": 9.0, "max_steps": 4}])
def test_sums_over_the_run_count_each_example_as_often_as_it_is_taken(run):
    order, values = DataOrder(IDS, 1, 4, **run), [n * n for n in range(10)]
    taken = [i for step in range(order.total_steps) for i in order.step_examples(step)]
    assert order.sum_over_run(values) == sum(values[i] for i in taken)


def test_an_epoch_is_put_in_order_once(monkeypatch):
    sorted_epochs = []

    def counting(ids, seed, epoch):
        sorted_epochs.append(epoch)
        return epoch_order(ids, seed, epoch)

    monkeypatch.setattr("ragray.train.packing.epoch_order", counting)
    order = DataOrder(IDS, 1, examples_per_step=3, epochs=3.0)
    for step in range(order.total_steps):
        order.step_examples(step)
    order.sum_over_run([1] * 10)
    assert sorted_epochs == [0, 1, 2]


def test_part_of_an_epoch_and_max_steps():
    assert DataOrder(IDS, 1, 4, epochs=0.5).total_steps == 2
    assert len(DataOrder(IDS, 1, 4, epochs=0.5).step_examples(1)) == 1
    assert DataOrder(IDS, 1, 4, epochs=9.0, max_steps=3).total_steps == 3
    assert DataOrder(IDS, 1, 16, epochs=2.0).step_examples(0)[:10] == epoch_order(IDS, 1, 0)
