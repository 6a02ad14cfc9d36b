"""The charts of LoRA's matrix update, as SVG text with the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ragray.evaluation.drawing import add_grid, add_legend, draw_svg
from ragray.train.matrix_update import StepChange

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[int | None, str]  # layer and module

_COLORS = ("#1f6fb8", "#12877a", "#d9a13b", "#c8553d", "#8250a8", "#57606a", "#8d99a8", "#24292f")
_MOST_NUMBERED = 40  # rows whose cells show their number
_DARK = 0.55  # of the scale, from which on text is white


def draw_heat_map(values: Mapping[Place, float]) -> str:
    """Layers down, modules across, darker where the value is higher; a weight that is not adapted stays empty."""
    layers = sorted({layer for layer, _ in values}, key=lambda layer: -1 if layer is None else layer)
    modules = list(dict.fromkeys(module for _, module in values))
    grid = np.array([[values.get((layer, module), np.nan) for module in modules] for layer in layers])
    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(ylabel="layer")
        mesh = axes.pcolormesh(
            np.arange(len(modules) + 1), np.arange(len(layers) + 1), np.ma.masked_invalid(grid), cmap="Blues",
            edgecolors="white",
        )  # fmt: skip
        if len(layers) <= _MOST_NUMBERED:
            for row, column in zip(*np.nonzero(~np.isnan(grid)), strict=True):
                dark = high > low and (grid[row, column] - low) / (high - low) > _DARK
                axes.text(
                    column + 0.5, row + 0.5, f"{grid[row, column]:.3g}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "#24292f",
                )  # fmt: skip
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(modules)) + 0.5, modules, fontsize=8)
        axes.set_yticks(np.arange(len(layers)) + 0.5, ["" if n is None else str(n) for n in layers], fontsize=7)
        axes.tick_params(length=0)
        figure.colorbar(mesh, ax=axes)

    return draw_svg(plot, 1.4 + 0.22 * len(layers))


def draw_spectra(spectra: Mapping[str, Sequence[float]]) -> str:
    """A line of singular values for each module."""

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="number of the singular value", ylabel="singular value")
        for number, (module, values) in enumerate(spectra.items()):
            color = _COLORS[number % len(_COLORS)]
            axes.plot(range(1, len(values) + 1), values, color=color, marker="o", markersize=3, label=module)
        axes.set_ylim(bottom=0.0)
        add_grid(axes, "y")
        add_legend(figure)

    return draw_svg(plot, 3.8, below=0.45)


def draw_changes(steps: Sequence[StepChange]) -> str:
    """The norm of each module's update over the steps."""

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="step", ylabel="norm of BA, mean over layers")
        for number, module in enumerate(dict.fromkeys(step.module for step in steps)):
            those = [step for step in steps if step.module == module]
            axes.plot(
                [step.step for step in those], [step.update_norm for step in those],
                color=_COLORS[number % len(_COLORS)], marker="o", markersize=3, label=module,
            )  # fmt: skip
        axes.set_ylim(bottom=0.0)
        add_grid(axes, "y")
        add_legend(figure)

    return draw_svg(plot, 3.8, below=0.45)
