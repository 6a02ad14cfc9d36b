"""The page that compares runs: one HTML file, charts as inline SVG, light and dark, nothing loaded and no script.

In: a `Comparison`. Out: HTML. A curve's points carry their values as tooltips of the browser's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ragray.evaluation.samples import visible
from ragray.evaluation.sections import Section, html_page, html_section

if TYPE_CHECKING:
    from ragray.train.run_report import Comparison, Points, RunData
    from ragray.train.validations import SampleAnswer

_COLORS = 8
_MOST_POINTS = 300  # of a curve; longer ones are thinned, their last point stays
_MOST_QUESTIONS = 10  # of each run, whose answers are shown
_MOST_STEPS = 4  # of each question: the first, the last, and between them
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 240, 62, 12, 10, 34
_CHARTS = {
    "loss": "Training loss per answer token",
    "valid_loss": "Validation loss per answer token",
    "f1": "Token F1 of the answers to the sample",
    "exact_match": "Exact matches among the answers to the sample",
    "citation_recall": "Share of the answers to the sample that cite the right passage",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm before clipping",
    "tokens_per_s": "Useful tokens per second, all workers",
    "padded_tokens_per_s": "Tokens computed per second, all workers",
    "mfu": "Model FLOPs utilization, mean of the workers",
    "memory_mib": "Peak memory, MiB, largest of the workers",
    "data_wait_share": "Share of a step spent waiting for data, largest of the workers",
}
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --c0: #1f6fb8; --c1: #c8553d; --c2: #12877a; --c3: #8a5cb8;
  --c4: #b9831f; --c5: #4a7d2c; --c6: #b04a84; --c7: #5b6b7b; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e3e8ee; --soft: #9aa6b2; --line: #333c46;
  --wash: #1c222a; --accent: #6fb1ee; --c0: #6fb1ee; --c1: #f08a72; --c2: #4cc4b4; --c3: #bd97e6; --c4: #e2b04f;
  --c5: #8dc46b; --c6: #e58abb; --c7: #a3b1c0; } }
body { background: var(--page); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.25rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .25rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); stroke-width: 1; } .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.legend i { display: inline-block; width: 1.1rem; height: .25rem; margin-right: .4rem; vertical-align: middle; }
"""


def render(comparison: Comparison) -> str:
    """The whole page."""
    runs = comparison.runs
    charts = [_figure(title, [run.curves.get(name, []) for run in runs]) for name, title in _CHARTS.items()]
    tables = (_differences(comparison), _validated(runs), _answers(runs), _workers(runs))
    body = [
        _legend(runs),
        html_section(_overview(runs), {}, {}),
        "<h2>Curves</h2>",
        f'<div class="charts">{"".join(charts)}</div>',
        *(html_section(section, {}, {}) for section in tables if section),
    ]
    colors = "".join(
        f".k{n} {{ stroke: var(--c{n}); }} circle.k{n} {{ fill: var(--c{n}); }} .b{n} {{ background: var(--c{n}); }}"
        for n in range(_COLORS)
    )
    title = f"Training run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} training runs"
    return html_page(title, body, _STYLE + colors)


