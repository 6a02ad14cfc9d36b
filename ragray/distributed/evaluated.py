"""From answers to what the evaluation's artifact holds: scored predictions, times, the report, the headline.

In: the questions in each wording with what retrieval found, and the cells' answers. Out: `Prediction`s and files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ragray
from ragray.artifact import Artifact, Draft
from ragray.distributed.cells import CellAnswers, Found
from ragray.distributed.stage import Job
from ragray.evaluation.charts import draw
from ragray.evaluation.markdown import render_markdown
from ragray.evaluation.page import render_html
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.report import Document
from ragray.evaluation.report_parts import Versions
from ragray.evaluation.results import RetrieverValues, json_text, write_text
from ragray.evaluation.retrieval import Qrels
from ragray.evaluation.robustness import KIND_NAMES
from ragray.evaluation.scoring import score_fully
from ragray.evaluation.summary import CELLS, MAIN_CELL, SERVED_CELL, Summary
from ragray.manifest import package_versions
from ragray.schema import EvalQuestion, Passage


@dataclass(frozen=True)
class Wording:
    """The questions in one wording, what retrieval found for them, and each retriever's values."""

    questions: tuple[EvalQuestion, ...]
    found: Found
    values: RetrieverValues


def predictions_of(name: str, cell: str, answers: CellAnswers, wording: Wording, qrels: Qrels) -> list[Prediction]:
    """The answers scored, under `name`; `cell` is the one that gave them."""
    with_retrieval = not cell.endswith("closed_book")
    rows = []
    for question, retrieved, answer in zip(wording.questions, wording.found.retrieved, answers.answers, strict=True):
        right = tuple(qrels.get(question.query_id, {}))
        shown = retrieved.citations if with_retrieval else ()
        texts = [f"{citation.title}\n{citation.text}" for citation in shown]
        rows.append(
            Prediction(
                query_id=question.query_id,
                cell=name,
                lang=question.lang,
                question=question.question,
                references=question.answers,
                right=right,
                shown=tuple(citation.doc_id for citation in shown),
                probability=retrieved.probability if with_retrieval else None,
                text=answer.given.text,
                cited=answer.given.cited,
                declined_by=answer.declined_by,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                finish_reason=answer.finish_reason,
                scores=score_fully(answer.given, question.answers, right, question.lang, texts),
            )
        )
    return rows


def cell_line(name: str, result: CellAnswers) -> str:
    """What is told of a cell, or of a kind of rewording, when all of it is answered."""
    tokens = sum(a.completion_tokens for a in result.answers)
    speed = tokens / max(result.generate_seconds, 1e-9)
    label = CELLS.get(name) or f"{CELLS[SERVED_CELL]}, {KIND_NAMES[name]}"
    return f"{label}: {tokens} tokens, {result.generate_seconds:.1f} s, {speed:.0f} tokens/s"


def write_timings(draft: Draft, wordings: Mapping[str, Wording], cells: Mapping[str, CellAnswers]) -> None:
    """Write `timings.json`, the only file with times."""
    retrieval = sum(wording.found.seconds for wording in wordings.values())
    tree: dict[str, Any] = {"retrieval": {"seconds": round(retrieval, 3)}}
    for name, cell in cells.items():
        tokens = sum(a.completion_tokens for a in cell.answers)
        tree[name] = {
            "load_seconds": round(cell.load_seconds, 3),
            "generate_seconds": round(cell.generate_seconds, 3),
            "completion_tokens": tokens,
            "tokens_per_second": round(tokens / max(cell.generate_seconds, 1e-9), 1),
        }
        draft.timings_s[name] = cell.load_seconds + cell.generate_seconds
    write_text(draft.folder / "timings.json", json_text(tree))
    draft.volatile.add("timings.json")


def write_report_files(
    job: Job,
    settings: Mapping[str, Any],
    code: str,
    summary: Summary,
    predictions: Sequence[Prediction],
    passages: Sequence[Passage],
    answered: Mapping[str, CellAnswers],
) -> None:
    """Write the report in both forms and its charts; `code` is the digest of the stage's code."""
    base = base_record(job.inputs["train"])
    document = Document(
        name=job.config.name,
        summary=summary,
        predictions=tuple(predictions),
        passages={p.doc_id: p for p in passages},
        answerers={name: answered[name].answerer for name in CELLS},
        manifests={name: artifact.manifest for name, artifact in job.inputs.items()},
        settings=settings,
        versions=Versions(
            base_model=Path(str(base["path"])).name,
            base_model_digest=str(base["digest"]),
            code=code,
            ragray=ragray.__version__,
            packages=package_versions(),
        ),
    )
    charts = draw(summary)
    for name, svg in charts.items():
        write_text(job.draft.folder / "charts" / f"{name}.svg", svg)
    write_text(job.draft.folder / "report.md", render_markdown(document))
    write_text(job.draft.folder / "report.html", render_html(document, charts))


def headline_metrics(summary: Summary) -> dict[str, float | None]:
    """The figures of the manifest, as means; None where no question counts."""
    main = summary.cells[MAIN_CELL]
    return {
        "f1": main["f1"].mean,
        "f1_base": summary.cells["base_retrieval"]["f1"].mean,
        "f1_closed_book": summary.cells["tuned_closed_book"]["f1"].mean,
        "f1_engine": summary.cells["engine_retrieval"]["f1"].mean,
        "exact_match": main["exact_match"].mean,
        "cmrc_f1": main["cmrc_f1"].mean,
        "rouge_l": main["rouge_l"].mean,
        "groundedness": main["groundedness"].mean,
        "declined_unanswerable": main["declined_unanswerable"].mean,
        "declined_answerable": main["declined_answerable"].mean,
        "citation_precision": main["citation_precision"].mean,
        **{f"retrieval_{name}": value.mean for name, value in summary.retrieval["hybrid"].items()},
    }


def base_record(train: Artifact) -> dict[str, Any]:
    """What the adapter says of its base model: `path` and `digest`."""
    record: dict[str, Any] = json.loads(train.file("base_model.json").read_text(encoding="utf-8"))
    return record
