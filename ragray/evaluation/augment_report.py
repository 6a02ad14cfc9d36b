"""The report of stage augment: what was made of the training questions, and what was refused.

In: the tables that augment wrote, with its counts and metrics. Out: `report.md`, `charts/*.svg` and `report.html`.
Equal tables give equal bytes. Tables are read by columns and row groups; the first rows are the examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ragray.dataprep.negatives import KINDS
from ragray.evaluation.data_charts import draw_bars, draw_scores
from ragray.evaluation.samples import count_values, first_rows, visible, visible_pair
from ragray.evaluation.sections import Report, Rows, Section, Tile, write_report

EXAMPLES = 3  # of each method

CHARTS = {
    "methods": "Question variants by the method that made them",
    "refused": "Question variants that were refused, by reason",
    "negatives": "Negatives of each kind, and passages that answer, by their score for the question",
}
_BINS = 20
POSITIVE = "positive"


def write_augment_report(folder: Path, name: str, counts: Mapping[str, int], metrics: Mapping[str, Any]) -> None:
    """Write the report of an augment artifact.

    Args:
        folder: holds `variants`, `examples` and perhaps `negatives` (.parquet), and takes the report.
        name: of the run.
        counts: variants, negatives, examples, refused.<reason> of variants, negatives_refused.<reason> of passages.
        metrics: variant_methods (method -> variants; a variant of several methods counts for each).
    """
    refused, passed = _reasons(counts, "refused"), _reasons(counts, "negatives_refused")
    methods = dict(metrics["variant_methods"])
    scores = _read_scores(folder / "negatives.parquet")
    charts = {"methods": draw_bars(methods)} if methods else {}
    charts |= {"refused": draw_bars(refused)} if refused else {}
    charts |= {"negatives": draw_scores(scores.histograms, scores.low, scores.high)} if scores else {}
    sections = [
        _variants(folder, methods),
        _refusals("variants", refused, "refused" if refused else ""),
        _negatives(scores),
        _refusals("negatives", passed),
    ]
    introduction = (
        f"{counts['examples']:,} training examples, made with {counts['variants']:,} variants of questions and "
        f"{counts['negatives']:,} negatives."
    )
    tiles = _tiles(counts, sum(refused.values()))
    report = Report(f"Augmentation of {name}", introduction, tiles, tuple(sections), charts, CHARTS)
    write_report(folder, report)


@dataclass(frozen=True, slots=True)
class _Scores:
    """The scores of all negatives, and of the passages that answer."""

    low: float
    high: float
    histograms: dict[str, list[int]]  # [_BINS] from low to high, by kind of passage
    totals: dict[str, float]  # sum of the scores

    def of(self, name: str) -> tuple[int, float]:
        """How many passages of a kind there are, and their mean score."""
        count = sum(self.histograms[name])
        return count, self.totals[name] / count


def _tiles(counts: Mapping[str, int], refused: int) -> tuple[Tile, ...]:
    return (
        ("Variants", f"{counts['variants']:,}", f"{refused:,} refused"),
        ("Negatives", f"{counts['negatives']:,}", "passages that do not answer"),
        ("Examples", f"{counts['examples']:,}", "for training and validation"),
    )


def _variants(folder: Path, methods: Mapping[str, int]) -> Section:
    path = folder / "variants.parquet"
    told = [method for (method,) in count_values(path, ["method"])]
    ordered = sorted(methods, key=lambda method: (-methods[method], method))
    wanted = {method: [each for each in told if method in each.split("+")] for method in ordered}
    found = first_rows(path, "method", wanted, EXAMPLES, ("parent", "question", "method"))
    parents = {row["parent"]: [row["parent"]] for rows in found.values() for row in rows}
    asked = first_rows(folder / "examples.parquet", "example_id", parents, 1, ("question",))
    questions = {parent: rows[0]["question"] for parent, rows in asked.items() if rows}
    rows: Rows = tuple(
        (
            "" if n else visible(method), "" if n else f"{methods[method]:,}", visible(row["parent"]),
            *_pair(questions.get(row["parent"]), row["question"]), visible(row["method"]),
        )
        for method, examples in found.items()
        for n, row in enumerate(examples)
    )  # fmt: skip
    note = "Methods by variants, with the first of each. Several methods may have made one variant together."
    header = ("Method", "Variants", "Parent", "Question", "Variant", "Made by")
    chart = "methods" if methods else ""
    return Section("Variants", note if rows else "No variants were made.", header, rows, chart)


def _pair(question: str | None, variant: str) -> tuple[str, str]:
    return ("-", visible(variant)) if question is None else visible_pair(question, variant)


def _reasons(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Reason -> count of the keys `<prefix>.<reason>`, the most frequent first."""
    found = {key.removeprefix(f"{prefix}."): n for key, n in counts.items() if key.startswith(f"{prefix}.") and n}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _refusals(what: str, refused: Mapping[str, int], chart: str = "") -> Section:
    rows: Rows = tuple((visible(reason), f"{count:,}") for reason, count in refused.items())
    note = f"{what.capitalize()} that were looked at and not kept, by reason." if rows else f"No {what} were refused."
    return Section(f"Refused {what}", note, ("Reason", what.capitalize()), rows, chart)


def _negatives(scores: _Scores | None) -> Section:
    if scores is None:
        return Section("Negatives", "No negatives were mined.", (), ())
    rows: Rows = tuple(
        (name, f"{count:,}", f"{mean:.3f}") for name in scores.histograms for count, mean in [scores.of(name)]
    )
    note = (
        "How near passages are to the question, by kind: hard ones are nearest without being an answer. Where they lie "
        "above the answers' own passages (positive), look whether they answer as well."
    )
    return Section("Negatives", note, ("Passages", "Count", "Mean score"), rows, "negatives")


def _read_scores(path: Path) -> _Scores | None:
    """None where there are no negatives."""
    if not path.exists():
        return None
    low, high = 0.0, 0.0
    totals: dict[str, float] = {}
    for part in _scores(path):
        for name, values in part.items():
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            totals[name] = totals.get(name, 0.0) + float(values.sum())
    if not totals.keys() - {POSITIVE}:
        return None
    high = high if high > low else low + 1.0  # no scores but 0 still need a width to be drawn
    histograms = {name: np.zeros(_BINS, np.int64) for name in (POSITIVE, *KINDS) if name in totals}
    for part in _scores(path):
        for name, values in part.items():
            histograms[name] += np.histogram(values, _BINS, (low, high))[0]
    return _Scores(low, high, {name: counts.tolist() for name, counts in histograms.items()}, totals)


def _scores(path: Path) -> Iterator[dict[str, npt.NDArray[np.float64]]]:
    """The scores of each row group, by kind of passage; kinds without scores are left out."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, ["negative_scores", "negative_kinds", "positive_score"])
        values = np.asarray(pc.list_flatten(table.column("negative_scores")), np.float64)
        kinds = pc.list_flatten(table.column("negative_kinds"))
        found = {kind: values[np.asarray(pc.equal(kinds, kind))] for kind in KINDS}
        found[POSITIVE] = np.asarray(table.column("positive_score"), np.float64)
        yield {name: finite for name, part in found.items() if len(finite := part[np.isfinite(part)])}
