"""Stage quantize: quantized models, one remote task for each method, measured and judged by one gate.

In: the merged model, and the test questions with what retrieval finds for them. Out: a folder for each method,
`quantize.json` (what each lost), `gate.json` (which one is chosen, and why), `answers.parquet`, and a report with
charts. Times and memory are in `timings.json`; what holds times is left out of the digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact
from ragray.config import RunConfig
from ragray.config_quantize import QuantizeConfig
from ragray.distributed.folder_task import FolderTask, collect_all, local_folder, start
from ragray.distributed.quantize_material import Trial, make_trial, predictions_of
from ragray.distributed.questions import held_out_questions
from ragray.distributed.session import connect, living_nodes
from ragray.distributed.stage import Job, Stage
from ragray.distributed.task_errors import run_tasks
from ragray.engine.quantize import LOG, QuantizationRecord, measure_full, quantize, weight_bytes
from ragray.engine.quantize_methods import FULL, METHODS
from ragray.engine.quantize_protocol import Method, Plan, Request
from ragray.errors import EngineError
from ragray.evaluation.answers import METRICS, column
from ragray.evaluation.gate import Candidate, Decision, decide
from ragray.evaluation.predictions import Prediction, predictions_table
from ragray.evaluation.quantize_report import ModelFigures, write_quantize_report
from ragray.evaluation.retrieval import relevant_documents
from ragray.evaluation.significance import Resampling
from ragray.retrieval.index import HybridIndex
from ragray.schema import EvalQuestion

QUANTIZE_JSON, GATE_JSON, TIMINGS_JSON = "quantize.json", "gate.json", "timings.json"
_REPORT = ("report.md", "report.html", "charts/size.svg", "charts/speed.svg")

Found = tuple[QuantizationRecord, list[Prediction]]


def _build(job: Job) -> None:
    """Quantize, measure, judge and report.

    Raises:
        DataError: there is no test question, or none with an answer.
        EngineError: a method cannot work here, or failed.
        WorkError: workers were lost too often, or a time limit passed.
    """
    connect()
    settings = job.config.quantize
    methods = [METHODS[name] for name in settings.methods]
    plans = planned([FULL, *methods], weight_bytes(local_folder(job.inputs["merge"]) / "model"), settings)
    job.report("retrieving for the test questions")
    (trial,) = run_tasks("quantize: retrieval", make_trial, [(_inputs(job), *_questions(job), job.config)])
    job.report(f"quantizing by {', '.join(settings.methods)}")
    found = _run_methods(job, [FULL, *methods], plans, trial)
    _write(job, found)


def planned(methods: Sequence[Method], model_bytes: int, settings: QuantizeConfig) -> list[Plan]:
    """What each method needs.

    Raises:
        EngineError: one of them cannot work; nothing was started.
    """
    plans = [method.plan(model_bytes, settings) for method in methods]
    for plan in plans:
        if plan.refusal:
            raise EngineError(plan.refusal, plan.fix)
    return plans


def placement(plan: Plan, settings: QuantizeConfig) -> dict[str, Any]:
    """Ray's options of a method's task: its CPU cores and its memory."""
    return {"num_cpus": settings.cpus, "memory": plan.memory_bytes}


def _run_methods(job: Job, methods: Sequence[Method], plans: Sequence[Plan], trial: Trial) -> list[Found]:
    """One task for each, all at once as far as the cluster has room; the full model is measured, not changed."""
    settings = job.config.quantize
    merged = job.inputs["merge"]
    for line in without_room(methods, plans, settings):
        job.warn(line)
    tasks: list[FolderTask[Found]] = [
        start(
            f"quantize {method.name}", _work, method, merged, trial, job.config,
            options=placement(plan, settings), limit_s=float(settings.time_limit_s),
        )
        for method, plan in zip(methods, plans, strict=True)
    ]  # fmt: skip
    return collect_all(tasks, [job.draft.folder / method.name for method in methods])


def without_room(methods: Sequence[Method], plans: Sequence[Plan], settings: QuantizeConfig) -> list[str]:
    """A sentence for each method that no node of the cluster has room for now: it waits for one."""
    nodes = living_nodes()
    return [
        f"quantize {method.name}: waits for a node with {settings.cpus} CPUs and {plan.memory_bytes / 2**30:.1f} GiB "
        f"of memory; none of {len(nodes)} has that"
        for method, plan in zip(methods, plans, strict=True)
        if not any(node.get("CPU", 0) >= settings.cpus and node.get("memory", 0) >= plan.memory_bytes for node in nodes)
    ]


def _work(method: Method, merged: Artifact, trial: Trial, config: RunConfig, out: Path) -> Found:
    """What a task does: one method, from the full model to scored answers."""
    from ragray.engine.tokens import load_tokenizer, stop_tokens

    model = local_folder(merged) / "model"
    tokenizer = load_tokenizer(model)
    request = Request(
        method=method.name,
        model=str(model),
        out=str(out),
        material=trial.material,
        max_new_tokens=config.evaluate.max_new_tokens,
        stop_token_ids=tuple(sorted(stop_tokens(model, tokenizer))),
        batch_size=config.evaluate.batch_size,
        threads=config.quantize.cpus,
    )
    make = measure_full if method.name == FULL.name else quantize
    record = make(method, request, config.quantize)
    return record, predictions_of(method.name, trial, record.measured.answers, tokenizer)


def _questions(job: Job) -> tuple[list[EvalQuestion], list[tuple[str, ...]]]:
    """The questions to ask, and the ids of the passages that answer each."""
    most = job.config.quantize.max_questions
    questions = held_out_questions(job.inputs["prepare"], "quantize", most, job.config.seed)
    passages = list(HybridIndex.open(job.inputs["index"].folder).corpus.passages())
    qrels = relevant_documents(questions, passages)
    return questions, [tuple(qrels.get(question.query_id, {})) for question in questions]


def _inputs(job: Job) -> dict[str, Artifact]:
    return {name: job.inputs[name] for name in ("index", "calibrate", "augment", "merge")}


def _write(job: Job, found: Sequence[Found]) -> None:
    """Judge, and write all files of the artifact."""
    config, folder = job.config, job.draft.folder
    resampling = Resampling(config.evaluate.bootstrap_samples, config.seed)
    models = [_figures(record, predictions, resampling) for record, predictions in found]
    gate = config.quantize.gate
    candidates = [_candidate(record, predictions, gate.metric) for record, predictions in found]
    decision = decide(candidates[0], candidates[1:], gate, resampling)
    quality = {model.name: {**model.figures, "answers": _plain(model)} for model in models}
    _dump(folder / QUANTIZE_JSON, quality)
    _dump(folder / GATE_JSON, asdict(decision) | {"gate": gate.model_dump(mode="json")})
    if decision.chosen is None:
        job.warn(f"quantize: {decision.reason}")
    _dump(folder / TIMINGS_JSON, {model.name: dict(model.costs) for model in models})
    answers = [prediction for _, predictions in found for prediction in predictions]
    pq.write_table(predictions_table(answers), folder / "answers.parquet", compression="zstd")
    write_quantize_report(folder, config.name, models, decision, gate)
    job.draft.volatile.update(_volatile(folder, [model.name for model in models], decision, config.quantize))
    job.draft.counts.update(methods=len(models) - 1, questions=len(found[0][1]))
    job.draft.metrics.update(
        chosen=decision.chosen,
        reason=decision.reason,
        methods={m.name: {**m.figures, **m.costs, "f1": m.scores["f1"].mean} for m in models},
    )


def _figures(record: QuantizationRecord, predictions: Sequence[Prediction], resampling: Resampling) -> ModelFigures:
    scores = [prediction.scores for prediction in predictions]
    intervals = {m: resampling.interval(column(scores, m), f"{record.method}.{m}") for m in METRICS}
    return ModelFigures(record.method, record.figures(), record.costs(), intervals)


def _candidate(record: QuantizationRecord, predictions: Sequence[Prediction], metric: str) -> Candidate:
    return Candidate(
        name=record.method,
        bytes=record.bytes,
        tokens_per_second=record.measured.tokens_per_second,
        kl_nats=record.measured.kl_nats,
        values=tuple(column([prediction.scores for prediction in predictions], metric)),
    )


def _plain(model: ModelFigures) -> dict[str, Any]:
    return {metric: asdict(interval) for metric, interval in model.scores.items()}


def _volatile(folder: Path, names: Sequence[str], decision: Decision, settings: QuantizeConfig) -> set[str]:
    """The files that hold times; the gate's among them where it chooses by speed."""
    files = {TIMINGS_JSON, *_REPORT, *(f"{name}/{LOG}" for name in names)}
    if settings.gate.prefer == "fastest":
        files.add(GATE_JSON)
    return {name for name in files if (folder / name).exists()}


