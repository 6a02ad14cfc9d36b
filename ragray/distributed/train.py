"""The train stage: LoRA training by a group of Ray Train workers (`train_group.py`).

In: examples.parquet and the base model. Out: `adapter/` (PEFT layout), base_model.json, history.parquet,
timings.parquet, ranks.parquet, metrics.jsonl, loss.svg; bad_steps.json where steps were left out; validation.parquet
and samples.jsonl where checkpoints were validated beside training (`train_validation.py`). Checkpoints live in
the stage's work folder: a lost worker (Ray restarts the group) and a killed run (the next one finds them) both go on
from there. Ray Data tokenizes the examples once into parts on disk (`tokens.py`), there too; each worker maps them and
makes the examples of its own rows of a step, which seed, epoch and step determine, so memory holds any set.
"""

from __future__ import annotations

import importlib
import json
import math
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact, Source, folder_digest
from ragray.config import RunConfig
from ragray.config_train import ANY_VALUE
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.distributed.train_group import train_on_ray, worker_device
from ragray.distributed.train_validation import CheckpointValidator
from ragray.errors import DataError, WorkError

if TYPE_CHECKING:
    from ragray.train.checkpoint import Checkpoint, Checkpoints
    from ragray.train.loop import TrainRun
    from ragray.train.monitor import History

BAD_STEPS = "bad_steps.json"
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Chosen:
    """The adapter that is the result."""

    adapter: Path
    step: int
    valid_loss: float | None  # None where it was not measured


def build(job: Job) -> None:
    """Train, or finish a run that was killed; fill the artifact from the last checkpoint."""
    with ThreadPoolExecutor(1) as beside:  # importing takes as long as Ray takes to start
        beside.submit(importlib.import_module, "ragray.train.loop")
        beside.submit(importlib.import_module, "ray.train.torch")
        connect()
    from ragray.train.checkpoint import Checkpoints
    from ragray.train.hardware import ready_settings
    from ragray.train.loading import model_folder
    from ragray.train.loop import TrainRun, check_settings
    from ragray.train.sinks import absolute_paths

    folder = model_folder(job.config.train.base_model).resolve()
    settings = ready_settings(job.config.train, folder, lambda: worker_device(job.config.train))
    settings = settings.model_copy(update={"monitor": absolute_paths(settings.monitor)})
    check_settings(settings)
    check_leakage(job.inputs["prepare"], settings.max_leaked_share)
    run = TrainRun(
        settings=settings,
        seed=job.config.seed,
        model_folder=str(folder),
        examples_file=str(job.inputs["augment"].file("examples.parquet").resolve()),
        work_folder=str(job.work_folder.resolve()),
        attempt=uuid.uuid4().hex[:8],
    )
    checkpoints = Checkpoints(job.work_folder, settings.keep_checkpoints)
    validator = CheckpointValidator(run, job.report, job.warn) if settings.validation.asynchronous else None
    found = checkpoints.latest()
    if found is None or not found.state().finished:
        if found is not None:
            job.report(f"resuming after step {found.state().step}")
        with _reporting(job), _interruptible(), validator.beside() if validator else nullcontext():
            train_on_ray(run)
        found = checkpoints.latest()
    if found is None or not found.state().finished:
        raise WorkError(
            "training ended without its last checkpoint", f"check that all workers can write to {job.work_folder}"
        )
    history = found.history()
    if validator is not None:
        _take_validations(job, run, validator, history)
    _fill(job, found, _choose(run, checkpoints, found), history, run.model_folder)


def _take_validations(job: Job, run: TrainRun, validator: CheckpointValidator, history: History) -> None:
    """Finish all validations; put their losses into the history, and all that they found into the artifact.

    Raises:
        WorkError: the best adapter is asked for, and not all were validated.
    """
    from ragray.train.validations import RESULTS, SAMPLES, Validations, save_validations

    left = validator.finish()
    job.draft.counts["not_validated"] = left
    if left and run.settings.result == "best":
        raise WorkError(
            f"train.result: best, and {left} checkpoints could not be validated; the warnings above say why",
            "run the command again: only these are validated again; or choose train.result=last",
        )
    if left:
        job.warn(f"{left} checkpoints could not be validated")
    validations = Validations(job.work_folder)
    losses = {result.step: result.loss for result in validations.results()}
    history.records[:] = [replace(r, valid_loss=losses.get(r.step, r.valid_loss)) for r in history.records]
    save_validations(validations, job.draft.folder)
    job.draft.volatile.update(name for name in (RESULTS, SAMPLES) if (job.draft.folder / name).exists())


def _choose(run: TrainRun, checkpoints: Checkpoints, last: Checkpoint) -> Chosen:
    """The adapter after the last step, or the best one.

    Raises:
        WorkError: the best one is asked for, and no validation loss is a finite number.
    """
    from ragray.train.checkpoint import ADAPTER
    from ragray.train.validations import Validations

    if run.settings.result == "best" and run.settings.validation.asynchronous:
        best = next(iter(Validations(Path(run.work_folder)).ranked()), None)
        if best is None or best.adapter is None or not math.isfinite(best.result().loss):
            raise _no_best()
        return Chosen(best.adapter, best.step, best.result().loss)
    found = checkpoints.best() if run.settings.result == "best" else last
    if found is None:
        raise _no_best()
    return Chosen(found.folder / ADAPTER, found.state().step, found.state().valid_loss)


def _no_best() -> WorkError:
    return WorkError(
        "train.result: best, and no checkpoint has a validation loss that is a finite number",
        "lower train.learning_rate and run the command again, or choose train.result=last",
    )


