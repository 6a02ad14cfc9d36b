"""All questions of all cells, answered in batches by Ray Data.

In: what each cell asks. Out: `CellAnswers` by cell. The questions of a cell are cut into parts of a fixed size, and
a worker answers a part at a time. What is generated together depends on that size alone, so neither the number of
workers nor of blocks changes an answer. A worker keeps the model that it loaded until a part needs another one; parts
come in the order of their models.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ragray import errors
from ragray.artifact import Artifact
from ragray.distributed.cells import Answered, Cell, CellAnswers, answer_part, load
from ragray.distributed.session import connect
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors
from ragray.errors import RagrayError
from ragray.evaluation.answers import Given
from ragray.evaluation.report import Answerer
from ragray.schema import EvalQuestion

if TYPE_CHECKING:
    import ray

    from ragray.engine.assistant import Retrieved
    from ragray.engine.protocol import Engine

PART_BATCHES = 4  # batches of the model in one part: what a lost worker loses
_FIX = "free memory, lower evaluate.workers or evaluate.batch_size, then run again"

_TEXT, _WHOLE = pa.string(), pa.int64()
_GIVEN = pa.struct([("text", _TEXT), ("declined", pa.bool_()), ("cited", pa.list_(_TEXT)), ("closed_book", pa.bool_())])
_ANSWERED = pa.struct(
    [
        ("given", _GIVEN),
        ("declined_by", _TEXT),
        ("prompt_tokens", _WHOLE),
        ("completion_tokens", _WHOLE),
        ("finish_reason", _TEXT),
    ]
)
_ANSWERER = pa.struct([(name, _TEXT) for name in ("kind", "device", "weights", "model", "digest")])
_PART = pa.schema([("cell", _WHOLE), ("start", _WHOLE), ("stop", _WHOLE)])
_DONE = pa.schema(
    [
        ("cell", _WHOLE),
        ("start", _WHOLE),
        ("answers", pa.list_(_ANSWERED)),
        ("answerer", _ANSWERER),
        ("load_seconds", pa.float64()),
        ("generate_seconds", pa.float64()),
        ("error", _TEXT),  # the class of ragray's error, or ""
        ("message", _TEXT),
        ("fix", _TEXT),
    ]
)


@dataclass(frozen=True)
class Asked:
    """A cell's questions, with what retrieval found for each; `retrieved=None` asks without retrieval."""

    cell: Cell
    questions: tuple[EvalQuestion, ...]
    retrieved: tuple[Retrieved, ...] | None


