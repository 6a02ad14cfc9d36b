"""The training losses, computed only where there is one.

In: a packed row. Out: the sum of the losses of its examples. The sum is divided by the `loss_units` of the
whole step, over all workers, so that the result depends neither on packing nor on the number of workers.
All losses are functions of three numbers of each answer token (`shortcuts.statistics_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ragray.config_train import LossConfig
from ragray.train.examples import Wrong
from ragray.train.packing import PackedRow
from ragray.train.preference import adapter_off, preference_loss
from ragray.train.shortcuts import shorten, statistics_of

PLAIN = LossConfig()


def token_losses(statistics: torch.Tensor, settings: LossConfig) -> torch.Tensor:
    """The loss of each token of right answers, float32 [A].

    Cross-entropy with smoothing e: (1 - e) * -log p(target) + e * mean over the vocabulary of -log p.
    Focal: times (1 - p(target))^gamma. Z-loss: plus weight * (log Z)^2.
    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7; Lin et al. 2017, "Focal Loss for
    Dense Object Detection", eq. 4; Chowdhery et al. 2022, "PaLM", section 5 (weight 1e-4).

    Args:
        statistics: float32 [A, 3]: log p(target), log Z, mean log p.
        settings: kind and parameters.
    """
    log_p, log_z, mean_log_p = statistics.unbind(-1)
    smoothing = settings.label_smoothing
    losses = -log_p if smoothing == 0 else -(1 - smoothing) * log_p - smoothing * mean_log_p
    if settings.kind == "focal":
        losses = losses * _log_not(log_p).mul(settings.focal_gamma).exp()
    return losses if settings.z_weight == 0 else losses + settings.z_weight * log_z.square()


def unlikelihood_losses(log_p: torch.Tensor) -> torch.Tensor:
    """-log(1 - p) of tokens that should not come, float32 [A].

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", eq. 4; the candidates here are
    the tokens of a mined hard negative after what it shares with the right answer.
    """
    return -_log_not(log_p)


def _log_not(log_p: torch.Tensor) -> torch.Tensor:
    """log(1 - p), precise for small and for large p; p is kept 1e-7 below 1, where the gradient would have no end."""
    log_p = log_p.clamp(max=-1e-7)
    likely = log_p > -0.6931
    precise = torch.log(-torch.expm1(torch.where(likely, log_p, -1.0)))
    return torch.where(likely, precise, torch.log1p(-torch.exp(torch.where(likely, -1.0, log_p))))


def wrong_answers(settings: LossConfig) -> Wrong:
    """Which examples a loss needs wrong answers of, for `read_examples`."""
    wanted: dict[str, Wrong] = {"dpo": "all", "unlikelihood": "some"}
    return wanted.get(settings.kind, "none")


def loss_units(answer_tokens: Sequence[int], settings: LossConfig = PLAIN) -> int:
    """What the summed loss of examples is divided by: pairs for DPO, else the tokens of right answers.

    Args:
        answer_tokens: `Example.answer_tokens` of each.
        settings: of the loss.
    """
    return len(answer_tokens) if settings.kind == "dpo" else sum(answer_tokens)


def row_loss(
    statistics: torch.Tensor, row: PackedRow, settings: LossConfig, reference: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of the losses of a row's examples, float32 scalar.

    Args:
        statistics: float32 [A, 3] of the row's tokens with loss.
        row: says whose and which they are.
        settings: the loss.
        reference: for DPO, log p of the same tokens without the adapter, float32 [A].
    """
    if settings.kind == "dpo":
        assert reference is not None
        return preference_loss(statistics[:, 0], reference, row, settings)
    loss = token_losses(statistics[~row.wrong], settings).sum()
    if settings.kind == "unlikelihood":
        loss = loss + settings.unlikelihood_weight * unlikelihood_losses(statistics[row.blamed, 0]).sum()
    return loss


class AnswerLoss(nn.Module):
    """A causal language model whose output is the loss of a packed row.

    Logits are computed at the answers' positions alone: for retrieval prompts, where five tokens of
    six belong to the prompt, the output layer is most of the work otherwise.

    Args:
        model: with LoRA attached and packed attention; changed in place by `shorten`.
        settings: the loss. In evaluation mode the loss is the plain cross-entropy of right answers, so that
            validation losses of different trainings compare.
        whole_weights: every worker holds all weights at all times (not ZeRO-3).
    """

    def __init__(self, model: nn.Module, settings: LossConfig = PLAIN, *, whole_weights: bool = True) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self._wanted = shorten(model, whole_weights=whole_weights)

    def forward(self, row: PackedRow) -> torch.Tensor:
        """Sum of the losses of the row's examples, float32 scalar."""
        settings = self.settings if self.training else PLAIN
        reference = None
        if settings.kind == "dpo":
            with torch.no_grad(), adapter_off(self.model):
                reference = self._statistics(row)[:, 0]
        return row_loss(self._statistics(row), row, settings, reference)

    def _statistics(self, row: PackedRow) -> torch.Tensor:
        inputs: dict[str, Any] = {
            "input_ids": row.token_ids,
            "position_ids": row.position_ids,
            "boundaries": row.boundaries,
            "edges": row.edges,
            "use_cache": False,
        }
        if self._wanted is None:
            logits = self.model(**inputs, logits_to_keep=row.predict_at).logits
            return statistics_of(logits[0], row.targets)
        self._wanted.positions, self._wanted.targets = row.predict_at, row.targets
        statistics: torch.Tensor = self.model(**inputs).logits[0]
        return statistics