def _dump(path: Path, tree: Any) -> None:
    text = json.dumps(tree, ensure_ascii=False, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _settings(config: RunConfig) -> Mapping[str, Any]:
    """What the result depends on; interpreters and time limits are not among it."""
    settings = config.quantize.model_dump(mode="json", exclude={"environments", "time_limit_s"})
    names = ("max_new_tokens", "batch_size", "bootstrap_samples")
    evaluate = {name: getattr(config.evaluate, name) for name in names}
    return {"name": config.name, "quantize": settings, "evaluate": evaluate, "max_length": config.train.max_length}


def _headline(artifact: Artifact) -> str:
    metrics = artifact.manifest.metrics
    chosen = metrics["chosen"] or FULL.name
    figures, full = metrics["methods"][chosen], metrics["methods"][FULL.name]
    return f"{chosen}: {figures['bytes'] / 1e6:.1f} MB of {full['bytes'] / 1e6:.1f} MB, KL {figures['kl_nats']:.4f}"


STAGE = Stage(
    name="quantize",
    format_version=2,
    needs=("prepare", "index", "augment", "calibrate", "merge"),
    code=(
        "schema", "prompt", "retrieval", "evaluation", "engine", "dataprep.normalize", "train.examples",
        "train.template", "distributed.folder_task", "distributed.quantize", "distributed.quantize_material",
        "distributed.questions",
    ),
    settings=_settings,
    build=_build,
    headline=_headline,
)  # fmt: skip
