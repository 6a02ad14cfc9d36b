"""Two evaluations of the same questions, compared question by question.

In: two evaluation artifacts, and how much single metrics may drop. Out: `Compared`: every metric of both with the
difference, its interval and p, and whether it dropped by more than was allowed.

Metrics are named `answers.f1` (of the cell `tuned_retrieval`), `answers.<cell>.f1`, `retrieval.ndcg@10` (of the
hybrid), `retrieval.<retriever>.ndcg@10`, `robustness.<kind>.f1` and `judge.<criterion>`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.errors import ArtifactError, ConfigError, DataError
from ragray.evaluation.answers import LOWER_IS_BETTER, METRICS
from ragray.evaluation.results import AS_WRITTEN
from ragray.evaluation.robustness import ANSWER_METRICS, RETRIEVAL_METRICS
from ragray.evaluation.significance import Difference, Resampling
from ragray.evaluation.summary import MAIN_CELL

SAMPLES = 10_000  # resamples, as p-values below 0.001 are wanted
MAIN_RETRIEVER = "hybrid"
_TOLERANCE = 1e-9  # of a drop that equals what is allowed but for rounding
_SHOWN = 5  # questions named in an error

Question = tuple[str, str, tuple[str, ...], bool]  # question, language, references, answerable


@dataclass(frozen=True)
class RunFigures:
    """What one evaluation says: its questions, and each metric's value of each question that it counts."""

    uri: str
    digest: str
    questions: Mapping[str, Question]
    values: Mapping[str, Mapping[str, float]]  # metric's name -> query -> value


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of two runs; `difference` is second - first."""

    name: str
    first: float
    second: float
    difference: Difference
    allowed: float | None = None  # how much it may get worse; None: as much as it likes

    @property
    def worse_by(self) -> float:
        """How much the second run is worse, in the metric's unit; below 0 where it is better."""
        return self.difference.mean if lower_is_better(self.name) else -self.difference.mean

    @property
    def failed(self) -> bool:
        """Whether it got worse by more than is allowed."""
        return self.allowed is not None and self.worse_by > self.allowed + _TOLERANCE


