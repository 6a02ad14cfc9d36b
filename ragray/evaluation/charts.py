"""The report's charts, as SVG text.

In: a `Summary`. Out: one SVG for each chart, the same bytes for the same figures. All labels are ours and
ASCII, so that any font can draw them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragray.evaluation.drawing import add_grid, add_legend, draw_svg
from ragray.evaluation.robustness import KIND_NAMES
from ragray.evaluation.significance import Interval
from ragray.evaluation.summary import CELLS, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# chart -> what it shows, for people who cannot see it
CHARTS = {
    "answers": "Exact match, token F1 and ROUGE-L of each cell",
    "declines": "Share of unanswerable and of answerable questions that each cell declined",
    "retrieval": "Recall, MRR and nDCG of each retriever",
    "robustness": "Token F1 of the built engine on questions as they were written and reworded, for each kind",
}
_COLORS = {
    "base_closed_book": "#c9ced6",
    "base_retrieval": "#8d99a8",
    "tuned_closed_book": "#a8cdf0",
    "tuned_retrieval": "#1f6fb8",
    "engine_retrieval": "#12877a",
    "tfidf": "#c9ced6",
    "bm25": "#8d99a8",
    "hybrid": "#1f6fb8",
    "written": "#1f6fb8",
    "reworded": "#e08a1e",
}
_RETRIEVERS = {"tfidf": "TF-IDF", "bm25": "BM25", "hybrid": "Hybrid"}
_ANSWER_METRICS = {"exact_match": "exact match", "f1": "token F1", "rouge_l": "ROUGE-L"}
_DECLINE_METRICS = {
    "declined_unanswerable": "unanswerable declined\n(higher is better)",
    "declined_answerable": "answerable declined\n(lower is better)",
}
_WORDINGS = {"written": "as written", "reworded": "reworded"}
_RETRIEVAL_METRICS = {
    "recall@1": "recall@1",
    "recall@3": "recall@3",
    "recall@5": "recall@5",
    "recall@10": "recall@10",
    "mrr@10": "MRR@10",
    "ndcg@10": "nDCG@10",
}


@dataclass(frozen=True, slots=True)
class _Bars:
    """Groups of bars: one group for each metric, one bar in each group for each series."""

    series: Mapping[str, str]  # name -> label
    metrics: Mapping[str, str]  # name -> label
    values: Mapping[str, Mapping[str, Interval]]  # series -> metric


def draw(summary: Summary) -> dict[str, str]:
    """The charts by name, as in `CHARTS`; without reworded questions there is none about them."""
    bars = {
        "answers": _Bars(CELLS, _ANSWER_METRICS, summary.cells),
        "declines": _Bars(CELLS, _DECLINE_METRICS, summary.cells),
        "retrieval": _Bars(_RETRIEVERS, _RETRIEVAL_METRICS, summary.retrieval),
    }
    if summary.robustness:
        bars["robustness"] = _robustness(summary)
    return {name: _svg(groups) for name, groups in bars.items()}


def _robustness(summary: Summary) -> _Bars:
    """A group for each kind, over the questions that it changes."""
    f1 = {one.kind: drop for one in summary.robustness for drop in one.drops if drop.metric == "f1"}
    values = {wording: {kind: getattr(drop, wording) for kind, drop in f1.items()} for wording in _WORDINGS}
    return _Bars(_WORDINGS, {kind: KIND_NAMES[kind].lower() for kind in f1}, values)


def _svg(bars: _Bars) -> str:
    def plot(figure: Figure) -> None:
        _plot(figure.add_subplot(), bars)
        add_legend(figure)

    return draw_svg(plot, 3.5, below=0.15 if any("\n" in label for label in bars.metrics.values()) else 0.0)


def _plot(axes: Axes, bars: _Bars) -> None:
    present = [name for name in bars.series if name in bars.values]
    width = 0.82 / max(len(present), 1)
    for place, name in enumerate(present):
        shift = (place - (len(present) - 1) / 2) * width
        _plot_series(axes, bars, name, [group + shift for group in range(len(bars.metrics))], width)
    axes.set_xticks(range(len(bars.metrics)), list(bars.metrics.values()))
    axes.set_ylim(0.0, 1.08)
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    add_grid(axes, "y")


def _plot_series(axes: Axes, bars: _Bars, name: str, places: Sequence[float], width: float) -> None:
    """One series with its intervals as whiskers; a metric that counts no question has no bar."""
    found = [bars.values[name][metric] for metric in bars.metrics]
    means = [interval.mean or 0.0 for interval in found]
    axes.bar(places, means, width * 0.92, color=_COLORS[name], label=bars.series[name])
    for place, interval in zip(places, found, strict=True):
        if interval.mean is None or interval.low is None or interval.high is None:
            axes.text(place, 0.02, "-", ha="center", color="#57606a")
            continue
        axes.vlines(place, interval.low, interval.high, color="#24292f", linewidth=0.9)
        axes.text(place, interval.high + 0.015, f"{interval.mean:.2f}", ha="center", fontsize=7.5)
