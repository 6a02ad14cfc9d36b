"""The training loss, computed only where there is one.

In: a packed row. Out: the sum of the losses of its answer tokens. The sum is divided by the answer
tokens of the whole step, over all workers, so that the result depends neither on packing nor on the
number of workers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ragray.train.packing import PackedRow


def answer_loss(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum of the cross-entropies of A answer tokens, float32.

    With smoothing e, each is (1 - e) * -log p(target) + e * mean over the vocabulary of -log p.
    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.

    Args:
        logits: [A, vocabulary].
        targets: int64 [A].
        label_smoothing: e, 0 to 1.
    """
    return functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)


class AnswerLoss(nn.Module):
    """A causal language model whose output is the loss of a packed row's answers.

    Logits are computed at the answers' positions alone: for retrieval prompts, where five tokens of
    six belong to the prompt, the output layer is most of the work otherwise.
    """

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, row: PackedRow) -> torch.Tensor:
        """Sum of the losses of the row's answer tokens, float32 scalar."""
        logits = self.model(
            input_ids=row.token_ids,
            position_ids=row.position_ids,
            logits_to_keep=row.predict_at,
            boundaries=row.boundaries,
            use_cache=False,
        ).logits
        return answer_loss(logits[0], row.targets, self.label_smoothing)
