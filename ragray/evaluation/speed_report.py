"""The performance analysis: throughput against latency, memory and cost of each engine.

In: measured settings as plain figures. Out: a report in both forms with charts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ragray.evaluation.drawing import add_grid, add_legend, draw_svg
from ragray.evaluation.sections import Report, Section, Tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERCENTILES = (50, 95, 99)
_COLORS = ("#1f6fb8", "#12877a", "#c8553d", "#d9a13b", "#7b61a8", "#8d99a8")
_MARKS = ("o", "s", "^", "D", "v", "P")
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class SpeedCell:
    """One setting of the sweep on one engine; all lists are percentiles 50, 95 and 99, in seconds."""

    batch_size: int
    concurrency: int
    prompt_tokens: int
    new_tokens: int
    requests: int
    seconds: float
    first_token_s: tuple[float, ...]
    each_token_s: tuple[float, ...]
    total_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, over all requests."""
        return self.requests * self.new_tokens / self.seconds

    @property
    def requests_per_s(self) -> float:
        """Finished requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """One engine, loaded in a process of its own for each batch size."""

    name: str  # "openvino int8 on cpu"
    device: str  # type, as prices are named by
    hardware: str  # the processor's or GPU's own name
    disk_bytes: int
    load_s: float
    loaded_bytes: int  # resident memory of the process once loaded, the runtime's libraries included
    peak_bytes: int  # most that the process held
    cells: tuple[SpeedCell, ...]


def percentiles(values: Sequence[float]) -> tuple[float, ...]:
    """Percentiles 50, 95 and 99, between values by straight lines (numpy's default)."""
    return tuple(float(value) for value in np.percentile(np.asarray(values, dtype=np.float64), PERCENTILES))


def cost_per_million(cell: SpeedCell, price_per_hour: float) -> float:
    """What a million generated tokens cost when this load runs all the time; reading the prompts is in it."""
    return price_per_hour / (cell.tokens_per_s * 3600.0) * _MILLION


def speed_report(name: str, engines: Sequence[EngineSpeed], prices: Mapping[str, float], currency: str) -> Report:
    """The report about all engines.

    Args:
        name: of the run.
        engines: each with at least one cell.
        prices: of an hour, by device type.
        currency: of the prices.
    """
    note = "Up and to the right: more clients at once. The number at a point is that of the clients."
    sections = [Section("Latency against throughput", note, (), (), "latency"), _memory_section(engines)]
    sections += [_engine_section(engine, prices.get(engine.device), currency) for engine in engines]
    return Report(
        title=f"Speed: {name}",
        introduction=(
            "Clients that each keep one request running (a closed loop). Prompts are cut from the corpus and share no "
            "prefix, so no engine answers from its prefix cache; answers have a fixed length. Times hold for this "
            "machine, loaded by nothing else, at this number of requests: with few, the 99th percentile is nearly the "
            "slowest."
        ),
        tiles=_tiles(engines, prices, currency),
        sections=tuple(sections),
        charts={"latency": _draw_latency(engines), "memory": _draw_memory(engines)},
        described={
            "latency": "Time between tokens, 95th percentile, against generated tokens a second; a point for each load",
            "memory": "Size on disk, memory once loaded and peak memory of each engine",
        },
    )


def _tiles(engines: Sequence[EngineSpeed], prices: Mapping[str, float], currency: str) -> tuple[Tile, ...]:
    tiles: list[Tile] = []
    for engine in engines:
        fastest = max(engine.cells, key=lambda cell: cell.tokens_per_s)
        note = f"most tokens/s: {fastest.concurrency} clients, batch {fastest.batch_size}"
        tiles.append((engine.name, f"{fastest.tokens_per_s:,.0f} tokens/s", note))
        if (price := prices.get(engine.device)) is not None:
            cost = f"{cost_per_million(fastest, price):,.3f} {currency}"
            tiles.append((f"{engine.name}: a million tokens", cost, f"at {price:g} {currency} an hour"))
    return tuple(tiles)


def _memory_section(engines: Sequence[EngineSpeed]) -> Section:
    rows = tuple(
        (e.name, e.hardware, _mib(e.disk_bytes), f"{e.load_s:.1f}", _mib(e.loaded_bytes), _mib(e.peak_bytes))
        for e in engines
    )
    header = ("engine", "device", "MiB on disk", "load s", "MiB once loaded", "MiB at most")
    return Section("Memory", "Of the whole process, the runtime's own libraries included.", header, rows, "memory")


def _engine_section(engine: EngineSpeed, price: float | None, currency: str) -> Section:
    header = (
        "batch", "clients", "prompt", "answer", "requests", "requests/s", "tokens/s",
        "first token ms: p50 / p95 / p99", "each further token ms", "whole answer ms",
        *([f"{currency} a million tokens"] if price is not None else []),
    )  # fmt: skip
    rows = []
    for cell in engine.cells:
        row = [str(n) for n in (cell.batch_size, cell.concurrency, cell.prompt_tokens, cell.new_tokens, cell.requests)]
        row += [f"{cell.requests_per_s:.2f}", f"{cell.tokens_per_s:,.1f}"]
        row += [_milliseconds(values) for values in (cell.first_token_s, cell.each_token_s, cell.total_s)]
        if price is not None:
            row.append(f"{cost_per_million(cell, price):.3f}")
        rows.append(tuple(row))
    return Section(engine.name, "Lengths in tokens.", header, tuple(rows))


def _milliseconds(values: Sequence[float]) -> str:
    return " / ".join(f"{value * 1000:,.1f}" for value in values)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def _draw_latency(engines: Sequence[EngineSpeed]) -> str:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="generated tokens a second", ylabel="ms between tokens, 95th percentile")
        lines: dict[tuple[str, int, int, int], list[SpeedCell]] = {}
        for engine in engines:
            for cell in engine.cells:
                key = (engine.name, cell.batch_size, cell.prompt_tokens, cell.new_tokens)
                lines.setdefault(key, []).append(cell)
        names = [engine.name for engine in engines]
        prompts = sorted({key[2] for key in lines})
        for (name, batch, prompt, answer), cells in lines.items():
            cells.sort(key=lambda cell: cell.concurrency)
            axes.plot(
                [cell.tokens_per_s for cell in cells],
                [cell.each_token_s[1] * 1000 for cell in cells],
                color=_COLORS[names.index(name) % len(_COLORS)],
                marker=_MARKS[prompts.index(prompt) % len(_MARKS)],
                label=f"{name}, batch {batch}, {prompt} + {answer}",
                linewidth=1.2,
                markersize=5,
            )
            for cell in cells:
                place = (cell.tokens_per_s, cell.each_token_s[1] * 1000)
                axes.annotate(str(cell.concurrency), place, (3, 3), textcoords="offset points", fontsize=7.5)
        for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
        add_grid(axes, "y")
        add_legend(figure, columns=2)

    rows = math.ceil(len({(e.name, c.batch_size, c.prompt_tokens, c.new_tokens) for e in engines for c in e.cells}) / 2)
    return draw_svg(plot, 3.9 + 0.2 * rows, below=0.2 * rows)


def _draw_memory(engines: Sequence[EngineSpeed]) -> str:
    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="MiB")
        parts = {
            "on disk": [e.disk_bytes for e in engines],
            "once loaded": [e.loaded_bytes for e in engines],
            "at most": [e.peak_bytes for e in engines],
        }
        height = 0.8 / len(parts)
        for number, (part, sizes) in enumerate(parts.items()):
            places = [row + (number - 1) * height for row in range(len(engines))]
            axes.barh(places, [size / 2**20 for size in sizes], height * 0.9, color=_COLORS[number], label=part)
        axes.set_yticks(range(len(engines)), [e.name for e in engines])
        axes.invert_yaxis()
        add_grid(axes, "x")
        add_legend(figure)

    return draw_svg(plot, 1.3 + 0.6 * len(engines), left=2.6, below=0.1)
