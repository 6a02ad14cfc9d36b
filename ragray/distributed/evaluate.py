"""Stage `evaluate`: the held-out questions answered in five cells, and the report about it.

In: the questions (prepare), index, confidence (calibrate), base model (train), merged model (merge) and
built engine (engine). Out: `metrics.json`, `predictions.parquet`, `robustness.parquet`, `report.md`, `report.html`,
`charts/`, rankings and judgements below `retrieval/`, and `timings.json`, which alone holds times.

Retrieval and the confidence gate run once, and every cell with retrieval reads their result: base
model, tuned model and engine differ in nothing but the model. The engine is asked reworded questions too.
Retrieval is a Ray task for each wording; the answers of all cells go through Ray Data in parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.distributed.cell_runs import Asked, answer_cells
from ragray.distributed.cells import Cell, CellAnswers, retrieve_all
from ragray.distributed.evaluated import (
    Wording,
    base_record,
    cell_line,
    headline_metrics,
    predictions_of,
    write_report_files,
    write_timings,
)
from ragray.distributed.judging import judge_answers, judge_endpoint, verdicts
from ragray.distributed.questions import held_out_questions
from ragray.distributed.replies import REPLIES_FOLDER
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.distributed.task_errors import run_tasks
from ragray.evaluation.judge import PROMPT_DIGEST, Judgement
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.results import AS_WRITTEN, Results, write_results
from ragray.evaluation.retrieval import Qrels, measure, relevant_documents
from ragray.evaluation.robustness import KIND_NAMES, measure_robustness, reword
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import CELLS, SERVED_CELL, summarize
from ragray.manifest import code_digest
from ragray.retrieval.index import HybridIndex
from ragray.schema import EvalQuestion, Passage

if TYPE_CHECKING:
    from ragray.distributed.endpoint import Endpoint


def build(job: Job) -> None:
    """Answer, score and report.

    Raises:
        DataError: there are no questions.
        RagrayError: retrieval or a cell failed.
        WorkError: a worker was lost more often than it is started again.
    """
    questions = held_out_questions(
        job.inputs["prepare"], "evaluate", job.config.evaluate.max_questions, job.config.seed
    )
    passages = list(HybridIndex.open(job.inputs["index"].folder).corpus.passages())
    qrels = relevant_documents(questions, passages)
    settings, seed = job.config.evaluate, job.config.seed
    judge = None if settings.judge is None else judge_endpoint(settings.judge)  # a missing key is told before any work
    kinds = [reword(questions, kind, _trained_methods(job.config), seed) for kind in settings.robustness]
    kinds = [kind for kind in kinds if kind.methods]  # all but those that find nothing to change
    wordings = _retrieve(job, {AS_WRITTEN: tuple(questions)} | {kind.kind: kind.questions for kind in kinds}, qrels)
    answered = _answer(job, wordings)
    written = wordings[AS_WRITTEN]
    predictions = [row for name in CELLS for row in predictions_of(name, name, answered[name], written, qrels)]
    resampling = Resampling(settings.bootstrap_samples, seed)
    changed = {
        kind.kind: predictions_of(kind.kind, SERVED_CELL, answered[kind.kind], wordings[kind.kind], qrels)
        for kind in kinds
    }
    served = [row for row in predictions if row.cell == SERVED_CELL]
    robustness = [
        measure_robustness(
            kind,
            served,
            changed[kind.kind],
            (written.values["hybrid"], wordings[kind.kind].values["hybrid"]),
            resampling,
        )
        for kind in kinds
    ]
    judgements = _judge(job, predictions, passages, judge)
    judged = verdicts(judgements, settings.judge, resampling) if settings.judge is not None else None
    summary = summarize(predictions, written.values, resampling, robustness, judged)
    results = Results(
        summary=summary,
        predictions=predictions,
        qrels=qrels,
        rankings=written.found.rankings,
        values={name: wording.values for name, wording in wordings.items()},
        reworded=[row for rows in changed.values() for row in rows],
        methods={(query_id, kind.kind): method for kind in kinds for query_id, method in kind.methods.items()},
        judgements=judgements if judge is not None else None,
    )
    write_results(job.draft.folder, results)
    write_timings(job.draft, wordings, answered)
    write_report_files(job, _settings(job.config), code_digest(STAGE.code), summary, predictions, passages, answered)
    job.draft.counts.update(
        questions=len(questions),
        unanswerable=summary.unanswerable,
        predictions=len(predictions),
        reworded=len(results.reworded),
    )
    job.draft.metrics.update(headline_metrics(summary))


def _judge(
    job: Job, predictions: Sequence[Prediction], passages: Sequence[Passage], endpoint: Endpoint | None
) -> list[Judgement]:
    """The judge's grades; none where no judge is set."""
    settings = job.config.evaluate.judge
    if settings is None or endpoint is None:
        return []
    job.report(f"judging the answers of {CELLS[settings.cell]}")
    cache = job.work_folder.parent / REPLIES_FOLDER
    by_id = {passage.doc_id: passage for passage in passages}
    return judge_answers(predictions, by_id, settings, endpoint, cache, job.config.seed)


