"""How all charts are drawn: one style, and SVG text with the same bytes for the same figures.

In: a function that fills a figure. Out: SVG. matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.2  # inches, as are all lengths here
_TOP, _RIGHT, _LABELS, _LEGEND = 0.3, 0.15, 0.5, 0.3
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a "$" in a label is a dollar
    "svg.hashsalt": "ragray",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#9aa3ad",
    "text.color": "#24292f",
    "axes.labelcolor": "#24292f",
    "xtick.color": "#24292f",
    "ytick.color": "#57606a",
}


def draw_svg(plot: Callable[[Figure], None], height: float, left: float = 0.75, below: float = 0.0) -> str:
    """The SVG text of a figure that `plot` fills, with a margin of `left`, and `below` more than usual under the axes.

    Margins are given, as a layout that measures all labels takes longer than drawing them.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        plot(figure)
        bottom = _LABELS + below + (_LEGEND if figure.legends else 0.0)
        figure.subplots_adjust(left / WIDTH, bottom / height, 1 - _RIGHT / WIDTH, 1 - _TOP / height, wspace=0.25)
        stream = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(stream, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def add_grid(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Faint lines across `axis`, behind what is drawn, in place of ticks."""
    axes.tick_params(length=0)
    axes.grid(axis=axis, color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)


def add_legend(figure: Figure, columns: int = 3) -> None:
    """The legend below the axes."""
    figure.legend(loc="lower center", ncols=columns, frameon=False, fontsize=8.5)
