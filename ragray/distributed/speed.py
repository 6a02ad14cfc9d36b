"""Stage `speed`: how fast the built engine is, and beside it the merged model by transformers.

In: the corpus (index), merged model and built engine. Out: `speed.json`, `report.md`, `report.html`, `charts/`, all of
them with times, so none is part of the artifact's digest. Each engine and batch size is one Ray task on a node of the
engine's device type, in a worker of its own, so that its memory is its own; one runs at a time, so that none disturbs
another.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ragray.artifact import Artifact
from ragray.config import EngineConfig, RunConfig
from ragray.config_speed import SpeedConfig
from ragray.distributed.build_engine import build_engines
from ragray.distributed.devices import placement
from ragray.distributed.folder_task import local_folder
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors
from ragray.engine.device import CPU, device_here
from ragray.engine.load_test import Load, LoadResult, Prompts, sweep
from ragray.engine.process_memory import peak_bytes, resident_bytes
from ragray.engine.protocol import Engine
from ragray.evaluation.sections import write_report
from ragray.evaluation.speed_report import EngineSpeed, SpeedCell, percentiles, speed_report
from ragray.retrieval.index import HybridIndex

SPEED_JSON = "speed.json"
_TEXT_CHARS = 400_000  # of the corpus, that prompts are cut from

_Kind = Literal["engine", "model"]  # also the folder in the artifact


@dataclass(frozen=True)
class _Subject:
    """What is measured."""

    kind: _Kind
    device_type: str
    artifact: Artifact


def _build(job: Job) -> None:
    connect()
    speed = job.config.speed
    text = _text(job.inputs["index"])
    subjects = [_Subject("engine", device_type, _engine_for(job, device_type)) for device_type in speed.devices]
    if speed.reference:
        subjects.append(_Subject("model", CPU, job.inputs["merge"]))
    engines = []
    for subject in subjects:
        parts = [_run(job, subject, batch_size, text) for batch_size in speed.batch_sizes]
        engines.append(_joined(parts))
    tree = {"engines": [asdict(engine) for engine in engines], "settings": speed.model_dump(mode="json")}
    (job.draft.folder / SPEED_JSON).write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_report(job.draft.folder, speed_report(job.config.name, engines, speed.price_per_hour, speed.currency))
    files = (path for path in job.draft.folder.rglob("*") if path.is_file())
    job.draft.volatile.update(str(path.relative_to(job.draft.folder)) for path in files)
    job.draft.counts.update(engines=len(engines), settings=sum(len(engine.cells) for engine in engines))
    job.draft.metrics.update({engine.name: round(_most(engine), 1) for engine in engines})


def _engine_for(job: Job, device_type: str) -> Artifact:
    """The engine of a device type; one that is not there is built."""
    if device_type == CPU:
        return job.inputs["engine"]
    (outcome,) = build_engines(job.config, job.inputs["merge"], [device_type], report=job.report).values()
    return outcome.artifact


def _run(job: Job, subject: _Subject, batch_size: int, text: str) -> EngineSpeed:
    import ray

    settings = job.config.engine.model_copy(update={"max_batch_size": batch_size})
    options = placement(subject.device_type, settings.device(subject.device_type))
    task = ray.remote(**options, max_retries=TASK_RETRIES, max_calls=1)(_measure_here)
    with plain_errors(f"speed: {subject.kind} on {subject.device_type}, batch {batch_size}"):
        found: EngineSpeed = ray.get(task.remote(subject, settings, job.config.speed, text))
    job.report(f"{found.name}, batch {batch_size}: {len(found.cells)} settings, at most {_most(found):,.0f} tokens/s")
    return found


def _measure_here(subject: _Subject, settings: EngineConfig, speed: SpeedConfig, text: str) -> EngineSpeed:
    """Load one engine in this process and run the whole sweep on it."""
    folder = local_folder(subject.artifact)
    began = time.perf_counter()
    engine = _load(subject.kind, folder, settings)
    try:
        load_s, loaded = time.perf_counter() - began, resident_bytes()
        prompts = Prompts(engine.tokenizer(text, add_special_tokens=False)["input_ids"])
        cells = tuple(_cell(result, settings.max_batch_size) for result in sweep(engine, _loads(speed), prompts))
        return EngineSpeed(
            name=f"{engine.info.kind} {engine.info.weights} on {engine.info.device}",
            device=engine.info.device,
            hardware=device_here(subject.device_type).name,
            disk_bytes=sum(path.stat().st_size for path in (folder / subject.kind).rglob("*") if path.is_file()),
            load_s=load_s,
            loaded_bytes=loaded,
            peak_bytes=peak_bytes(),
            cells=cells,
        )
    finally:
        engine.close()


def _load(kind: _Kind, folder: Path, settings: EngineConfig) -> Engine:
    if kind == "engine":
        from ragray.engine.runtime import load_engine

        return load_engine(folder, settings)
    from ragray.engine.transformers_runtime import load_model_folder

    return load_model_folder(folder / "model", settings.max_batch_size, settings.cpu_threads)


def _loads(speed: SpeedConfig) -> Iterator[Load]:
    for prompt, answer, clients in itertools.product(speed.prompt_tokens, speed.new_tokens, speed.concurrency):
        yield Load(clients, prompt, answer, max(speed.requests, 2 * clients))


def _cell(result: LoadResult, batch_size: int) -> SpeedCell:
    load, requests = result.load, result.requests
    return SpeedCell(
        batch_size=batch_size,
        concurrency=load.concurrency,
        prompt_tokens=load.prompt_tokens,
        new_tokens=load.new_tokens,
        requests=load.requests,
        seconds=result.seconds,
        first_token_s=percentiles([request.first_token_s for request in requests]),
        each_token_s=percentiles([request.each_token_s for request in requests]),
        total_s=percentiles([request.total_s for request in requests]),
    )


def _joined(parts: list[EngineSpeed]) -> EngineSpeed:
    """One engine at several batch sizes."""
    return replace(
        parts[0],
        cells=tuple(cell for part in parts for cell in part.cells),
        load_s=max(part.load_s for part in parts),
        loaded_bytes=max(part.loaded_bytes for part in parts),
        peak_bytes=max(part.peak_bytes for part in parts),
    )


def _most(engine: EngineSpeed) -> float:
    return max(cell.tokens_per_s for cell in engine.cells)


def _text(index: Artifact) -> str:
    """The corpus's own text, as much as prompts need."""
    parts, chars = [], 0
    for passage in HybridIndex.open(index.folder).corpus.passages():
        parts.append(passage.text)
        chars += len(passage.text)
        if chars >= _TEXT_CHARS:
            break
    return "\n\n".join(parts)


def _settings(config: RunConfig) -> Mapping[str, Any]:
    engine = config.engine.model_dump(mode="json", exclude={"max_batch_size", "wait_s", "build_s"})
    return {"speed": config.speed.model_dump(mode="json"), "engine": engine}


def _headline(artifact: Artifact) -> str:
    return "; ".join(f"{name}: {value:,.0f} tokens/s" for name, value in artifact.manifest.metrics.items())


STAGE = Stage(
    name="speed",
    format_version=1,
    needs=("index", "merge", "engine"),
    code=("engine", "evaluation.speed_report", "distributed.speed"),
    settings=_settings,
    build=_build,
    headline=_headline,
)
