"""The page about two evaluations, and the lines for a terminal.

In: `Compared`. Out: `report.html`, `report.md` with its chart, `comparison.json`; and the rows of a table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ragray.evaluation.against import Change, Compared, lower_is_better
from ragray.evaluation.drawing import add_grid, draw_svg
from ragray.evaluation.sections import Report, Rows, Section, Tile, write_report
from ragray.evaluation.significance import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("Metric", "First", "Second", "Second - first", "p", "Questions", "May drop by", "Verdict")
_CHART = "differences"
_OUT_OF_100 = ("bleu", "chrf")
_COLORS = {"worse": "#b42318", "better": "#12877a", "": "#8d99a8"}
_ROW_INCHES = 0.24


def verdict(change: Change) -> str:
    """ "failed", "passed", or "" where there is no limit."""
    if change.allowed is None:
        return ""
    return "failed" if change.failed else "passed"


def plain_rows(compared: Compared) -> list[tuple[str, ...]]:
    """The table for a terminal, a row for each metric, under `HEADER`."""
    return [
        (
            change.name,
            f"{change.first:.4f}",
            f"{change.second:.4f}",
            f"{change.difference.mean:+.4f} [{change.difference.low:+.4f}, {change.difference.high:+.4f}]",
            f"{change.difference.p_value:.4f}",
            str(change.difference.n),
            "" if change.allowed is None else f"{change.allowed:g}",
            verdict(change),
        )
        for change in compared.changes
    ]


def write_comparison(folder: Path, compared: Compared) -> None:
    """Write the page, and the figures as JSON.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, comparison_report(compared))
    text = json.dumps(compared.tree(), ensure_ascii=False, indent=2, sort_keys=True)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")


def comparison_report(compared: Compared) -> Report:
    """The page: what failed, all metrics, and which runs these are."""
    failed = compared.failed
    limited = [change for change in compared.changes if change.allowed is not None]
    tiles: list[Tile] = [
        (
            "Limits kept",
            f"{len(limited) - len(failed)} of {len(limited)}",
            ", ".join(c.name for c in failed) or "none failed",
        ),
        ("Questions", str(len(compared.first.questions)), "the same in both runs"),
    ]
    described = "Difference of each metric with its 95 % interval; right of the line the second run is better"
    return Report(
        title="Two evaluations compared",
        introduction="The same questions, answered twice. Differences are second run - first run, with the 95 % "
        "interval of a paired bootstrap and p of a two-sided paired randomization test.",
        tiles=tuple(tiles),
        sections=(_metrics(compared), _runs(compared)),
        charts={_CHART: _chart(compared)},
        described={_CHART: described},
    )


def _metrics(compared: Compared) -> Section:
    rows: Rows = tuple(
        (
            change.name + (" (lower is better)" if lower_is_better(change.name) else ""),
            f"{change.first:.4f}",
            f"{change.second:.4f}",
            Interval(change.difference.mean, change.difference.low, change.difference.high, change.difference.n),
            f"{change.difference.p_value:.4f}",
            str(change.difference.n),
            "" if change.allowed is None else f"{change.allowed:g}",
            verdict(change),
        )
        for change in compared.changes
    )
    note = (
        "A metric fails when it got worse by more than it may, whatever p says. Where a metric leaves questions out "
        "(such as citations, of answers that cite), each mean is over what that run counts."
    )
    if compared.uncounted:
        note += f" Counted by one of the runs for no question: {', '.join(compared.uncounted)}."
    return Section("Metrics", note, HEADER, rows, _CHART)


def _runs(compared: Compared) -> Section:
    rows: Rows = (
        ("First", compared.first.uri, compared.first.digest),
        ("Second", compared.second.uri, compared.second.digest),
    )
    return Section("Runs", "", ("Run", "Artifact", "Digest"), rows)


def _chart(compared: Compared) -> str:
    """Points with whiskers, turned so that right is better; BLEU and chrF are divided by 100."""
    changes = compared.changes[::-1]

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, change in enumerate(changes):
            scale = (-1.0 if lower_is_better(change.name) else 1.0) / (
                100.0 if change.name.endswith(_OUT_OF_100) else 1.0
            )
            gap = change.difference
            ends = sorted((scale * gap.low, scale * gap.high))
            color = _COLORS["worse" if ends[1] < 0.0 else "better" if ends[0] > 0.0 else ""]
            axes.hlines(place, ends[0], ends[1], color=color, linewidth=1.6)
            axes.plot([scale * gap.mean], [place], "o", color=color, markersize=4)
        axes.axvline(0.0, color="#24292f", linewidth=0.9)
        axes.set_yticks(range(len(changes)), [change.name for change in changes])
        axes.set_ylim(-0.7, len(changes) - 0.3)
        add_grid(axes, "x")

    return draw_svg(plot, 0.9 + _ROW_INCHES * max(len(changes), 2), left=2.9)
