"""What asynchronous validation keeps in a run's work folder: adapters set aside, results, answers, a request to stop.

In: the adapters of a run that goes on, from its first worker; results, from the driver. Out: `validation/`:

    step-00000050-1f0c2a3b4d5e6f70/   step, and digest of the adapter ("base": the base model alone)
        adapter/                      a copy, removed once validated and not among the best
        samples.jsonl                 what the adapter answered
        result.json                   written last: says that the validation is whole
    stop.json                         the driver asks the workers to stop early

An adapter is set aside before its checkpoint gets its name, so that no checkpoint is lost to validation.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ragray.artifact import explain_os_error, folder_digest, sync

FOLDER = "validation"
RESULTS = "validation.parquet"
SAMPLES = "samples.jsonl"
BASE = "base"

_ADAPTER, _RESULT, _STOP = "adapter", "result.json", "stop.json"
_DIGITS = 16  # of a digest, in a name


@dataclass(frozen=True, slots=True)
class Validation:
    """One validated checkpoint. Means over the sample, None where no question counts; see `evaluation.answers`."""

    step: int
    adapter: str  # first digits of its digest, or "base"
    loss: float  # mean cross-entropy over the validation answers' tokens
    questions: int  # answered
    exact_match: float | None
    f1: float | None
    citation_recall: float | None  # share of the answers that cite the right passage
    declined_unanswerable: float | None
    declined_answerable: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """One question of the sample answered."""

    step: int
    example_id: str
    question: str
    lang: str
    reference: str
    right: int  # number of the right passage among those shown, 0: none is
    text: str  # as generated, without its citation
    cited: tuple[int, ...]  # numbers of passages
    declined: bool
    exact_match: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter that was set aside."""

    step: int
    digest: str  # its first digits, or "base"
    folder: Path

    @property
    def adapter(self) -> Path | None:
        """Its folder; None for the base model alone."""
        return None if self.digest == BASE else self.folder / _ADAPTER

    @property
    def validated(self) -> bool:
        """Whether there is a result."""
        return (self.folder / _RESULT).is_file()

    def result(self) -> Validation:
        """What validation found."""
        return Validation(**json.loads((self.folder / _RESULT).read_text(encoding="utf-8")))


class Validations:
    """The validations of the run that works in `work_folder`."""

    def __init__(self, work_folder: Path) -> None:
        self._folder = work_folder / FOLDER

    def set_aside(self, step: int, adapter: Path | None) -> None:
        """Keep a copy of an adapter until it is validated; nothing where this very adapter has one.

        Another adapter of the same step is forgotten: it belongs to an attempt that died before its checkpoint.

        Args:
            step: after which it was made.
            adapter: its folder; None: the base model alone.

        Raises:
            WorkError: the disk is full, or writing is not permitted.
        """
        try:
            self._set_aside(step, adapter)
        except OSError as error:
            raise explain_os_error(error, str(self._folder)) from error

    def _set_aside(self, step: int, adapter: Path | None) -> None:
        name = f"step-{step:08d}-{BASE if adapter is None else folder_digest(adapter)[:_DIGITS]}"
        self._folder.mkdir(exist_ok=True)
        for other in self._folder.glob(f"step-{step:08d}-*"):
            if other.name != name:
                _remove(other)
        if (self._folder / name).exists():
            return
        aside = self._folder / f".{name}.{uuid.uuid4().hex[:8]}"
        aside.mkdir()
        if adapter is not None:
            shutil.copytree(adapter, aside / _ADAPTER)
        for path in (*aside.rglob("*"), aside):
            sync(path)
        aside.rename(self._folder / name)
        sync(self._folder)

    def all(self) -> list[Candidate]:
        """All adapters that were set aside, by step."""
        return [_candidate(folder) for folder in sorted(self._folder.glob("step-*"))]

    def waiting(self) -> list[Candidate]:
        """Those without a result, by step."""
        return [candidate for candidate in self.all() if not candidate.validated]

    def results(self) -> list[Validation]:
        """All results, by step."""
        return [candidate.result() for candidate in self.all() if candidate.validated]

    def ranked(self) -> list[Candidate]:
        """Validated adapters by rising loss; of equals the earliest first. The base model is none."""
        found = [(_rank(candidate.result()), candidate) for candidate in self.all() if candidate.validated]
        return [candidate for _, candidate in sorted(found, key=lambda pair: pair[0]) if candidate.adapter is not None]

    def add(self, candidate: Candidate, result: Validation, answers: Sequence[SampleAnswer], keep_best: int) -> None:
        """Record a result, and remove the adapters that are neither waiting nor among the `keep_best` best."""
        _write(candidate.folder / SAMPLES, "".join(_line(answer) for answer in answers))
        _write(candidate.folder / _RESULT, json.dumps(asdict(result), indent=2, sort_keys=True) + "\n")
        for other in self.ranked()[keep_best:]:
            if other.adapter is not None and other.adapter.exists():
                _remove(other.adapter)

    def answers(self) -> list[SampleAnswer]:
        """All answers, by step."""
        return [answer for candidate in self.all() if candidate.validated for answer in _answers(candidate.folder)]

    def request_stop(self, step: int) -> None:
        """Ask the workers to stop: validation has not improved up to `step`."""
        _write(self._folder / _STOP, json.dumps({"validated_step": step}) + "\n")

    def stop_requested(self) -> bool:
        """Whether the workers were asked to stop."""
        return (self._folder / _STOP).exists()

    def clear_dead(self) -> None:
        """Remove what attempts that were killed left unfinished; call it when none other is running."""
        for path in self._folder.glob(".*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self._folder.glob("step-*/.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def save_validations(validations: Validations, folder: Path) -> None:
    """Write validation.parquet, and samples.jsonl where questions were answered."""
    results, answers = validations.results(), validations.answers()
    columns = {field.name: [getattr(result, field.name) for result in results] for field in fields(Validation)}
    pq.write_table(pa.table(columns, schema=_SCHEMA), folder / RESULTS, compression="zstd")
    if answers:
        (folder / SAMPLES).write_text("".join(_line(answer) for answer in answers), encoding="utf-8")


def load_validations(folder: Path) -> tuple[list[Validation], list[SampleAnswer]]:
    """What `save_validations` wrote; nothing where it wrote nothing."""
    if not (folder / RESULTS).is_file():
        return [], []
    return [Validation(**row) for row in pq.read_table(folder / RESULTS).to_pylist()], _answers(folder)


_ARROW = {"int": pa.int64(), "str": pa.string(), "float": pa.float64(), "float | None": pa.float64()}
_SCHEMA = pa.schema([(field.name, _ARROW[str(field.type)]) for field in fields(Validation)])


def _candidate(folder: Path) -> Candidate:
    _, step, digest = folder.name.split("-")
    return Candidate(int(step), digest, folder)


def _rank(result: Validation) -> tuple[float, int]:
    return (result.loss if math.isfinite(result.loss) else math.inf, result.step)


def _answers(folder: Path) -> list[SampleAnswer]:
    if not (folder / SAMPLES).is_file():
        return []
    lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
    return [SampleAnswer(**{**row, "cited": tuple(row["cited"])}) for row in map(json.loads, lines)]


def _line(answer: SampleAnswer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    """Write a file that is whole or absent."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def _remove(folder: Path) -> None:
    """Remove a folder that nobody may see half removed."""
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