def _trained_methods(config: RunConfig) -> tuple[str, ...]:
    """The rules that made training's variants."""
    return config.augment.methods if config.augment.variants_per_question else ()


def _retrieve(job: Job, asked: Mapping[str, tuple[EvalQuestion, ...]], qrels: Qrels) -> dict[str, Wording]:
    """Retrieve for the questions of each wording, a Ray task each."""
    connect()
    arguments = [(job.inputs["index"], job.inputs["calibrate"], questions) for questions in asked.values()]
    wordings = {}
    for (name, questions), found in zip(
        asked.items(), run_tasks("evaluate: retrieval", retrieve_all, arguments), strict=True
    ):
        judged = {q.query_id: qrels[q.query_id] for q in questions if q.query_id in qrels}
        values = {retriever: measure(ranking, judged) for retriever, ranking in found.rankings.items()}
        wordings[name] = Wording(questions, found, values)
        declined = sum(not r.answerable for r in found.retrieved)
        label = f"retrieval, {KIND_NAMES[name]}" if name else "retrieval"
        job.report(f"{label}: {len(questions)} questions, {declined} declined, {found.seconds:.1f} s")
    return wordings


def _answer(job: Job, wordings: Mapping[str, Wording]) -> dict[str, CellAnswers]:
    """The answers of every cell, and under each kind of rewording those of the engine."""
    cells, written = _cells(job), wordings[AS_WRITTEN]
    asked = [
        Asked(cell, written.questions, None if cell.name.endswith("closed_book") else written.found.retrieved)
        for cell in cells
    ]
    (served,) = (cell for cell in cells if cell.name == SERVED_CELL)
    asked += [
        Asked(replace(served, name=name), wording.questions, wording.found.retrieved)
        for name, wording in wordings.items()
        if name
    ]
    return answer_cells(asked, job.config.evaluate.workers, lambda name, cell: job.report(cell_line(name, cell)))


def _cells(job: Job) -> list[Cell]:
    config = job.config
    base = _base_model(job.inputs["train"])
    tuned, built = job.inputs["merge"], job.inputs["engine"]
    one_thread = config.engine.model_copy(update={"cpu_threads": 1})
    models: dict[str, tuple[Literal["model", "engine"], Artifact | str]] = {
        "base_closed_book": ("model", base),
        "base_retrieval": ("model", base),
        "tuned_closed_book": ("model", tuned),
        "tuned_retrieval": ("model", tuned),
        "engine_retrieval": ("engine", built),
    }
    return [
        Cell(name, kind, model, config.evaluate.batch_size, config.evaluate.max_new_tokens, one_thread)
        for name, (kind, model) in models.items()
    ]


def _base_model(train: Artifact) -> str:
    """The base model's folder, absolute because a task may have another working folder, or its hub id."""
    path = str(base_record(train)["path"])
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _headline(artifact: Artifact) -> str:
    metrics = artifact.manifest.metrics
    return f"F1 {_short(metrics['f1'])} (base {_short(metrics['f1_base'])})"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _settings(config: RunConfig) -> dict[str, Any]:
    """What the result depends on; which questions there are, threads and the judge's address are not among it."""
    settings = config.evaluate.model_dump(mode="json", exclude={"questions", "workers", "judge"})
    judge = config.evaluate.judge
    if judge is not None:
        chosen = judge.model_dump(mode="json", exclude={"endpoint"})
        settings["judge"] = {**chosen, "model": judge.endpoint.model, "prompts": PROMPT_DIGEST}
    engine = config.engine.model_dump(mode="json", exclude={"cpu_threads"})
    return {
        "name": config.name,
        "evaluate": settings,
        "engine": engine,
        "trained_methods": list(_trained_methods(config)),
    }


STAGE = Stage(
    name="evaluate",
    format_version=2,
    needs=("prepare", "index", "calibrate", "train", "merge", "engine"),
    code=(
        "schema", "prompt", "retrieval", "evaluation", "engine", "dataprep.methods", "dataprep.normalize",
        "dataprep.rewording",
        "dataprep.speech", "dataprep.spelling", "dataprep.switching", "dataprep.wording", "dataprep.wording_en",
        "dataprep.wording_zh", "distributed.asking", "distributed.cells", "distributed.cell_runs",
        "distributed.endpoint", "distributed.evaluate", "distributed.evaluated", "distributed.judging",
        "distributed.questions", "train.examples", "train.template",
    ),
    settings=_settings,
    build=build,
    headline=_headline,
)  # fmt: skip
