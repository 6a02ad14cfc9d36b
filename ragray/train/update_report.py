"""The report of `ragray inspect adapter`: LoRA's matrix update as heat maps, tables and a suggested rank.

In: an adapter folder or a train artifact, and perhaps a folder of checkpoints. Out: report.html, report.md with
charts, and update.json with all figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ragray.errors import ArtifactError
from ragray.evaluation.sections import Report, Section, write_report
from ragray.train.adapter import Adapter, read_adapter
from ragray.train.base_record import BASE_MODEL, find_base
from ragray.train.loading import model_folder
from ragray.train.matrix_update import ENERGY, LayerUpdate, StepChange, changes, inspect_adapter, weight_reader
from ragray.train.update_charts import draw_changes, draw_heat_map, draw_spectra

FIGURES = "update.json"
_MOST_LAYERS = 0.9  # of the layers must be served by the suggested rank
_FULL = 0.75  # of the rank in use, from which on a larger one is suggested


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rank for the next training, and why."""

    rank: int
    reason: str


def suggest_rank(updates: Sequence[LayerUpdate]) -> Suggestion:
    """A rank that keeps 90 % of the energy of the update in nine layers of ten, as a power of two.

    Where that takes more than three quarters of the present rank, the update fills its room and twice the rank is
    suggested instead. An update of zero says nothing, and the rank stays.
    """
    rank = max(update.rank for update in updates)
    used = sorted(update.energy_rank for update in updates)
    if used[-1] == 0:
        return Suggestion(rank, "the update is zero: nothing was trained yet")
    needed = max(1, used[max(0, math.ceil(_MOST_LAYERS * len(used)) - 1)])
    fact = f"nine layers of ten keep {ENERGY:.0%} of their update's energy in {needed} of {rank} directions"
    if needed > _FULL * rank:
        return Suggestion(2 * rank, f"{fact}: the update fills its room, so try twice the rank")
    fitting = 2 ** math.ceil(math.log2(needed))
    if fitting >= rank:
        return Suggestion(rank, f"{fact}: the rank fits")
    return Suggestion(fitting, f"{fact}: the next power of two is enough")


def report_adapter(source: Path, checkpoints: Path | None, out: Path) -> Suggestion:
    """Inspect an adapter and write the report into the folder `out`.

    Args:
        source: an adapter's folder, or a train artifact's.
        checkpoints: a run's folder of `step-*`.
        out: created where absent.

    Raises:
        ArtifactError: there is no adapter, its kind is unknown, or its base model is not at hand.
        EngineError: merging by PEFT differs from W + BA.
    """
    folder = source / "adapter" if (source / "adapter").is_dir() else source
    adapter = read_adapter(folder)
    if not adapter.layers:
        raise ArtifactError(f"{folder}: adapts no linear layer", "name another adapter")
    base = _base_of(folder, adapter)
    updates = list(inspect_adapter(adapter, weight_reader(base)))
    steps = changes(checkpoints) if checkpoints else []
    suggestion = suggest_rank(updates)
    out.mkdir(parents=True, exist_ok=True)
    tree = {
        "adapter": adapter.kind, "suggestion": asdict(suggestion), "layers": [update.tree() for update in updates],
        "checkpoints": [asdict(step) for step in steps],
    }  # fmt: skip
    (out / FIGURES).write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_report(out, _report(adapter, updates, steps, suggestion))
    return suggestion


def _base_of(folder: Path, adapter: Adapter) -> Path:
    record = folder.parent / BASE_MODEL
    if record.is_file():
        return find_base(record)
    named = adapter.config.get("base_model_name_or_path")
    if not named:
        raise ArtifactError(f"{folder}: does not name its base model", "set base_model_name_or_path in its config")
    return model_folder(str(named))


_MAPS: Mapping[str, tuple[str, str, Callable[[LayerUpdate], float]]] = {
    "relative": (
        "Size of the update",
        "Frobenius norm of the scaled BA over that of W: how far a layer moved.",
        lambda update: update.relative,
    ),
    "effective_rank": (
        "Effective rank",
        "exp of the entropy of BA's singular values as shares of their sum (Roy and Vetterli 2007): how many "
        "directions the update uses, at most r.",
        lambda update: update.effective_rank,
    ),
    "energy_rank": (
        "Directions that hold 90 % of the energy",
        "The fewest singular values of BA whose squares sum to 90 % of all squares.",
        lambda update: float(update.energy_rank),
    ),
    "angle": (
        "Angle to the top subspace of W, degrees",
        "Between A's rows and as many top right singular vectors of W: the angle of the root-mean-square cosine. "
        "Near 0 the update reads what W reads most; a random subspace has the angle in the table below.",
        lambda update: update.mean_angle,
    ),
}


