"""Runs of training side by side: what `ragray inspect run` shows.

In: folders of train artifacts, or work folders of runs that still go on or were killed. Out: `Comparison`, and from it
run.json, for programs, and run.html (`run_page`), for people.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragray.errors import ConfigError
from ragray.manifest import MANIFEST, Manifest
from ragray.train.monitor import HISTORY, History, StepRecord
from ragray.train.ranks import RankStep, join_ranks, load_ranks
from ragray.train.trackers import METRICS, read_jsonl
from ragray.train.validations import SampleAnswer, Validation, Validations, load_validations

Points = list[tuple[int, float]]  # (step, value)
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunData:
    """All that a run says about itself."""

    name: str  # short, unlike the other runs'
    place: str
    finished: bool
    history: History
    ranks: Sequence[RankStep]  # none where a run was made before they were recorded
    settings: Mapping[str, Any]  # by dotted name; none of a run that is not finished
    validations: Sequence[Validation] = ()  # of checkpoints beside training
    answers: Sequence[SampleAnswer] = ()

    @property
    def curves(self) -> dict[str, Points]:
        """The run's curves by their name, of finite values; those without any point are left out."""
        found: dict[str, Points] = {
            "loss": _points(self.history.records, lambda record: record.loss),
            "valid_loss": _points(self.history.records, lambda record: record.valid_loss),
            "learning_rate": _points(
                (record for record in self.history.records if record.step > 0), lambda record: record.learning_rate
            ),
            "grad_norm": _points(self.history.records, lambda record: record.grad_norm),
            "tokens_per_s": self._over_ranks(lambda of_step: _speed(of_step, "tokens")),
            "padded_tokens_per_s": self._over_ranks(lambda of_step: _speed(of_step, "padded_tokens")),
            "mfu": self._over_ranks(_mean_mfu),
            "memory_mib": self._over_ranks(lambda of_step: max(made.memory_mib for made in of_step)),
            "data_wait_share": self._over_ranks(
                lambda of_step: max(made.data_wait_s / made.seconds if made.seconds else 0.0 for made in of_step)
            ),
            **{name: self._of_sample(name) for name in ("f1", "exact_match", "citation_recall")},
        }
        return {name: points for name, points in found.items() if points}

    @property
    def summary(self) -> dict[str, float | int | None]:
        """The run's first figures; speeds are medians over the steps."""
        curves, valid = self.curves, self.history.valid_losses
        waits = sum(made.checkpoint_s + made.report_s for made in self.ranks)
        whole = sum(made.seconds for made in self.ranks)
        return {
            "steps": self.history.records[-1].step if self.history.records else 0,
            "last_loss": self.history.losses[-1] if self.history.losses else None,
            "best_valid_loss": min(filter(math.isfinite, valid), default=None),
            "last_valid_loss": valid[-1] if valid else None,
            "workers": max((made.workers for made in self.ranks), default=None),
            "tokens_per_s": _median(curves.get("tokens_per_s")),
            "padded_tokens_per_s": _median(curves.get("padded_tokens_per_s")),
            "mfu": _median(curves.get("mfu")),
            "memory_mib": max((made.memory_mib for made in self.ranks), default=None),
            "data_wait_share": _median(curves.get("data_wait_share")),
            "stall_share": waits / whole if whole else None,  # by checkpoints and reports, of the steps' time
        }

    def of_ranks(self) -> list[tuple[int, float, float, float]]:
        """(rank, median tokens a second, median share of data wait, most memory in MiB) of each worker."""
        rows = []
        for rank in sorted({made.rank for made in self.ranks}):
            own = [made for made in self.ranks if made.rank == rank and made.seconds > 0]
            if own:
                speed = statistics.median(made.tokens / made.seconds for made in own)
                wait = statistics.median(made.data_wait_s / made.seconds for made in own)
                rows.append((rank, speed, wait, max(made.memory_mib for made in own)))
        return rows

    def _of_sample(self, metric: str) -> Points:
        found = ((made.step, getattr(made, metric)) for made in self.validations)
        return [(step, value) for step, value in found if value is not None]

    def _over_ranks(self, value: Callable[[list[RankStep]], float | None]) -> Points:
        steps: dict[int, list[RankStep]] = {}
        for made in self.ranks:
            steps.setdefault(made.step, []).append(made)
        found = ((step, value(of_step)) for step, of_step in sorted(steps.items()))
        return [(step, number) for step, number in found if number is not None]


