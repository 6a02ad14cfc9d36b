"""Several LoRA adapters in one batch: each row of it by an adapter of its own, or by the model alone.

In: a model and adapters by name. Out: a forward pass in which row r is y = W x + scale B A x of its adapter. The
model's weights are read once for all rows; an adapter adds two thin products for its rows. Which rows are whose is
known to the thread that runs the pass, so passes of two threads do not disturb each other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from ragray.errors import ArtifactError
from ragray.train.adapter import Adapter

_Update = tuple[torch.Tensor, torch.Tensor]  # transposed A [in, r] and scaled, transposed B [r, out]


class AdapterRows:
    """Adapters attached to a model; without `of` they change nothing.

    Args:
        model: the weights that the adapters were made for.
        adapters: plain LoRA, by name.

    Raises:
        ArtifactError: the model has no layer that an adapter changes.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, Adapter]) -> None:
        self.names = tuple(adapters)
        self._device = next(model.parameters()).device
        self._now = threading.local()
        layers: dict[str, dict[str, _Update]] = {}
        for name, adapter in adapters.items():
            for layer in adapter.layers:
                a, b = layer.a.T.contiguous(), (layer.scale * layer.b).T.contiguous()
                update = a.to(self._device), b.to(self._device)
                layers.setdefault(layer.name.removesuffix(".weight"), {})[name] = update
        modules = dict(model.named_modules())
        for path, updates in layers.items():
            if path not in modules:
                raise ArtifactError(
                    f"the engine's model has no {path}, which {', '.join(updates)} changes",
                    "name adapters that were trained on this model",
                )
            modules[path].register_forward_hook(partial(self._add, updates))

    @contextmanager
    def of(self, rows: Sequence[str | None]) -> Iterator[None]:
        """Within this block the thread's forward passes have these adapters; `rows` names one for each row."""
        groups = {name: [n for n, row in enumerate(rows) if row == name] for name in set(rows) - {None}}
        self._now.groups = {name: torch.tensor(group, device=self._device) for name, group in groups.items()}
        self._now.rows = len(rows)
        try:
            yield
        finally:
            self._now.groups = None

    def _add(
        self, updates: Mapping[str, _Update], layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        """A layer's output [rows, tokens, out] with what the adapters of its rows add."""
        groups: Mapping[str, torch.Tensor] | None = getattr(self._now, "groups", None)
        if not groups:
            return None
        for name, rows in groups.items():
            if name in updates:
                a, b = updates[name]
                if len(rows) == self._now.rows:
                    output = output + inputs[0] @ a @ b
                else:
                    output = output.index_add(0, rows, inputs[0][rows] @ a @ b)
        return output