def answer_cells(
    asked: Sequence[Asked], workers: int, finished: Callable[[str, CellAnswers], None] = lambda name, cell: None
) -> dict[str, CellAnswers]:
    """Answer the questions of every cell.

    Args:
        asked: the cells, of different names.
        workers: processes at once, at most.
        finished: is told of each cell when all of it is answered.

    Raises:
        RagrayError: as a worker raised it; what others work on is given up.
        WorkError: a worker was lost more often than it is started again.
    """
    parts = parts_of(asked)
    left = {number: -(-len(one.questions) // _part_size(one.cell)) for number, one in enumerate(asked)}
    done: dict[int, list[dict[str, Any]]] = {number: [] for number in left}
    answered: dict[str, CellAnswers] = {}
    for number in (number for number, count in left.items() if not count):
        raise ValueError(f"{asked[number].cell.name}: no question to ask")
    for row in _again_where_lost(parts, asked, workers):
        if row["error"]:
            raise getattr(errors, row["error"])(row["message"], row["fix"])
        number = row["cell"]
        done[number].append(row)
        if len(done[number]) == left[number]:
            name = asked[number].cell.name
            answered[name] = _joined(done.pop(number))
            finished(name, answered[name])
    return {one.cell.name: answered[one.cell.name] for one in asked}


def parts_of(asked: Sequence[Asked]) -> list[dict[str, int]]:
    """The parts of all cells: cells with the same model one after the other, otherwise in their order."""
    models = {model_key(one.cell): number for number, one in reversed(list(enumerate(asked)))}
    order = sorted(range(len(asked)), key=lambda number: (models[model_key(asked[number].cell)], number))
    parts = []
    for number in order:
        size, count = _part_size(asked[number].cell), len(asked[number].questions)
        parts += [{"cell": number, "start": at, "stop": min(at + size, count)} for at in range(0, count, size)]
    return parts


def model_key(cell: Cell) -> tuple[str, ...]:
    """What is loaded for a cell: equal for those that one loaded model can answer."""
    where = cell.model.uri if isinstance(cell.model, Artifact) else cell.model
    return cell.kind, where, str(cell.batch_size), cell.engine.model_dump_json()


class CellWorker:
    """A process that answers parts; it holds one model at a time."""

    def __init__(self, work: Sequence[ray.ObjectRef[Any]]) -> None:
        import ray

        self._asked: Sequence[Asked] = ray.get(work[0])
        self._key: tuple[str, ...] = ()
        self._engine: Engine | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A row of answers for each part; an error of ragray's is a row too, as Ray Data would bury its cause."""
        rows = []
        for part in batch.to_pylist():
            row = {"cell": part["cell"], "start": part["start"], "answers": [], "answerer": None, "error": ""}
            try:
                row |= self._answer(**part)
            except RagrayError as error:
                row |= {"error": type(error).__name__, "message": error.message, "fix": error.fix}
            rows.append(row)
        return pa.Table.from_pylist(rows, schema=_DONE)

    def _answer(self, cell: int, start: int, stop: int) -> dict[str, Any]:
        asked = self._asked[cell]
        begin = time.perf_counter()
        engine = self._engine_for(asked.cell)
        loaded = time.perf_counter()
        retrieved = None if asked.retrieved is None else asked.retrieved[start:stop]
        answers = answer_part(engine, asked.cell.max_new_tokens, asked.questions[start:stop], retrieved)
        return {
            "answers": [asdict(answer) for answer in answers],
            "answerer": asdict(engine.info),
            "load_seconds": loaded - begin,
            "generate_seconds": time.perf_counter() - loaded,
        }

    def _engine_for(self, cell: Cell) -> Engine:
        key = model_key(cell)
        if self._engine is None or key != self._key:
            if self._engine is not None:
                self._engine.close()
                self._engine = None  # before the next is loaded: two may not fit
            self._engine, self._key = load(cell), key
        return self._engine


def _part_size(cell: Cell) -> int:
    return PART_BATCHES * cell.batch_size


def _again_where_lost(
    parts: Sequence[Mapping[str, int]], asked: Sequence[Asked], workers: int
) -> Iterator[dict[str, Any]]:
    """The parts' rows; what a lost worker left undone is asked of new ones, `TASK_RETRIES` times in all.

    Ray's own restarts would print an error for every pool of workers that may be restarted (Ray 2.60).
    """
    from ray.exceptions import RayError, RayTaskError

    done: set[tuple[int, int]] = set()
    with plain_errors("evaluate: answering", _FIX):
        for retries_left in range(TASK_RETRIES, -1, -1):
            left = [part for part in parts if (part["cell"], part["start"]) not in done]
            try:
                for row in _through_ray_data(left, asked, workers) if left else ():
                    done.add((row["cell"], row["start"]))
                    yield row
                return
            except RayTaskError:
                raise  # an error of the work, which would come again
            except RayError:
                if not retries_left:
                    raise


def _through_ray_data(
    parts: Sequence[Mapping[str, int]], asked: Sequence[Asked], workers: int
) -> Iterator[dict[str, Any]]:
    """The parts' rows, each as it is answered."""
    connect()
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    size = max(1, min(workers, len(parts), int(resources.get("CPU", 1))))
    work = [ray.put(tuple(asked))]
    blocks = [pa.Table.from_pylist([dict(part)], schema=_PART) for part in parts]
    with warnings.catch_warnings():  # Ray 2.60 has no other way to say that no worker is started again
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        dataset = ray.data.from_arrow(blocks).map_batches(
            CellWorker,
            fn_constructor_args=(work,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            max_restarts=0,
        )
    batches: Iterable[pa.Table] = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    yield from itertools.chain.from_iterable(batch.to_pylist() for batch in batches)


def _joined(rows: Sequence[Mapping[str, Any]]) -> CellAnswers:
    """The parts of one cell, in their order."""
    ordered = sorted(rows, key=lambda row: row["start"])
    answers = [_answered(tree) for row in ordered for tree in row["answers"]]
    devices = ", ".join(sorted({row["answerer"]["device"] for row in ordered}))
    answerer = Answerer(**{**ordered[0]["answerer"], "device": devices})
    load_seconds, generate_seconds = (sum(row[name] for row in rows) for name in ("load_seconds", "generate_seconds"))
    return CellAnswers(tuple(answers), answerer, load_seconds, generate_seconds)


def _answered(tree: Mapping[str, Any]) -> Answered:
    given = tree["given"]
    return Answered(**{**tree, "given": Given(**{**given, "cited": tuple(given["cited"])})})
