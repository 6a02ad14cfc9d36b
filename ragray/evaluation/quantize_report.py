"""The report of stage quantize: what each method costs and loses, which one is chosen, and why.

In: figures of each model and the gate's decision. Out: `report.md`, `charts/*.svg` and `report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.config_quantize import GateConfig
from ragray.evaluation.drawing import add_grid, add_legend, draw_svg
from ragray.evaluation.gate import Decision, Verdict, pareto_front
from ragray.evaluation.sections import Report, Rows, Section, Tile, write_report
from ragray.evaluation.significance import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHARTS = {
    "size": "Quality of the answers against the size of the weights, with the Pareto front",
    "speed": "Quality of the answers against tokens per second, with the Pareto front",
}
SHOWN = ("exact_match", "f1", "rouge_l", "citation_precision", "declined_answerable")
_FRONT, _OTHER, _CHOSEN = "#1f6fb8", "#9aa3ad", "#12877a"


@dataclass(frozen=True)
class ModelFigures:
    """All that was found out about one model."""

    name: str
    figures: Mapping[str, Any]  # as in quantize.json
    costs: Mapping[str, Any]  # as in timings.json
    scores: Mapping[str, Interval]  # by metric


def write_quantize_report(
    folder: Path, name: str, models: Sequence[ModelFigures], decision: Decision, gate: GateConfig
) -> None:
    """Write the report.

    Args:
        folder: takes the files.
        name: of the run.
        models: the full one first.
        decision: of the gate.
        gate: its settings.
    """
    charts = {"size": _draw(_sizes(models, gate), "MB", decision.chosen, gate.metric)}
    speeds = _speeds(models, gate)
    if speeds:
        charts["speed"] = _draw(speeds, "tokens/s", decision.chosen, gate.metric)
    sections = [_gate(decision, gate), _costs(models), _losses(models), _answers(models), _front(models, gate)]
    if speeds:
        sections.append(_fast(models, gate))
    introduction = f"Result: {decision.reason}."
    report = Report(f"Quantization of {name}", introduction, _tiles(models, decision), tuple(sections), charts, CHARTS)
    write_report(folder, report)


def _tiles(models: Sequence[ModelFigures], decision: Decision) -> tuple[Tile, ...]:
    full = models[0]
    chosen = next((model for model in models if model.name == decision.chosen), full)
    return (
        ("Chosen", chosen.name, f"{sum(v.passed for v in decision.verdicts)} of {len(decision.verdicts)} passed"),
        ("Weights", f"{_mb(chosen)} MB", f"full model {_mb(full)} MB"),
        ("KL divergence", f"{chosen.figures['kl_nats']:.4f} nats", "from the full model, on held-out prompts"),
    )


def _gate(decision: Decision, gate: GateConfig) -> Section:
    note = (
        f"Allowed: {gate.metric} at most {gate.max_drop:g} below the full model's ({gate.drop}), and "
        f"{gate.max_kl_nats:g} nats of KL divergence. Intervals of 95 % by paired bootstrap, p by a paired "
        f"randomization test. Of those that pass, the {gate.prefer} is chosen."
    )
    header = ("Model", "Gate", f"{gate.metric}, model - full", "p", "Reason")
    return Section("Gate", note, header, tuple(_verdict_row(verdict, decision) for verdict in decision.verdicts))


def _verdict_row(verdict: Verdict, decision: Decision) -> tuple[str, ...]:
    word = "chosen" if verdict.name == decision.chosen else "passed" if verdict.passed else "refused"
    gap = verdict.difference
    shown = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if gap else "-"
    return verdict.name, word, shown, f"{gap.p_value:.3f}" if gap else "-", verdict.reason


def _costs(models: Sequence[ModelFigures]) -> Section:
    note = (
        "Each model alone in a process of its own; memory is what it added to that process. Methods ran side by side, "
        "so times compare these models with each other, not with other machines. '-': not measured, as the model was "
        "simulated in float."
    )
    header = ("Model", "How", "Loaded by", "MB on disk", "Load, s", "Memory, MB", "Peak, MB", "Tokens/s")
    return Section("Size, memory, speed", note, header, tuple(_cost_row(model) for model in models))


def _cost_row(model: ModelFigures) -> tuple[str, ...]:
    costs = model.costs
    memory = [_plain(value and value / 1e6, 0) for value in (costs["memory_bytes"], costs["peak_memory_bytes"])]
    return (
        model.name, str(model.figures["algorithm"]), str(model.figures["used_by"]), _mb(model),
        _plain(costs["load_s"], 1), *memory, _plain(costs["tokens_per_second"], 1),
    )  # fmt: skip


def _losses(models: Sequence[ModelFigures]) -> Section:
    note = (
        "On held-out test questions with their passages and answers: mean KL(full || model) and the share of equal "
        "most probable tokens over all positions, perplexity over the answers' tokens."
    )
    rows = tuple(
        (
            model.name, f"{model.figures['kl_nats']:.4f}", f"{model.figures['argmax_agreement']:.4f}",
            f"{model.figures['perplexity']:.3f}", str(model.figures["positions"]),
        )
        for model in models
    )  # fmt: skip
    header = ("Model", "KL, nats", "Equal arg max", "Perplexity", "Positions")
    return Section("Distance to the full model", note, header, rows)


def _answers(models: Sequence[ModelFigures]) -> Section:
    note = "Answers to the same test questions with the same passages, with 95 % intervals."
    rows: Rows = tuple((model.name, *(model.scores[metric] for metric in SHOWN)) for model in models)
    return Section("Answers", note, ("Model", *SHOWN), rows)


def _front(models: Sequence[ModelFigures], gate: GateConfig) -> Section:
    points = _sizes(models, gate)
    front = pareto_front(points)
    note = f"No other model is smaller and answers as well as: {', '.join(front)}."
    return Section("Quality against size", note, (), (), "size")


def _fast(models: Sequence[ModelFigures], gate: GateConfig) -> Section:
    points = {name: (-speed, quality) for name, (speed, quality) in _speeds(models, gate).items()}
    note = f"No other model is faster and answers as well as: {', '.join(pareto_front(points))}."
    return Section("Quality against speed", note, (), (), "speed")


def _sizes(models: Sequence[ModelFigures], gate: GateConfig) -> dict[str, tuple[float, float]]:
    return {model.name: (model.figures["bytes"] / 1e6, model.scores[gate.metric].mean or 0.0) for model in models}


def _speeds(models: Sequence[ModelFigures], gate: GateConfig) -> dict[str, tuple[float, float]]:
    timed = [model for model in models if model.costs["tokens_per_second"]]
    return {m.name: (m.costs["tokens_per_second"], m.scores[gate.metric].mean or 0.0) for m in timed}


def _draw(points: Mapping[str, tuple[float, float]], unit: str, chosen: str | None, metric: str) -> str:
    """Points with their names; the front joined by a line. Left is better for sizes, right for speeds."""
    better = -1.0 if unit == "tokens/s" else 1.0
    front = pareto_front({name: (better * x, y) for name, (x, y) in points.items()})

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel=unit, ylabel=metric)
        axes.plot(*zip(*(points[name] for name in front), strict=True), color=_FRONT, label="Pareto front", zorder=1)
        for name, (x, y) in points.items():
            color = _CHOSEN if name == chosen else _FRONT if name in front else _OTHER
            axes.scatter([x], [y], color=color, zorder=2)
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8.5)
        axes.margins(0.18)
        add_grid(axes, "y")
        add_legend(figure)

    return draw_svg(plot, 3.6, below=0.2)


def _mb(model: ModelFigures) -> str:
    return f"{model.figures['bytes'] / 1e6:.1f}"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
