"""What a schedule and a loss look like, before anything is trained.

In: the settings of training. Out: the points of their curves, a table as text, and a chart as SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ragray.config_train import LossConfig, TrainConfig
from ragray.evaluation.drawing import add_grid, add_legend, draw_svg
from ragray.train.losses import PLAIN, token_losses, unlikelihood_losses
from ragray.train.schedule import learning_rate_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 3.6  # inches
_SHOWN = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Curves:
    """Lines over common x values, and which of the points a table shows."""

    x_name: str
    y_name: str
    x: tuple[float, ...]
    lines: dict[str, tuple[float, ...]]  # by name
    shown: tuple[int, ...]  # places in x

    def table(self) -> str:
        """Some points of all lines, as a Markdown table."""
        head = [self.x_name, *self.lines]
        rows = [[f"{self.x[at]:g}", *(f"{line[at]:.4g}" for line in self.lines.values())] for at in self.shown]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])

    def svg(self) -> str:
        """All points of all lines."""

        def plot(figure: Figure) -> None:
            axes = figure.add_subplot()
            for name, line in self.lines.items():
                axes.plot(self.x, line, label=name, linewidth=1.4, linestyle=":" if name == "cross-entropy" else "-")
            axes.set(xlabel=self.x_name, ylabel=self.y_name)
            axes.set_ylim(bottom=0.0)
            add_grid(axes, "y")
            if len(self.lines) > 1:
                add_legend(figure)

        return draw_svg(plot, _HEIGHT)


def schedule_curve(settings: TrainConfig, steps: int) -> Curves:
    """The learning rate of each step of a run of so many steps, counted from 1."""
    rates = tuple(learning_rate_of(settings, step, steps) for step in range(steps))
    warmup = round(settings.warmup_share * steps)
    turns = [n for n, (a, b) in enumerate(pairwise(rates)) if b > a and n >= warmup]  # before a restart
    tenths = [round(n * (steps - 1) / 10) for n in range(11)]
    shown = sorted({*tenths, *turns[:10], *(n + 1 for n in turns[:10]), *([warmup - 1] if warmup else [])})
    line = {f"learning rate, {settings.schedule}": rates}
    return Curves("step", "learning rate", tuple(float(n + 1) for n in range(steps)), line, tuple(shown))


def loss_curve(settings: LossConfig, vocabulary: int = 32000) -> Curves:
    """The loss of a token over the probability of the right token; of a pair over its margin for preferences.

    Args:
        settings: the loss.
        vocabulary: its other tokens share the rest of the probability alike. The logarithm of the partition
            function, which is no function of it, is 1.
    """
    if settings.kind == "dpo":
        return _preference_curve(settings)
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    rest = (vocabulary - 1) * ((1 - p) / (vocabulary - 1)).log()
    statistics = torch.stack([p.log(), torch.ones_like(p), (p.log() + rest) / vocabulary], -1)
    name = {"cross_entropy": "loss"}.get(settings.kind, settings.kind)
    lines = {name: token_losses(statistics, settings)}
    if settings.kind == "unlikelihood":
        weighed = settings.unlikelihood_weight * unlikelihood_losses(p.log())
        lines = {"right token": lines[name], "token of a hard negative": weighed}
    if settings != PLAIN:
        lines["cross-entropy"] = token_losses(statistics, PLAIN)
    places = [round(100 * value) - 1 for value in _SHOWN]
    return _curves("probability of the token", "loss of a token", p, lines, places)


def _preference_curve(settings: LossConfig) -> Curves:
    margin = torch.linspace(-6.0, 6.0, 121, dtype=torch.float64) / settings.dpo_beta
    lines = {"dpo": -functional.logsigmoid(settings.dpo_beta * margin)}
    x_name = "gain of the right answer less that of the wrong one (log probability against the base model)"
    return _curves(x_name, "loss of a pair", margin, lines, range(0, 121, 10))


def _curves(x_name: str, y_name: str, x: torch.Tensor, lines: dict[str, torch.Tensor], shown: Sequence[int]) -> Curves:
    named = {name: tuple(line.tolist()) for name, line in lines.items()}
    return Curves(x_name, y_name, tuple(x.tolist()), named, tuple(shown))
