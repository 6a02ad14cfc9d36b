"""The charts of a search for settings, as SVG text.

In: means and differences. Out: SVG, the same bytes for the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ragray.evaluation.drawing import add_grid, add_legend, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = tuple[float, float]  # k1 and b

_WIN, _LOSS, _UNTUNED = "#1f6fb8", "#c8553d", "#d9a13b"
_MOST_BARS = 400
_DARK = 0.55  # of the scale, from which on text is white


def draw_heat_map(means: Mapping[Place, float], chosen: Place, untuned: Place) -> str:
    """A cell for each k1 and b, darker where the mean is higher; the chosen and the untuned one are framed."""
    k1s, bs = (sorted({place[n] for place in means}) for n in range(2))
    grid = np.array([[means[k1, b] for k1 in k1s] for b in bs])

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="k1: saturation of repeated terms", ylabel="b: influence of length")
        axes.pcolormesh(np.arange(len(k1s) + 1), np.arange(len(bs) + 1), grid, cmap="Blues", edgecolors="white")
        low, high = float(grid.min()), float(grid.max())
        for row, column in np.ndindex(grid.shape):
            dark = high > low and (grid[row, column] - low) / (high - low) > _DARK
            color = "white" if dark else "#24292f"
            axes.text(column + 0.5, row + 0.5, f"{grid[row, column]:.4f}", ha="center", va="center", color=color)
        for place, name, color, width in ((untuned, "untuned", _UNTUNED, 5.0), (chosen, "chosen", _LOSS, 2.0)):
            _frame(axes, k1s.index(place[0]), bs.index(place[1]), name, color, width)
        axes.set_xticks(np.arange(len(k1s)) + 0.5, [f"{k1:g}" for k1 in k1s])
        axes.set_yticks(np.arange(len(bs)) + 0.5, [f"{b:g}" for b in bs])
        axes.tick_params(length=0)
        add_legend(figure)

    return draw_svg(plot, 1.6 + 0.42 * len(bs), below=0.2)


def draw_wins_and_losses(gaps: Sequence[float], metric: str) -> str:
    """The queries whose value changed, a bar each, from the greatest win to the greatest loss.

    Args:
        gaps: tuned - untuned, for each query.
        metric: its name.
    """
    wins, losses = (sorted((gap for gap in gaps if gap * sign > 0), reverse=True) for sign in (1, -1))

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="queries that changed", ylabel=f"{metric}, tuned - untuned")
        for values, begin, color, name in ((wins, 0, _WIN, "better"), (losses, len(wins), _LOSS, "worse")):
            places, heights, width = _bars(values, begin)
            axes.bar(places, heights, width, color=color, label=f"{name}: {len(values)}", linewidth=0)
        axes.axhline(0.0, color="#24292f", linewidth=0.8)
        axes.set_xlim(-0.5, max(len(wins) + len(losses), 1) - 0.5)
        add_grid(axes, "y")
        add_legend(figure)

    return draw_svg(plot, 3.4, below=0.2)


def _frame(axes: Axes, column: int, row: int, name: str, color: str, width: float) -> None:
    corners = [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1), (column, row)]
    axes.plot(*zip(*corners, strict=True), color=color, linewidth=width, label=name, clip_on=False)


def _bars(values: Sequence[float], begin: int) -> tuple[list[float], list[float], float]:
    """(places, heights, width) of bars; of very many queries, neighbours share one that has their mean height."""
    each = max(1, -(-len(values) // _MOST_BARS))
    parts = [values[at : at + each] for at in range(0, len(values), each)]
    places = [begin + at * each + (len(part) - 1) / 2 for at, part in enumerate(parts)]
    return places, [sum(part) / len(part) for part in parts], 0.86 * each
