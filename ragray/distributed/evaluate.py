"""Stage `evaluate`: the held-out questions answered in five cells, and the report about it.

In: the questions (prepare), index, confidence (calibrate), base model (train), merged model (merge) and
built engine (engine). Out: `metrics.json`, `predictions.parquet`, `report.md`, `report.html`, `charts/`,
TREC runs and qrels below `retrieval/`, and `timings.json`, which alone holds times.

Retrieval and the confidence gate run once, and every cell with retrieval reads their result: base
model, tuned model and engine differ in nothing but the model. Each cell is one Ray task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.distributed.cells import Cell, CellAnswers, Found, answer_all, retrieve_all
from ragray.distributed.stage import Job, Report, Stage
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors
from ragray.errors import DataError
from ragray.evaluation.answers import score
from ragray.evaluation.charts import draw
from ragray.evaluation.markdown import render_markdown
from ragray.evaluation.page import render_html
from ragray.evaluation.predictions import Prediction, predictions_table
from ragray.evaluation.report import Document
from ragray.evaluation.retrieval import measure, relevant_documents, trec_qrels, trec_run
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import CELLS, MAIN_CELL, Summary, summarize
from ragray.retrieval.index import HybridIndex
from ragray.schema import EvalQuestion, records_of, stable_digest

if TYPE_CHECKING:
    import ray


def build(job: Job) -> None:
    """Answer, score and report.

    Raises:
        DataError: there are no questions.
        RagrayError: retrieval or a cell failed.
        WorkError: a task's worker was lost more often than it is retried.
    """

    questions = _questions(job)
    passages = list(HybridIndex.open(job.inputs["index"].folder).corpus.passages())
    qrels = relevant_documents(questions, passages)
    found, cells = _run_tasks(job, questions)
    predictions = [
        prediction for name, cell in cells.items() for prediction in _predictions(name, cell, found, questions, qrels)
    ]
    values = {name: measure(ranking, qrels) for name, ranking in found.rankings.items()}
    settings = job.config.evaluate
    summary = summarize(predictions, values, Resampling(settings.bootstrap_samples, job.config.seed))
    _write_data(job.draft.folder, summary, predictions, found, qrels)
    _write_timings(job, found, cells)
    document = Document(
        name=job.config.name,
        summary=summary,
        predictions=tuple(predictions),
        passages={p.doc_id: p for p in passages},
        answerers={name: cell.answerer for name, cell in cells.items()},
        manifests={name: artifact.manifest for name, artifact in job.inputs.items()},
        settings=_settings(job.config),
    )
    charts = draw(summary)
    for name, svg in charts.items():
        _write(job.draft.folder / "charts" / f"{name}.svg", svg)
    _write(job.draft.folder / "report.md", render_markdown(document))
    _write(job.draft.folder / "report.html", render_html(document, charts))
    job.draft.counts.update(questions=len(questions), unanswerable=summary.unanswerable, predictions=len(predictions))
    job.draft.metrics.update(_headline_metrics(summary))


def _run_tasks(job: Job, questions: Sequence[EvalQuestion]) -> tuple[Found, dict[str, CellAnswers]]:
    """Retrieve, and answer in every cell: one Ray task each, side by side as the cluster allows."""
    import ray

    from ragray.distributed.session import connect

    connect()
    remote = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)
    found_ref = remote(retrieve_all).remote(job.inputs["index"], job.inputs["calibrate"], questions)
    refs: dict[ray.ObjectRef[Any], str] = {found_ref: "retrieval"}
    for cell in _cells(job):
        read: Any = None if cell.name.endswith("closed_book") else found_ref
        refs[remote(answer_all).remote(cell, questions, read)] = cell.name
    results = collect(refs, len(questions), job.report)
    found = results.pop("retrieval")
    return found, {name: results[name] for name in CELLS}


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
    path = str(json.loads(train.file("base_model.json").read_text(encoding="utf-8"))["path"])
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def collect(refs: Mapping[ray.ObjectRef[Any], str], questions: int, report: Report) -> dict[str, Any]:
    """The tasks' results by name, each reported as it finishes; the first failure cancels the others.

    Raises:
        RagrayError: as the task raised it.
        WorkError: a worker was lost more often than its task is retried.
    """
    import ray

    results: dict[str, Any] = {}
    waiting = list(refs)
    fix = "free memory, lower evaluate.batch_size, then run again"
    try:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            name = refs[done[0]]
            with plain_errors(f"evaluate: {name}", fix):
                results[name] = ray.get(done[0])
            report(_line(name, results[name], questions))
    finally:
        for ref in waiting:
            ray.cancel(ref)
    return results


def _line(name: str, result: Found | CellAnswers, questions: int) -> str:
    if isinstance(result, Found):
        shown = sum(r.answerable for r in result.retrieved)
        return f"retrieval: {questions} questions, {questions - shown} declined, {result.seconds:.1f} s"
    tokens = sum(a.completion_tokens for a in result.answers)
    speed = tokens / max(result.generate_seconds, 1e-9)
    return f"{CELLS[name]}: {tokens} tokens, {result.generate_seconds:.1f} s, {speed:.0f} tokens/s"


def _questions(job: Job) -> list[EvalQuestion]:
    questions = records_of(EvalQuestion, pq.read_table(job.inputs["prepare"].file("questions.parquet")))
    if not questions:
        raise DataError(
            "evaluate: there are no held-out questions",
            "set evaluate.questions to a JSONL file of questions, or raise data.split.test",
        )
    limit = job.config.evaluate.max_questions or len(questions)
    chosen = sorted(questions, key=lambda q: stable_digest("evaluate", job.config.seed, q.query_id))[:limit]
    return sorted(chosen, key=lambda q: q.query_id)


def _predictions(
    name: str,
    cell: CellAnswers,
    found: Found,
    questions: Sequence[EvalQuestion],
    qrels: Mapping[str, Mapping[str, int]],
) -> list[Prediction]:
    with_retrieval = not name.endswith("closed_book")
    rows = []
    for question, retrieved, answer in zip(questions, found.retrieved, cell.answers, strict=True):
        right = tuple(qrels.get(question.query_id, {}))
        rows.append(
            Prediction(
                query_id=question.query_id,
                cell=name,
                lang=question.lang,
                question=question.question,
                references=question.answers,
                right=right,
                shown=tuple(c.doc_id for c in retrieved.citations) if with_retrieval else (),
                probability=retrieved.probability if with_retrieval else None,
                text=answer.given.text,
                cited=answer.given.cited,
                declined_by=answer.declined_by,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                finish_reason=answer.finish_reason,
                scores=score(answer.given, question.answers, right, question.lang),
            )
        )
    return rows


def _write_data(
    folder: Path,
    summary: Summary,
    predictions: Sequence[Prediction],
    found: Found,
    qrels: Mapping[str, Mapping[str, int]],
) -> None:
    _write(folder / "metrics.json", _json(summary.tree()))
    pq.write_table(predictions_table(predictions), folder / "predictions.parquet", compression="zstd")
    _write(folder / "retrieval" / "qrels.txt", trec_qrels(qrels))
    for name, ranking in found.rankings.items():
        _write(folder / "retrieval" / f"{name}.run", trec_run(ranking, name))


def _write_timings(job: Job, found: Found, cells: Mapping[str, CellAnswers]) -> None:
    tree: dict[str, Any] = {"retrieval": {"seconds": round(found.seconds, 3)}}
    for name, cell in cells.items():
        tokens = sum(a.completion_tokens for a in cell.answers)
        tree[name] = {
            "load_seconds": round(cell.load_seconds, 3),
            "generate_seconds": round(cell.generate_seconds, 3),
            "completion_tokens": tokens,
            "tokens_per_second": round(tokens / max(cell.generate_seconds, 1e-9), 1),
        }
        job.draft.timings_s[name] = cell.load_seconds + cell.generate_seconds
    _write(job.draft.folder / "timings.json", _json(tree))
    job.draft.volatile.add("timings.json")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _json(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _headline_metrics(summary: Summary) -> dict[str, float | None]:
    """The figures of the manifest, as means; None where no question counts."""
    main = summary.cells[MAIN_CELL]
    return {
        "f1": main["f1"].mean,
        "f1_base": summary.cells["base_retrieval"]["f1"].mean,
        "f1_closed_book": summary.cells["tuned_closed_book"]["f1"].mean,
        "f1_engine": summary.cells["engine_retrieval"]["f1"].mean,
        "exact_match": main["exact_match"].mean,
        "rouge_l": main["rouge_l"].mean,
        "declined_unanswerable": main["declined_unanswerable"].mean,
        "declined_answerable": main["declined_answerable"].mean,
        "citation_precision": main["citation_precision"].mean,
        **{f"retrieval_{name}": value.mean for name, value in summary.retrieval["hybrid"].items()},
    }


def _headline(artifact: Artifact) -> str:
    metrics = artifact.manifest.metrics
    return f"F1 {_short(metrics['f1'])} (base {_short(metrics['f1_base'])})"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _settings(config: RunConfig) -> dict[str, Any]:
    """What the result depends on; which questions there are, and threads, are not among it."""
    settings = config.evaluate.model_dump(mode="json", exclude={"questions"})
    engine = config.engine.model_dump(mode="json", exclude={"cpu_threads"})
    return {"name": config.name, "evaluate": settings, "engine": engine}


STAGE = Stage(
    name="evaluate",
    format_version=1,
    needs=("prepare", "index", "calibrate", "train", "merge", "engine"),
    code=("schema", "prompt", "retrieval", "evaluation", "engine", "distributed.cells", "distributed.evaluate"),
    settings=_settings,
    build=build,
    headline=_headline,
)
