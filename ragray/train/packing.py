"""Which examples a step takes, how workers share them, and how they become rows without padding.

In: examples. Out: `StepPlan` (micro-batches of each worker) and `PackedRow` (examples end to end).
Attention never crosses from one example to the next: positions restart, and attention runs on each
example by itself (`packed_attention`), so a packed row gives the loss and gradients of its examples
one by one. Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
Measured on the CPU, this is as fast as batches of sorted lengths and needs no second path.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ragray.errors import EngineError
from ragray.schema import stable_digests
from ragray.train import varlen
from ragray.train.examples import Example

_NAMES: dict[varlen.Kernel, str] = {  # transformers takes a name with "flash" in it for one of its own
    "sdpa": "ragray_packed",
    "varlen": "ragray_packed_varlen",
    "flash_attention_2": "ragray_packed_package",
}

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class PackedRow:
    """Sequences end to end, T tokens, of which A carry loss.

    An example is one sequence, or two: its prompt with the right answer, and with the wrong one.
    """

    token_ids: torch.Tensor  # int64 [1, T]
    position_ids: torch.Tensor  # int64 [1, T], from 0 in each sequence
    boundaries: torch.Tensor  # int32 [sequences + 1], on the CPU
    edges: torch.Tensor  # the same on the row's device
    predict_at: torch.Tensor  # int64 [A], positions whose next token carries loss
    targets: torch.Tensor  # int64 [A], those next tokens
    example_of: torch.Tensor  # int64 [A], which of the row's examples each of them belongs to
    wrong: torch.Tensor  # bool [A], whether it belongs to a wrong answer
    blamed: torch.Tensor  # bool [A], whether it is one of those that make it wrong
    examples: int

    def to(self, device: torch.device) -> PackedRow:
        """The row on a device; the boundaries stay on the CPU, where the attention reads them."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor) and name != "boundaries"
        }
        return replace(self, **moved)


def pack(examples: Sequence[Example]) -> PackedRow:
    """One row of all tokens of `examples`; without any, a row of one token that carries no loss."""
    sequences = [
        (number, tokens, example, tokens is not example.token_ids)
        for number, example in enumerate(examples)
        for tokens in example.sequences
    ]
    sequences.sort(key=lambda sequence: len(sequence[1]))  # attention takes those of one length together
    token_ids = [token for _, tokens, *_ in sequences for token in tokens] or [0]
    boundaries = [0]
    at: list[tuple[int, int, bool, bool]] = []
    for number, tokens, example, wrong in sequences:
        start = boundaries[-1]
        blamed = example.blamed if wrong else range(0)
        first = max(example.answer_start, 1)
        at.extend((start + n - 1, number, wrong, n in blamed) for n in range(first, len(tokens)))
        boundaries.append(start + len(tokens))
    if not examples:
        boundaries.append(1)
    ids = torch.tensor(token_ids, dtype=torch.int64)
    edges = torch.tensor(boundaries, dtype=torch.int32)
    predict_at, example_of, wrongs, blames = zip(*at, strict=True) if at else ((), (), (), ())
    places = torch.tensor(predict_at, dtype=torch.int64)
    positions = torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(boundaries)])
    return PackedRow(
        token_ids=ids[None],
        position_ids=positions[None],
        boundaries=edges,
        edges=edges,
        predict_at=places,
        targets=ids[places + 1] if at else places,
        example_of=torch.tensor(example_of, dtype=torch.int64),
        wrong=torch.tensor(wrongs, dtype=torch.bool),
        blamed=torch.tensor(blames, dtype=torch.bool),
        examples=len(examples),
    )


def share_out(lengths: Sequence[int], num_workers: int, tokens_per_row: int) -> list[list[list[int]]]:
    """Positions of one step's examples as `[worker][micro-batch]`, with equal work for every worker.

    Longest first, each to the row with the fewest tokens so far; as few rows as hold them, the same
    number for every worker, because workers reduce their gradients row by row. Source: Graham 1969,
    "Bounds on Multiprocessing Timing Anomalies" (LPT rule).

    Args:
        lengths: tokens of each example, none above `tokens_per_row`.
        num_workers: workers that share the step.
        tokens_per_row: most tokens in one row.
    """
    rows_each = max(1, math.ceil(sum(lengths) / (num_workers * tokens_per_row)))
    while True:
        rows = _fill(lengths, num_workers * rows_each)
        if all(sum(lengths[i] for i in row) <= tokens_per_row for row in rows) or rows_each >= len(lengths):
            return [rows[worker::num_workers] for worker in range(num_workers)]
        rows_each += 1


