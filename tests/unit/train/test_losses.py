"""The loss against hand-computed values and against transformers' own."""

import math

import pytest
import torch

from ragray.train.losses import answer_loss


def test_sum_of_negative_log_probabilities():
    # softmax of [0, log 3] is [1/4, 3/4]
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    targets = torch.tensor([1, 0])
    assert float(answer_loss(logits, targets)) == pytest.approx(math.log(4 / 3) + math.log(2))


def test_label_smoothing_mixes_in_the_mean_over_the_vocabulary():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    mean = (math.log(4) + math.log(4 / 3)) / 2
    expected = 0.9 * math.log(4 / 3) + 0.1 * mean
    assert float(answer_loss(logits, torch.tensor([1]), 0.1)) == pytest.approx(expected)


def test_no_answer_token_is_no_loss_with_a_gradient_of_zero():
    hidden = torch.ones(3, 4, requires_grad=True)
    loss = answer_loss(hidden[torch.tensor([], dtype=torch.int64)], torch.tensor([], dtype=torch.int64))
    loss.backward()
    assert float(loss) == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(1000, 7, dtype=torch.bfloat16)
    assert float(answer_loss(logits, torch.zeros(1000, dtype=torch.int64))) == pytest.approx(
        1000 * math.log(7), rel=1e-5
    )
