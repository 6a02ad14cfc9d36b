"""The train stage: LoRA training by Ray Train's `TorchTrainer`, each worker running `train.loop`.

In: examples.parquet and the base model. Out: `adapter/` (PEFT layout), base_model.json, history.parquet,
timings.parquet, ranks.parquet, metrics.jsonl, loss.svg. Checkpoints live in the stage's work folder: a lost worker
(Ray restarts the group) and a killed run (the next one finds them) both go on from there. Each worker reads all
examples and takes its rows of each step; streaming them from Ray Data shards is for sets beyond one worker's memory.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ragray.artifact import Artifact, Source, folder_digest
from ragray.config import RunConfig
from ragray.config_train import TrainConfig
from ragray.distributed.session import connect
from ragray.distributed.stage import Job, Stage
from ragray.errors import ConfigError, DataError, RagrayError, WorkError

if TYPE_CHECKING:
    from ragray.train.checkpoint import Checkpoint
    from ragray.train.loop import TrainRun
    from ragray.train.monitor import Progress

_POLL_SECONDS = 1.0


def build(job: Job) -> None:
    """Train, or finish a run that was killed; fill the artifact from the last checkpoint."""
    from ragray.train.checkpoint import Checkpoints
    from ragray.train.loading import model_folder
    from ragray.train.loop import TrainRun, check_settings
    from ragray.train.sinks import absolute_paths

    settings = job.config.train
    settings = settings.model_copy(update={"monitor": absolute_paths(settings.monitor)})
    check_settings(settings)
    check_leakage(job.inputs["prepare"], settings.max_leaked_share)
    run = TrainRun(
        settings=settings,
        seed=job.config.seed,
        model_folder=str(model_folder(settings.base_model).resolve()),
        examples_file=str(job.inputs["augment"].file("examples.parquet").resolve()),
        work_folder=str(job.work_folder.resolve()),
        attempt=uuid.uuid4().hex[:8],
    )
    checkpoints = Checkpoints(job.work_folder, run.attempt, settings.keep_checkpoints)
    found = checkpoints.latest()
    if found is None or not found.state().finished:
        if found is not None:
            job.report(f"resuming after step {found.state().step}")
        _train_on_ray(run, job)
        found = checkpoints.latest()
    if found is None or not found.state().finished:
        raise WorkError(
            "training ended without its last checkpoint", f"check that all workers can write to {job.work_folder}"
        )
    _fill(job, found, run.model_folder)


def _fill(job: Job, checkpoint: Checkpoint, model: str) -> None:
    """Copy the result out of the last checkpoint, and record what it says about itself."""
    from ragray.train import checkpoint as layout
    from ragray.train.monitor import HISTORY, TIMINGS, draw_losses
    from ragray.train.ranks import RANKS, join_ranks, save_ranks
    from ragray.train.sinks import sink_failures
    from ragray.train.trackers import METRICS

    folder = job.draft.folder
    shutil.copytree(checkpoint.folder / layout.ADAPTER, folder / layout.ADAPTER)
    for name in (HISTORY, TIMINGS):
        shutil.copyfile(checkpoint.folder / name, folder / name)
    save_ranks(join_ranks(job.work_folder), folder)
    job.draft.volatile.update((TIMINGS, RANKS))
    if (job.work_folder / METRICS).exists():
        shutil.copyfile(job.work_folder / METRICS, folder / METRICS)
        job.draft.volatile.add(METRICS)
    base = {"path": job.config.train.base_model, "digest": folder_digest(Path(model))}
    (folder / "base_model.json").write_text(json.dumps(base, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    history = checkpoint.history()
    draw_losses(history, folder / "loss.svg")
    job.draft.counts.update(checkpoint.state().counts)
    metrics: dict[str, float] = {"first_loss": history.losses[0], "last_loss": history.losses[-1]}
    if history.valid_losses:
        metrics |= {"valid_loss_before": history.valid_losses[0], "valid_loss_after": history.valid_losses[-1]}
    job.draft.metrics.update(metrics, tokens_per_s=round(history.tokens_per_s(), 1))
    if failures := sink_failures(job.work_folder):
        job.draft.metrics["sink_failures"] = {name: state.failures for name, state in failures.items()}


def _train_on_ray(run: TrainRun, job: Job) -> None:
    connect()
    settings = run.settings
    check_cluster(settings)
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config={**asdict(run), "settings": settings.model_dump(mode="json")},
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.num_workers, use_gpu=settings.use_gpu, resources_per_worker=_resources(settings)
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{run.attempt}",  # a name used before would make Ray take up that run
            storage_path=str(job.work_folder.resolve() / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        with _reporting(job), _interruptible():
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise explain(error) from error


def _work(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    settings = TrainConfig.model_validate(config["settings"])
    _use_threads(settings)
    import ray.train

    from ragray.distributed.train_metrics import RayMetricsSink
    from ragray.train.loop import TrainRun, train
    from ragray.train.monitor import write_progress

    run = TrainRun(**{**config, "settings": settings})
    _check_shared(run)
    rank = ray.train.get_context().get_world_rank()
    sinks = [RayMetricsSink(Path(run.work_folder).name, rank)] if settings.monitor.prometheus else []

    def on_progress(progress: Progress) -> None:
        if rank == 0:
            write_progress(progress, Path(run.work_folder))
        ray.train.report(asdict(progress))

    train(run, on_progress, sinks)


def _use_threads(settings: TrainConfig) -> None:
    os.environ["OMP_NUM_THREADS"] = str(settings.threads_per_worker)
    if not settings.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    torch.set_num_threads(settings.threads_per_worker)


def _check_shared(run: TrainRun) -> None:
    """Every worker must see the run's files, wherever in the cluster it is."""
    for path in (run.model_folder, run.examples_file, run.work_folder):
        if not Path(path).exists():
            raise WorkError(
                f"{path}: not found on the node of a training worker",
                "put `output` and train.base_model on storage that all nodes share",
            )