def _report(
    adapter: Adapter, updates: Sequence[LayerUpdate], steps: Sequence[StepChange], suggestion: Suggestion
) -> Report:
    charts = {name: draw_heat_map(_grid(updates, value)) for name, (_, _, value) in _MAPS.items()}
    charts["spectra"] = draw_spectra(_spectra(updates))
    sections = [Section(title, note, (), (), chart=name) for name, (title, note, _) in _MAPS.items()]
    sections.append(
        Section(
            "Singular values", "Of the scaled BA, mean over the layers of a module, largest first.", (), (), "spectra"
        )
    )
    if steps:
        charts["changes"] = draw_changes(steps)
        sections.append(_change_section(steps))
    sections += [_module_section(updates), _layer_section(updates)]
    described = {name: f"{title}, by layer and module" for name, (title, _, _) in _MAPS.items()}
    worst = max(update.merge_error for update in updates)
    lost = [update.cast_loss for update in updates if update.cast_loss is not None]
    return Report(
        title=f"Matrix update of a {adapter.kind} adapter",
        introduction=f"{len(updates)} adapted weights. Suggested rank: {suggestion.rank}, as {suggestion.reason}.",
        tiles=(
            ("Suggested rank", str(suggestion.rank), f"trained with {max(u.rank for u in updates)}"),
            ("Relative update", f"{_total_relative(updates):.4f}", "of all updates, over all weights they change"),
            ("Merge error", f"{worst:.1e}", "largest difference of PEFT's merge in float32 to W + BA"),
            (
                "Lost by rounding",
                f"{max(lost):.1%}" if lost else "nothing",
                "of an update, at most, if merged weights are rounded to the base's own number format",
            ),
        ),
        sections=tuple(sections),
        charts=charts,
        described={
            **described, "spectra": "Singular values by module", "changes": "Norm of the update over the steps",
        },
    )  # fmt: skip


def _grid(updates: Sequence[LayerUpdate], value: Callable[[LayerUpdate], float]) -> dict[tuple[int | None, str], float]:
    """A value for each layer and module; of several weights under one name, such as experts', the mean."""
    found: dict[tuple[int | None, str], list[float]] = {}
    for update in updates:
        found.setdefault((update.layer, update.module), []).append(value(update))
    return {place: sum(values) / len(values) for place, values in found.items()}


def _spectra(updates: Sequence[LayerUpdate]) -> dict[str, list[float]]:
    spectra: dict[str, list[float]] = {}
    for module in dict.fromkeys(update.module for update in updates):
        rows = [update.singular_values for update in updates if update.module == module]
        longest = max(len(row) for row in rows)
        padded = [list(row) + [0.0] * (longest - len(row)) for row in rows]
        spectra[module] = [sum(column) / len(rows) for column in zip(*padded, strict=True)]
    return spectra


def _total_relative(updates: Sequence[LayerUpdate]) -> float:
    moved = sum(update.update_norm**2 for update in updates)
    return float((moved / sum(update.weight_norm**2 for update in updates)) ** 0.5)


def _module_section(updates: Sequence[LayerUpdate]) -> Section:
    rows = []
    for module in dict.fromkeys(update.module for update in updates):
        those = [update for update in updates if update.module == module]
        rows.append(
            (
                module, str(len(those)), f"{_total_relative(those):.4f}", str(suggest_rank(those).rank),
                f"{sum(u.effective_rank for u in those) / len(those):.2f}",
                f"{sum(u.mean_angle for u in those) / len(those):.1f}", f"{those[0].random_angle:.1f}",
            )
        )  # fmt: skip
    header = ("module", "layers", "relative update", "suggested rank", "effective rank", "angle", "random angle")
    return Section("By module", "Means over the layers.", header, tuple(rows))


def _layer_section(updates: Sequence[LayerUpdate]) -> Section:
    header = (
        "weight", "shape", "norm of W", "spectral of W", "norm of BA", "spectral of BA", "effective rank",
        "energy rank", "smallest angle", "largest angle", "lost by rounding",
    )  # fmt: skip
    rows = tuple(
        (
            f"{'' if u.layer is None else u.layer} {u.module}".strip(), f"{u.shape[0]} x {u.shape[1]}",
            f"{u.weight_norm:.3f}", f"{u.weight_spectral:.3f}", f"{u.update_norm:.4f}", f"{u.update_spectral:.4f}",
            f"{u.effective_rank:.2f}", str(u.energy_rank), *(f"{angle:.1f}" for angle in (u.angles[:1] or (90.0,))),
            *(f"{angle:.1f}" for angle in (u.angles[-1:] or (90.0,))),
            "-" if u.cast_loss is None else f"{u.cast_loss:.1%}",
        )
        for u in updates
    )  # fmt: skip
    return Section("By layer", "Norms are Frobenius norms; BA is scaled.", header, rows)


def _change_section(steps: Sequence[StepChange]) -> Section:
    rows = tuple(
        (
            str(step.step), step.module, f"{step.update_norm:.4f}", f"{step.effective_rank:.2f}",
            "-" if step.change is None else f"{step.change:.1%}",
        )
        for step in steps
    )  # fmt: skip
    header = ("step", "module", "norm of BA", "effective rank", "change since the checkpoint before")
    return Section("Over the checkpoints", "Means over the layers of a module.", header, rows, chart="changes")