def _legend(runs: Sequence[RunData]) -> str:
    items = (
        f'<li><i class="b{n % _COLORS}"></i>{escape(run.name)}{"" if run.finished else " (not finished)"}</li>'
        for n, run in enumerate(runs)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _overview(runs: Sequence[RunData]) -> Section:
    header = ("run", "steps", "last loss", "best validation", "last validation", "workers", "tokens/s", "computed/s",
              "MFU", "MiB", "data wait", "stall")  # fmt: skip
    rows = []
    for run in runs:
        found = run.summary
        cells = (found["steps"], found["last_loss"], found["best_valid_loss"], found["last_valid_loss"],
                 found["workers"], found["tokens_per_s"], found["padded_tokens_per_s"])  # fmt: skip
        shares = (_share(found["mfu"]), short(found["memory_mib"]), _share(found["data_wait_share"]))
        rows.append((run.name, *map(short, cells), *shares, _share(found["stall_share"])))
    note = "Speeds, MFU and data wait are medians of the steps. Stall: time that checkpoints and reports held up steps."
    return Section("Runs", note, header, tuple(rows))


def _differences(comparison: Comparison) -> Section | None:
    known = [run.name for run in comparison.runs if run.settings]
    if len(known) < 2:
        return None
    rows = tuple((name, *map(str, values)) for name, values in comparison.differences.items())
    note = "Settings and inputs that are not the same in all finished runs." if rows else "They are all the same."
    return Section("Differences of the configuration", note, ("field", *known), rows)


def _workers(runs: Sequence[RunData]) -> Section | None:
    rows = tuple(
        (run.name, str(rank), short(speed), _share(wait), short(memory))
        for run in runs
        for rank, speed, wait, memory in run.of_ranks()
    )
    header = ("run", "rank", "tokens/s", "data wait", "MiB")
    return Section("Workers", "Medians over the steps; the most memory.", header, rows) if rows else None


def _validated(runs: Sequence[RunData]) -> Section | None:
    rows = tuple(
        (run.name, str(made.step), short(made.loss), str(made.questions), short(made.exact_match), short(made.f1),
         short(made.citation_recall), short(made.declined_unanswerable), short(made.declined_answerable),
         short(made.seconds))
        for run in runs
        for made in run.validations
    )  # fmt: skip
    header = ("run", "step", "loss", "questions", "exact match", "F1", "right citation", "declined unanswerable",
              "declined answerable", "seconds")  # fmt: skip
    note = "By tasks of their own. Step 0 is the base model. Scores are means over the sample of validation questions."
    return Section("Validated checkpoints", note, header, rows) if rows else None


def _answers(runs: Sequence[RunData]) -> Section | None:
    rows = []
    for run in runs:
        by_question: dict[str, list[SampleAnswer]] = {}
        for answer in run.answers:
            by_question.setdefault(answer.example_id, []).append(answer)
        for made in list(by_question.values())[:_MOST_QUESTIONS]:
            rows += [_answer_row(run.name, answer) for answer in _spread(made)]
    header = ("run", "question", "expected", "passage", "step", "answer", "cites", "F1")
    note = "How the answers to the same questions changed; all of them are in samples.jsonl."
    return Section("Answers to the sample", note, header, tuple(rows)) if rows else None


def _answer_row(run: str, answer: SampleAnswer) -> tuple[str, ...]:
    cites = ", ".join(map(str, answer.cited)) or "-"
    text = "(declined) " * answer.declined + visible(answer.text)
    right = str(answer.right or "none")
    return (run, visible(answer.question), visible(answer.reference), right, str(answer.step), text, cites,
            short(answer.f1))  # fmt: skip


def _spread(made: Sequence[SampleAnswer]) -> list[SampleAnswer]:
    """The first, the last, and evenly some between."""
    most = min(_MOST_STEPS, len(made))
    return [made[round(place * (len(made) - 1) / max(most - 1, 1))] for place in range(most)]


def _figure(title: str, curves: Sequence[Points]) -> str:
    if not any(curves):
        return ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{line_chart(title, curves)}</figure>"


def line_chart(title: str, curves: Sequence[Points]) -> str:
    """Curves over the steps as SVG; colours come from the classes k0 to k7, by the curve's place.

    Args:
        title: what is shown, for people who cannot see it.
        curves: (step, value) of each run; values that are not finite are left out.
    """
    shown = [[point for point in points if math.isfinite(point[1])] for points in curves]
    every = [point for points in shown for point in points]
    if not every:
        return '<svg viewBox="0 0 520 40"><text x="8" y="24">no finite value</text></svg>'
    low_y, high_y, ticks_y = _scale([value for _, value in every])
    low_x, high_x = min(step for step, _ in every), max(step for step, _ in every)

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (step - low_x) / max(high_x - low_x, 1) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (value - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks_y:
        y = place(low_x, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_tick(tick)}</text>')
    for step, anchor in ((low_x, "start"), (high_x, "end")):
        parts.append(f'<text x="{place(step, low_y)[0]}" y="{_HEIGHT - 14}" text-anchor="{anchor}">step {step}</text>')
    for number, points in enumerate(shown):
        parts += _curve([(point, place(*point)) for point in _thinned(points)], number % _COLORS)
    return "".join([*parts, "</svg>"])


def _curve(placed: Sequence[tuple[tuple[int, float], tuple[float, float]]], color: int) -> list[str]:
    path = " ".join(f"{x},{y}" for _, (x, y) in placed)
    marks = (
        f'<circle class="k{color}" cx="{x}" cy="{y}" r="{2 if len(placed) <= 40 else 0.5}">'
        f"<title>step {step}: {value:.5g}</title></circle>"
        for (step, value), (x, y) in placed
    )
    return [f'<polyline class="curve k{color}" points="{path}"/>', *marks]


def _thinned(points: Points) -> Points:
    each = math.ceil(len(points) / _MOST_POINTS)
    return points if each <= 1 else [*points[:-1:each], points[-1]]


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Least, greatest and the ticks of an axis: steps of 1, 2 or 5 times a power of ten, about four of them."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def short(value: float | None) -> str:
    """A figure for a table: four digits, thousands apart; "-" where it is not known, else nan and inf as such."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
