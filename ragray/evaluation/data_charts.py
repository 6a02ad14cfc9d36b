"""The charts of the data reports, as SVG text.

In: counts. Out: SVG, the same bytes for the same counts. Labels are ours; what comes from data is drawn in ASCII,
so that any font can draw it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ragray.dataprep.minhash import Banding
from ragray.evaluation.drawing import add_grid, add_legend, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Step = tuple[str, int, str]  # label, rows, kind: one of `KINDS`
KINDS = {"in": "#8d99a8", "out": "#c8553d", "kept": "#1f6fb8", "split": "#12877a"}

_BEFORE, _AFTER, _LINE = "#c9ced6", "#1f6fb8", "#c8553d"
_OUTLINES = ("#12877a", "#c8553d", "#d9a13b", "#8d99a8")
_MOST_BARS = 24
_LABEL_CHARS = 28


def draw_funnel(steps: Sequence[Step]) -> str:
    """Rows from top to bottom: what goes out starts where what is left ends; splits divide what was kept."""

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        most = max(1, *(count for _, count, _ in steps))
        for place, (start, (_, count, kind)) in enumerate(zip(_starts(steps), steps, strict=True)):
            axes.barh(place, count, 0.72, left=start, color=KINDS[kind])
            axes.text(start + count + 0.008 * most, place, f"{count:,}", va="center", fontsize=8)
        _name_bars(axes, [label for label, _, _ in steps])
        axes.set_xlim(0, 1.1 * most)

    widest = max((len(_drawable(label)) for label, _, _ in steps), default=0)
    return draw_svg(plot, _bar_height(len(steps)), left=0.2 + 0.08 * widest)


def draw_bars(counts: Mapping[str, int]) -> str:
    """One horizontal bar for each name, the largest first; beyond the most frequent they are one bar."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > _MOST_BARS:
        ordered = [*ordered[:_MOST_BARS], ("all others", sum(count for _, count in ordered[_MOST_BARS:]))]
    return draw_funnel([(name, count, "kept") for name, count in ordered])


def draw_before_after(panels: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[str]) -> str:
    """For each panel its counts before and after cleaning side by side, one group for each label."""
    turned = len(labels) > 6

    def plot(figure: Figure) -> None:
        for place, (title, (before, after)) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, len(panels), place, title=title)
            legend = place == 1
            for shift, values, color, label in ((-0.21, before, _BEFORE, "before"), (0.21, after, _AFTER, "after")):
                at = [group + shift for group in range(len(labels))]
                axes.bar(at, values, 0.4, color=color, label=label if legend else None)
            axes.set_xticks(range(len(labels)), labels, rotation=45 if turned else 0)
            _count_axis(axes)
        add_legend(figure)

    return draw_svg(plot, 3.4, below=0.25 if turned else 0.0)


def draw_banding(banding: Banding, threshold: float) -> str:
    """The S-curve: how likely a pair of each similarity is looked at, and the threshold from which it is wanted."""

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="Jaccard similarity of a pair", ylabel="probability to be compared")
        places = [n / 200 for n in range(201)]
        axes.plot(places, [banding.probability(place) for place in places], color=_AFTER, linewidth=2)
        reached = banding.probability(threshold)
        label = f"threshold {threshold:g}: {reached:.1%} of the pairs are compared"
        axes.axvline(threshold, color=_LINE, linestyle="--", linewidth=1.2, label=label)
        axes.plot([threshold], [reached], "o", color=_LINE)
        axes.set(xlim=(0, 1), ylim=(0, 1.04))
        add_grid(axes, "y")
        add_legend(figure)

    return draw_svg(plot, 3.2)


def draw_leakage(histogram: Mapping[str, Sequence[int]], thresholds: Mapping[str, float]) -> str:
    """Test questions by the similarity of the nearest training question; one panel for each measure."""

    def plot(figure: Figure) -> None:
        for place, (name, counts) in enumerate(histogram.items(), 1):
            label = f"{name.capitalize()} to the nearest training question"
            axes = figure.add_subplot(1, len(histogram), place, xlabel=label, ylabel="test questions")
            _plot_histogram(axes, counts, 0.0, 1.0)
            legend = "threshold of a leak" if place == 1 else None
            axes.axvline(thresholds[name], color=_LINE, linestyle="--", linewidth=1.2, label=legend)
        add_legend(figure)

    return draw_svg(plot, 3.2)


def draw_scores(histograms: Mapping[str, Sequence[int]], low: float, high: float) -> str:
    """Outlines of passages by score, in equal bins from `low` to `high`, one for each kind of passage."""

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="score for the question", ylabel="passages")
        for (name, counts), color in zip(histograms.items(), _OUTLINES, strict=False):
            edges = [low + n * (high - low) / len(counts) for n in range(len(counts) + 1)]
            axes.stairs(counts, edges, color=color, linewidth=1.8, label=name)
        axes.set_xlim(low, high)
        _count_axis(axes)
        add_legend(figure)

    return draw_svg(plot, 3.2)


def _starts(steps: Iterable[Step]) -> list[int]:
    """Where each bar begins."""
    starts, left, used = [], 0, 0
    for _, count, kind in steps:
        if kind == "in":
            left = count
        if kind == "out":
            left -= count
        starts.append({"out": left, "split": used}.get(kind, 0))
        used += count if kind == "split" else 0
    return starts


def _plot_histogram(axes: Axes, counts: Sequence[int], low: float, high: float) -> None:
    width = (high - low) / len(counts)
    places = [low + (n + 0.5) * width for n in range(len(counts))]
    axes.bar(places, counts, 0.92 * width, color=_AFTER)
    axes.set_xlim(low, high)
    _count_axis(axes)


def _count_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)
    add_grid(axes, "y")


def _name_bars(axes: Axes, labels: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_yticks(range(len(labels)), [_drawable(label) for label in labels])
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    add_grid(axes, "x")


def _bar_height(bars: int) -> float:
    """Inches of a chart with so many horizontal bars."""
    return 0.8 + 0.26 * bars


def _drawable(label: str) -> str:
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in label)
    return shown if len(shown) <= _LABEL_CHARS else f"{shown[: _LABEL_CHARS - 3]}..."
