"""Learning from pairs: the right answer is to become likelier than a wrong one, measured against the base model.

In: log probabilities of the tokens of pairs, by the model and by the model without its adapter. Out: the loss.
Both answers of a pair are in one row, so no pair is torn apart by packing or between workers.
Source: Rafailov et al. 2023, "Direct Preference Optimization", eq. 7, arXiv:2305.18290.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ragray.config_train import LossConfig
from ragray.train.packing import PackedRow


def preference_loss(log_p: torch.Tensor, reference: torch.Tensor, row: PackedRow, settings: LossConfig) -> torch.Tensor:
    """The sum over pairs of -log sigmoid(beta * (gain of the right answer - gain of the wrong one)).

    An answer's gain is its log probability less that of the reference. With `dpo_nll_weight` w, w times the mean of
    -log p over the right answer's tokens is added to each pair, which keeps right answers from losing probability
    (Pang et al. 2024, "Iterative Reasoning Preference Optimization", eq. 2).

    Args:
        log_p: float32 [A], with gradients.
        reference: float32 [A], without.
        row: says to which pair and to which of its answers each token belongs.
        settings: `dpo_beta` and `dpo_nll_weight`.
    """
    sign = torch.where(row.wrong, -1.0, 1.0)
    margins = _by_example(sign * (log_p - reference), row)
    loss = -functional.logsigmoid(settings.dpo_beta * margins).sum()
    if settings.dpo_nll_weight:
        right = (~row.wrong).float()
        means = _by_example(-log_p * right, row) / _by_example(right, row)
        loss = loss + settings.dpo_nll_weight * means.sum()
    return loss


def _by_example(values: torch.Tensor, row: PackedRow) -> torch.Tensor:
    return values.new_zeros(row.examples).index_add(0, row.example_of, values)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The model as its base model alone.

    Each layer's switch is set directly: PEFT's own way also turns off the parameters' gradients, which hooks of
    DeepSpeed wait for.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