def _fill(job: Job, last: Checkpoint, chosen: Chosen, history: History, model: str) -> None:
    """Copy the chosen adapter and what the last checkpoint tells of the run; record what they say."""
    from ragray.train import checkpoint as layout
    from ragray.train.base_record import BASE_MODEL, write_base_record
    from ragray.train.monitor import TIMINGS, draw_losses
    from ragray.train.ranks import RANKS, join_ranks, save_ranks
    from ragray.train.sinks import sink_failures
    from ragray.train.trackers import METRICS

    folder = job.draft.folder
    shutil.copytree(chosen.adapter, folder / layout.ADAPTER)
    history.save(folder)
    save_ranks(join_ranks(job.work_folder), folder)
    job.draft.volatile.update((TIMINGS, RANKS))
    if (job.work_folder / METRICS).exists():
        shutil.copyfile(job.work_folder / METRICS, folder / METRICS)
        job.draft.volatile.add(METRICS)
    write_base_record(folder / BASE_MODEL, job.config.train.base_model, Path(model))
    state = last.state()
    if not history.losses:
        raise WorkError(
            f"training: all {state.step} steps were left out; the last: {state.bad_steps[-1].line()}",
            "lower train.learning_rate, or look at the examples and the base model",
        )
    draw_losses(history, folder / "loss.svg")
    job.draft.counts.update(state.counts)
    job.draft.counts.update(result_step=chosen.step, left_out_steps=state.step - state.updates)
    if state.bad_steps:
        for bad in state.bad_steps:
            job.report(bad.line())
        rows = json.dumps([asdict(bad) for bad in state.bad_steps], indent=2, sort_keys=True, ensure_ascii=False)
        (folder / BAD_STEPS).write_text(rows + "\n", encoding="utf-8")
    metrics: dict[str, float] = {"first_loss": history.losses[0], "last_loss": history.losses[-1]}
    if history.valid_losses:
        after = history.valid_losses[-1] if chosen.valid_loss is None else chosen.valid_loss
        metrics |= {"valid_loss_before": history.valid_losses[0], "valid_loss_after": after}
    job.draft.metrics.update(metrics, tokens_per_s=round(history.tokens_per_s(), 1))
    if failures := sink_failures(job.work_folder):
        job.draft.metrics["sink_failures"] = {name: state.failures for name, state in failures.items()}


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a Ray Train run with exit code 0 and stays caught afterwards; here it is an interruption."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _reporting(job: Job) -> Iterator[None]:
    """Show the workers' progress while they run; they write it, this process reads it."""
    from ragray.train.monitor import read_progress
    from ragray.train.sinks import failure_line, sink_failures

    stop = threading.Event()

    def watch() -> None:
        shown = read_progress(job.work_folder)
        told: set[str] = set()
        done = False
        while not done:
            done = stop.wait(_POLL_SECONDS)
            progress = read_progress(job.work_folder)
            if progress is not None and progress != shown:
                job.progress(progress.step, progress.steps)
                job.report(progress.line())
                shown = progress
            for name, state in sink_failures(job.work_folder).items():
                if name not in told:
                    job.warn(failure_line(name, state))
                    told.add(name)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def check_leakage(prepared: Artifact, most: float) -> None:
    """Refuse records whose test questions were leaked into training.

    Raises:
        DataError: more than the share `most` was; the worst pairs are named.
    """
    found = prepared.manifest.metrics["leakage"]
    if found["leaked_share"] <= most:
        return
    pairs = pq.read_table(prepared.file("leakage.parquet")).to_pylist()
    named = "; ".join(
        f"{p['test_id']} {p['test_question'][:60]!r} ~ {p['train_id']} {p['train_question'][:60]!r} "
        f"(Jaccard {p['jaccard']:.2f}, cosine {p['cosine']:.2f})"
        for p in pairs
        if p["leaked"]
    )
    raise DataError(
        f"{found['leaked']:,} of {found['tests']:,} test questions ({found['leaked_share']:.1%}) have a near copy in "
        f"train, train.max_leaked_share allows {most:.1%}: {named}",
        f"correct the given splits (leakage.parquet of {prepared.uri} has the pairs), or raise the limit: "
        f"--set train.max_leaked_share={min(1.0, found['leaked_share'] + 0.0005):.3f}",
    )


def _settings(config: RunConfig) -> Mapping[str, Any]:
    any_value = set(ANY_VALUE)
    if config.train.lora.dropout:  # each worker draws its own
        any_value.remove("num_workers")
    return {"train": config.train.model_dump(mode="json", exclude=any_value)}


def _sources(config: RunConfig) -> Mapping[str, Source]:
    from ragray.train.loading import model_folder

    base = config.train.base_model
    return {"base_model": Source(kind="file", uri=base, digest=folder_digest(model_folder(base)))}


def _headline(artifact: Artifact) -> str:
    counts, metrics = artifact.manifest.counts, artifact.manifest.metrics
    return f"{counts['tokens']:,} tokens, loss {metrics['first_loss']:.3f} -> {metrics['last_loss']:.3f}"


STAGE = Stage(
    name="train",
    format_version=1,
    needs=("prepare", "augment"),
    code=(
        "prompt",
        "schema",
        "dataprep.normalize",
        "train",
        "distributed.train",
        "distributed.train_group",
        "distributed.tokens",
        "distributed.train_validation",
        "engine.validation",
        "engine.transformers_runtime",
        "engine.batching",
        "engine.repeats",
        "engine.tokens",
        "evaluation.answers",
    ),
    settings=_settings,
    build=build,
    headline=_headline,
    sources=_sources,
)