@dataclass(frozen=True)
class Comparison:
    """Runs, and the settings in which they differ."""

    runs: Sequence[RunData]

    @property
    def differences(self) -> dict[str, list[Any]]:
        """Dotted name -> its value in each run that is finished, where these are not all the same."""
        known = [run.settings for run in self.runs if run.settings]
        names = sorted({name for settings in known for name in settings})
        values = {name: [settings.get(name) for settings in known] for name in names}
        return {name: found for name, found in values.items() if any(value != found[0] for value in found)}

    def to_tree(self) -> dict[str, Any]:
        """What run.json holds."""
        runs = [
            {
                "name": run.name,
                "place": run.place,
                "finished": run.finished,
                "summary": {name: _in_json(value) for name, value in run.summary.items()},
                "curves": run.curves,
            }
            for run in self.runs
        ]
        return {"runs": runs, "differences": self.differences}


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs.

    Raises:
        ConfigError: a folder is no run of training.
    """
    names = _short_names(folders)
    return Comparison([read_run(folder, name) for folder, name in zip(folders, names, strict=True)])


def read_run(folder: Path, name: str) -> RunData:
    """The run in a train artifact or in the work folder of a train stage.

    Raises:
        ConfigError: it is neither.
    """
    if (folder / MANIFEST).is_file() and (folder / HISTORY).is_file():
        manifest = Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"), str(folder))
        settings = dict(_flat("", manifest.config)) | {
            f"inputs.{kind}": source.digest[:16] for kind, source in manifest.inputs.items()
        }
        validated = load_validations(folder)
        return RunData(name, str(folder), True, History.load(folder), load_ranks(folder), settings, *validated)
    history = _unfinished_history(folder)
    if history is None:
        raise ConfigError(
            f"{folder}: no run of training",
            "name a train artifact such as artifacts/demo/train/0123456789abcdef, or a run's work folder such as "
            "artifacts/demo/.work/train-0123456789abcdef",
        )
    validations = Validations(folder)
    results = validations.results()
    losses = {result.step: result.loss for result in results}
    history.records[:] = [replace(r, valid_loss=losses.get(r.step, r.valid_loss)) for r in history.records]
    return RunData(name, str(folder), False, history, join_ranks(folder), {}, results, validations.answers())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write run.html and run.json."""
    from ragray.train.run_page import render

    folder.mkdir(parents=True, exist_ok=True)
    tree = json.dumps(comparison.to_tree(), ensure_ascii=False, indent=2, allow_nan=False)
    (folder / "run.json").write_text(tree + "\n", encoding="utf-8")
    (folder / "run.html").write_text(render(comparison), encoding="utf-8")


def _unfinished_history(folder: Path) -> History | None:
    """The last checkpoint's history, and the steps after it from metrics.jsonl; None where there is neither."""
    rows = read_jsonl(folder / METRICS)
    history = _saved_history(folder) or (History() if rows else None)
    if history is None:
        return None
    last = history.records[-1].step if history.records else -1
    for row in rows:
        if row["step"] > last:  # a step that was left out has no loss
            losses = (row.get("loss"), row.get("valid_loss"))
            made = StepRecord(row["step"], *losses, row["learning_rate"], row.get("grad_norm"), row["tokens"])
            history.add(made, row["seconds"])
    return history


def _saved_history(folder: Path) -> History | None:
    """Of the last checkpoint that is still there: a run that goes on removes old ones."""
    for file in sorted((folder / CHECKPOINTS).glob(f"step-*/{HISTORY}"), reverse=True):
        try:
            return History.load(file.parent)
        except FileNotFoundError:
            continue
    return None


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many parents before them as tell them apart."""
    resolved = [folder.resolve() for folder in folders]
    for parts in range(1, max(len(folder.parts) for folder in resolved) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{number + 1}: {folder.name}" for number, folder in enumerate(resolved)]  # one was named twice


def _flat(prefix: str, tree: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield prefix, tree
        return
    for name, value in tree.items():
        yield from _flat(f"{prefix}.{name}" if prefix else name, value)


def _points(records: Iterable[StepRecord], value: Callable[[StepRecord], float | None]) -> Points:
    found = ((record.step, value(record)) for record in records)
    return [(step, number) for step, number in found if number is not None and math.isfinite(number)]


def _in_json(value: float | None) -> float | None:
    """JSON knows finite numbers alone."""
    return value if value is None or math.isfinite(value) else None


def _speed(of_step: list[RankStep], tokens: str) -> float | None:
    seconds = max(made.seconds for made in of_step)
    return sum(getattr(made, tokens) for made in of_step) / seconds if seconds > 0 else None


def _mean_mfu(of_step: list[RankStep]) -> float | None:
    known = [made.mfu for made in of_step if made.mfu is not None]
    return statistics.fmean(known) if len(known) == len(of_step) else None


def _median(points: Points | None) -> float | None:
    return statistics.median(value for _, value in points) if points else None