def _fill(lengths: Sequence[int], num_rows: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    totals = [0] * num_rows
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = min(range(num_rows), key=lambda r: (totals[r], r))
        rows[row].append(position)
        totals[row] += lengths[position]
    return [sorted(row) for row in rows]


def epoch_order(example_ids: Iterable[str], seed: int, epoch: int) -> list[int]:
    """A permutation of the examples that depends on seed, epoch and ids alone."""
    order: list[int] = stable_digests(("epoch", seed, epoch), example_ids).argsort(kind="stable").tolist()
    return order


@dataclass(frozen=True)
class DataOrder:
    """The whole run's sequence of examples: epoch after epoch, cut into steps.

    The position in the data is a pure function of the step, so that a run resumes at the exact example.
    """

    example_ids: Collection[str]
    seed: int
    examples_per_step: int
    epochs: float
    max_steps: int | None = None
    _orders: dict[int, Ints] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def total_examples(self) -> int:
        """Examples of the whole run, counted once for each epoch."""
        wanted = math.ceil(self.epochs * len(self.example_ids) - 1e-9)
        return wanted if self.max_steps is None else min(wanted, self.max_steps * self.examples_per_step)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return math.ceil(self.total_examples / self.examples_per_step)

    def step_examples(self, step: int) -> list[int]:
        """Positions of the examples of one step, counted from 0; a step may reach into the next epoch."""
        start = step * self.examples_per_step
        end = min(start + self.examples_per_step, self.total_examples)
        chosen: list[int] = []
        while start < end:
            epoch, offset = divmod(start, len(self.example_ids))
            taken = self._order(epoch)[offset : offset + end - start].tolist()
            chosen.extend(taken)
            start += len(taken)
        return chosen

    def ends_epoch(self, step: int) -> bool:
        """Whether a step takes the last example of an epoch."""
        size = len(self.example_ids)
        done = min((step + 1) * self.examples_per_step, self.total_examples)
        return done // size > step * self.examples_per_step // size

    def sum_over_run(self, values: Sequence[int] | np.ndarray[Any, Any]) -> int:
        """The sum of a value of each example, taken as often as the whole run takes that example."""
        epochs, part = divmod(self.total_examples, len(self.example_ids))
        each = np.asarray(values, np.int64)
        in_part = int(each[self._order(epochs)[:part]].sum()) if part else 0
        return epochs * int(each.sum()) + in_part

    def _order(self, epoch: int) -> Ints:
        """int64 [examples]: the order of an epoch; sorting takes as long as many steps, so the last two are kept."""
        if epoch not in self._orders:
            while len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = np.array(epoch_order(self.example_ids, self.seed, epoch), np.int64)
        return self._orders[epoch]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    boundaries: torch.Tensor | None = None,
    edges: torch.Tensor | None = None,
    softcap: float | None = None,
    kernel: varlen.Kernel = "sdpa",
    **unused: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each example of a packed row; called by transformers in every layer.

    Args:
        module: the attention layer, unused.
        query: [1, heads, T, head size].
        key: [1, key-value heads, T, head size].
        value: [1, key-value heads, T, head size].
        attention_mask: unused; the boundaries say all.
        scaling: of the logits; by default 1 / sqrt(head size).
        dropout: of the attention weights.
        boundaries: int32 [sequences + 1] on the CPU, where each sequence begins, and T; without them all is one.
        edges: the same on the queries' device, for the GPU's kernel.
        softcap: must be None.
        kernel: what does it; the flash kernels need `edges`.
        unused: what transformers passes for other implementations.

    Raises:
        EngineError: the model caps its attention logits, which this does not do.
    """
    if softcap is not None or unused.get("s_aux") is not None:
        raise EngineError(
            "this model caps or sinks its attention logits, which packed attention does not do",
            "choose a base model with plain softmax attention",
        )
    lengths = [query.shape[2]] if boundaries is None else boundaries.diff().tolist()
    if edges is not None and kernel != "sdpa":
        return varlen.attend(kernel, query, key, value, edges, max(lengths), scaling, dropout), None
    runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
    tokens = [length * count for length, count in runs]
    shared = query.shape[1] != key.shape[1]
    outputs = []
    for (length, count), part in zip(runs, _each(tokens, query, key, value), strict=True):
        q, k, v = (tensor.view(-1, count, length, tensor.shape[-1]).transpose(0, 1) for tensor in part)
        attended = functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared
        )  # [count, heads, length, head size]
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


def _each(tokens: Sequence[int], *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Parts of so many tokens of each tensor; slices would each give back a gradient as long as the row."""
    return zip(*(torch.split(tensor, list(tokens), dim=2) for tensor in tensors), strict=True)


def register_packed_attention(kernel: varlen.Kernel = "sdpa") -> str:
    """Make `packed_attention` by a kernel known to transformers, and return its name for `attn_implementation`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    name = _NAMES[kernel]
    AttentionInterface.register(name, functools.partial(packed_attention, kernel=kernel))
    AttentionMaskInterface.register(name, _no_mask)
    return name


def _no_mask(**unused: object) -> None:
    """The mask that `packed_attention` needs: none."""
