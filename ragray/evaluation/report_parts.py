"""The tables of the report that are about the whole run: what was evaluated, and what other wordings cost.

In: a summary, manifests and digests. Out: `Section`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ragray.evaluation.judge import Verdicts
from ragray.evaluation.robustness import KIND_NAMES, Robustness
from ragray.evaluation.sections import Rows, Section
from ragray.evaluation.significance import Difference, Interval
from ragray.manifest import Manifest


@dataclass(frozen=True)
class Versions:
    """What the manifests of the artifacts do not say."""

    base_model: str  # its name
    base_model_digest: str
    code: str  # digest of the evaluation's code
    ragray: str
    packages: Mapping[str, str]


def versions_section(versions: Versions, manifests: Mapping[str, Manifest]) -> Section:
    """Corpus, model, adapter, index and code, each by the digest of its content."""
    named = [
        ("Corpus: records, passages and questions", "prepare", "stage prepare"),
        ("Index", "index", "stage index"),
        ("Adapter", "train", "stage train"),
        ("Tuned model: base model with the adapter merged in", "merge", "stage merge"),
        ("Engine", "engine", "stage engine"),
    ]
    rows = [(label, name, manifests[stage].digest) for label, stage, name in named if stage in manifests]
    rows.insert(2, ("Base model", versions.base_model, versions.base_model_digest))
    rows.append(("Code of the evaluation", f"ragray {versions.ragray}", versions.code))
    rows.append(("Packages", ", ".join(f"{name} {number}" for name, number in sorted(versions.packages.items())), ""))
    note = "Each by the SHA-256 of its content: two reports that agree in a row are about the same thing there."
    return Section("What was evaluated", note, ("What", "Name", "Digest"), tuple(rows))


def judge_section(judge: Verdicts, cell: str) -> Section:
    """The judge's grades, with every failure."""
    rows: Rows = tuple(
        (
            one.criterion.capitalize(),
            one.mean,
            str(one.mean.n),
            str(one.asked - one.mean.n),
            ", ".join(f"{reason} {count}" for reason, count in one.failures.items()) or "-",
            "-" if one.lowest is None else f"{one.lowest:.3f} to {one.highest:.3f}",
        )
        for one in judge.criteria
    )
    note = (
        f'{judge.model} graded the answers of the cell "{cell}" that were no declines, from 0 to 1; prompts '
        f"{judge.prompt_digest[:16]}. The last column is where the mean would lie if each failure had the lowest or "
        "the highest grade. Grades of another model or other prompts cannot be compared with these."
    )
    header = ("Criterion", "Mean grade", "Graded", "Failed", "Failures", "With failures")
    return Section("Judge", note, header, rows)


def robustness_section(found: tuple[Robustness, ...], metric_names: Mapping[str, str], cell: str) -> Section:
    """What typos, speech recognition and other wording cost the built engine's answers, and retrieval."""
    rows: Rows = tuple(
        (
            KIND_NAMES[one.kind],
            metric_names.get(drop.metric, drop.metric),
            drop.written,
            drop.reworded,
            *_difference(drop.difference),
        )
        for one in found
        for drop in one.drops
    )
    kinds = "; ".join(
        f"{KIND_NAMES[one.kind]}: {one.changed} questions changed, {one.unchanged} without anything to change"
        + (", training made its variants by the same rules" if one.shared else "")
        for one in found
    )
    note = f'{kinds}. Over the changed questions alone; answers are those of the cell "{cell}".'
    header = ("Kind", "Metric", "As written", "Reworded", "Reworded - as written", "p")
    return Section("Robustness", note, header, rows, "robustness")


def _difference(difference: Difference | None) -> tuple[Interval | str, str]:
    if difference is None:
        return "-", "-"
    return Interval(difference.mean, difference.low, difference.high, difference.n), f"{difference.p_value:.4f}"