@dataclass(frozen=True)
class Compared:
    """Two runs; `uncounted` are the metrics that one of them counts for no question."""

    first: RunFigures
    second: RunFigures
    changes: tuple[Change, ...]
    uncounted: tuple[str, ...]

    @property
    def failed(self) -> tuple[Change, ...]:
        """The metrics that dropped by more than is allowed."""
        return tuple(change for change in self.changes if change.failed)

    def tree(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = [{**asdict(c), "worse_by": c.worse_by, "failed": c.failed} for c in self.changes]
        runs = {
            name: {"artifact": run.uri, "digest": run.digest}
            for name, run in (("first", self.first), ("second", self.second))
        }
        return {**runs, "questions": len(self.first.questions), "metrics": rows, "uncounted": list(self.uncounted)}


def lower_is_better(name: str) -> bool:
    """Whether a metric is better the lower it is."""
    return name.rpartition(".")[2] in LOWER_IS_BETTER


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """`answers.f1=0.01` and the like as metric -> how much it may drop.

    Raises:
        ConfigError: one is not written so, the number is below 0, or a metric stands twice.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            allowed = float(number)
        except ValueError:
            allowed = math.nan
        if not name or not 0.0 <= allowed < math.inf:
            raise ConfigError(f"--max-drop {text}: no metric and number", "write it as in --max-drop answers.f1=0.01")
        if name in limits:
            raise ConfigError(f"--max-drop {text}: {name} has a limit already", "name each metric once")
        limits[name] = allowed
    return limits


def read_figures(artifact: Artifact) -> RunFigures:
    """The figures of an evaluation.

    Raises:
        ArtifactError: it is none, or was made by another version of ragray.
    """
    if artifact.manifest.kind != "evaluate":
        raise ArtifactError(
            f"{artifact.uri}: this is an artifact of the stage {artifact.manifest.kind}",
            "name the folder of an evaluation, such as artifacts/demo/evaluate/0123456789abcdef",
        )
    rows = pq.read_table(artifact.file("predictions.parquet")).to_pylist()
    values: dict[str, dict[str, float]] = {}
    questions: dict[str, Question] = {}
    for row in rows:
        questions[row["query_id"]] = (row["question"], row["lang"], tuple(row["references"]), bool(row["right"]))
        places = [f"answers.{row['cell']}", *(["answers"] if row["cell"] == MAIN_CELL else [])]
        _add(values, places, METRICS, row)
    for row in pq.read_table(artifact.file("robustness.parquet")).to_pylist():
        _add(values, [f"robustness.{row['cell']}"], ANSWER_METRICS, row)
    for row in pq.read_table(artifact.file("retrieval/queries.parquet")).to_pylist():
        for name in _retrieval_names(row["asked"], row["retriever"], row["metric"]):
            values.setdefault(name, {})[row["query_id"]] = row["value"]
    if "judgements.parquet" in artifact.manifest.files:
        for row in pq.read_table(artifact.file("judgements.parquet")).to_pylist():
            by_query = values.setdefault(f"judge.{row['criterion']}", {})
            if row["grade"] is not None:
                by_query[row["query_id"]] = row["grade"]
    return RunFigures(artifact.uri, artifact.digest, questions, values)


def compare_runs(first: RunFigures, second: RunFigures, limits: Mapping[str, float], seed: int) -> Compared:
    """Every metric that both runs have, on the same questions.

    Args:
        first: the run to hold against.
        second: the run in question.
        limits: metric -> how much it may drop.
        seed: of the resamples.

    Raises:
        DataError: the runs have other questions.
        ConfigError: a limit is of no metric that both runs have.
        DataError: a limit is of a metric that one of the runs counts for no question.
    """
    check_questions(first, second)
    names = sorted(first.values.keys() & second.values.keys(), key=_order)
    check_names(limits, names)
    uncounted = tuple(name for name in names if not first.values[name] or not second.values[name])
    for name in limits:
        if name in uncounted:
            raise DataError(
                f"--max-drop {name}: one of the runs counts no question for it", "limit a metric that both runs have"
            )
    resampling = Resampling(SAMPLES, seed)
    changes = [
        _change(name, first, second, limits.get(name), resampling)
        for name in names
        if name not in uncounted and (name in limits or _shown(name))
    ]
    return Compared(first, second, tuple(changes), tuple(name for name in uncounted if _shown(name)))


def check_names(limits: Iterable[str], names: Sequence[str]) -> None:
    """Refuse limits of metrics that are not there.

    Raises:
        ConfigError: with the names that there are.
    """
    for name in limits:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise ConfigError(
                f"--max-drop {name}: no such metric" + (f"; did you mean {near[0]}?" if near else ""),
                f"write one of {', '.join(names)}",
            )


def check_questions(first: RunFigures, second: RunFigures) -> None:
    """Refuse runs of which one has a question that the other has not, or has in other words.

    Raises:
        DataError: names some of the questions.
    """
    other = [
        query_id
        for query_id in sorted(first.questions.keys() | second.questions.keys())
        if first.questions.get(query_id) != second.questions.get(query_id)
    ]
    if other:
        raise DataError(
            f"{first.uri} and {second.uri} have {len(other):,} questions that differ in words, references or "
            f"language, or that one of them lacks: {', '.join(other[:_SHOWN])}",
            "evaluate both on the same evaluate.questions, evaluate.max_questions and seed",
        )


def _add(
    values: dict[str, dict[str, float]], places: Sequence[str], metrics: Sequence[str], row: dict[str, Any]
) -> None:
    for place in places:
        for metric in metrics:
            by_query = values.setdefault(f"{place}.{metric}", {})
            if row[metric] is not None:
                by_query[row["query_id"]] = row[metric]


def _retrieval_names(asked: str, retriever: str, metric: str) -> list[str]:
    if asked != AS_WRITTEN:
        return [f"robustness.{asked}.{metric}"] if retriever == MAIN_RETRIEVER else []
    short = [f"retrieval.{metric}"] if retriever == MAIN_RETRIEVER else []
    return [f"retrieval.{retriever}.{metric}", *short]


def _shown(name: str) -> bool:
    """Whether a metric is shown without being asked for: not of every cell and retriever, nor all of a rewording."""
    metric = name.rpartition(".")[2]
    return name.count(".") == 1 or (name.startswith("robustness.") and metric in (*ANSWER_METRICS, *RETRIEVAL_METRICS))


def _order(name: str) -> tuple[int, str]:
    return ("answers", "retrieval", "robustness", "judge").index(name.partition(".")[0]), name


def _change(name: str, first: RunFigures, second: RunFigures, allowed: float | None, resampling: Resampling) -> Change:
    before, after = first.values[name], second.values[name]
    ids = sorted(before.keys() | after.keys())
    difference = resampling.compare_counted([after.get(q) for q in ids], [before.get(q) for q in ids], name)
    return Change(name, _mean(before), _mean(after), difference, allowed)


def _mean(by_query: Mapping[str, float]) -> float:
    return math.fsum(by_query.values()) / len(by_query)