def _resources(settings: TrainConfig) -> dict[str, float]:
    gpus = {"GPU": 1.0} if settings.use_gpu else {}
    return {"CPU": float(settings.threads_per_worker), **gpus}


def check_cluster(settings: TrainConfig) -> None:
    """Check that the cluster can ever hold all workers at once.

    Raises:
        ConfigError: it cannot; without this check Ray would wait for ever.
    """
    import ray

    wanted = _resources(settings)
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in alive]
    room = sum(_fits(node, wanted) for node in nodes)
    if room < settings.num_workers:
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in wanted}
        have = ", ".join(f"{amount:g} {name}" for name, amount in total.items())
        want = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        raise ConfigError(
            f"train.num_workers: {settings.num_workers} workers of {want} each do not fit in this cluster ({have})",
            f"set train.num_workers to at most {room}" if room else "add nodes, or ask for less per worker",
        )


def _fits(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    return min(math.floor(node.get(name, 0.0) / amount) for name, amount in wanted.items())


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


def explain(error: Exception) -> RagrayError:
    """The worker's own error where it was one of ragray's, else one that holds the first worker's."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        for cause in _causes(failure):
            if isinstance(cause, RagrayError):
                return cause
    first = next(iter(failures.values()), error)
    detail = str(first).strip().splitlines()[-1]
    return WorkError(
        f"training failed on a worker: {detail}",
        "run the command again: it resumes from the last checkpoint; the workers' logs are below /tmp/ray",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "cause", None) or seen.__cause__


def _settings(config: RunConfig) -> Mapping[str, Any]:
    return {"train": config.train.model_dump(mode="json", exclude={"monitor"})}


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
    code=("prompt", "schema", "train", "distributed.train"),
    settings=_settings,
    build=build,
    headline=_headline,
    sources=_sources,
)
