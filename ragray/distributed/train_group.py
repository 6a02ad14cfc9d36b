"""The group of training workers: Ray Train's `TorchTrainer`, each worker running `train.loop`.

In: a `TrainRun`. Out: its checkpoints in the work folder. A lost worker, and a node that is taken away, make Ray start
the group again from the last checkpoint; an error that would come again ends the run at once. Workers never call
`ray.train.report`: from its second call on it waits for the controller, which looks every two seconds.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.config_train import TrainConfig
from ragray.distributed.session import connect, living_nodes
from ragray.distributed.task_errors import plain_errors
from ragray.engine.weight_format import FULL, weights_of
from ragray.errors import ConfigError, RagrayError, WorkError

if TYPE_CHECKING:
    from ray.train import FailureConfig, ScalingConfig

    from ragray.train.device import Device
    from ragray.train.loop import TrainRun

_RESUME = "run the command again: it resumes from the last checkpoint; the workers' logs are below /tmp/ray"


def train_on_ray(run: TrainRun) -> None:
    """Train to the end on the cluster.

    Raises:
        ConfigError: the workers do not fit in the cluster, or a worker in its device's memory.
        RagrayError: a worker's own.
        WorkError: workers were lost too often, or Ray's controller of the group was.
    """
    from ragray.distributed.tokens import make_tokens
    from ragray.train.loop import token_source

    settings, source = run.settings, token_source(run)
    connect()
    check_cluster(settings)
    if source.parts > 1:  # a single one is made by the first worker
        make_tokens(source, Path(run.work_folder))
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type]
        train_loop_config={**asdict(run), "settings": settings.model_dump(mode="json")},
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=_scaling(settings),
        run_config=ray.train.RunConfig(
            name=f"train-{run.attempt}",  # a name used before would make Ray take up that run
            storage_path=str(Path(run.work_folder) / "ray"),
            failure_config=_failures(settings),
        ),
    )
    before = _placement_groups()
    try:
        error = trainer.fit().return_value  # type: ignore[attr-defined]
    except ray.train.TrainingFailedError as failed:
        raise explain(failed) from failed
    except ray.exceptions.RayActorError as lost:
        _remove_placement_groups(_placement_groups() - before)
        raise WorkError(f"training: Ray's controller of the workers was lost: {_last_line(lost)}", _RESUME) from lost
    if isinstance(error, RagrayError):
        raise error


def _placement_groups() -> set[str]:
    """The ids of all placement groups that this driver and its actors made and that still hold resources."""
    import ray

    mine = ray.get_runtime_context().get_job_id()  # the end of each such id
    groups = ray.util.placement_group_table()
    return {name for name, group in groups.items() if name.endswith(mine) and group["state"] != "REMOVED"}


def _remove_placement_groups(names: Iterable[str]) -> None:
    """Free what a lost controller reserved: Ray's own cleaner asks the dashboard, which a local Ray does not have."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for name in names:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


def worker_device(settings: TrainConfig) -> Device:
    """What a training worker computes on: this machine's CPU, or a GPU of the cluster, asked there."""
    from ragray.train.device import this_device

    if not settings.use_gpu:
        return this_device(use_gpu=False)
    connect()
    check_cluster(settings)
    import ray

    with plain_errors("train"):
        found: Device = ray.get(ray.remote(num_cpus=0, num_gpus=1)(this_device).remote(True))
    return found


def check_cluster(settings: TrainConfig) -> None:
    """Check that the cluster can ever hold all workers, or the least number of them, at once.

    Raises:
        ConfigError: it cannot; without this check Ray would wait for ever.
    """
    wanted = worker_resources(settings)
    nodes = living_nodes()
    room = sum(fits(node, wanted) for node in nodes)
    least = settings.least_workers
    if room < least:
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in wanted}
        have = ", ".join(f"{amount:g} {name}" for name, amount in total.items())
        want = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        raise ConfigError(
            f"train.num_workers: {least} workers of {want} each do not fit in this cluster ({have})",
            f"set train.num_workers to at most {room}" if room else "add nodes, or ask for less per worker",
        )


def explain(error: Exception) -> RagrayError:
    """The worker's own error where it was one of ragray's, else one that holds the first worker's."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        for cause in _causes(failure):
            if isinstance(cause, RagrayError):
                return cause
    first = next(iter(failures.values()), error)
    return WorkError(f"training failed on a worker: {_last_line(first)}", _RESUME)


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _work(config: dict[str, Any]) -> RagrayError | None:
    """What each Ray Train worker runs; an error that all workers raise alike is returned: Ray retries raised ones."""
    settings = TrainConfig.model_validate(config["settings"])
    _use_threads(settings)
    if settings.quantization == "none" and weights_of(Path(config["model_folder"])) == FULL:
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # PEFT would import it, for a second
    from ray.train import get_context

    from ragray.distributed.train_metrics import RayMetricsSink
    from ragray.train.loop import TrainRun, train
    from ragray.train.monitor import write_progress

    run = TrainRun(**{**config, "settings": settings})
    group = get_context()
    rank = group.get_world_rank()
    nodes = math.ceil(group.get_world_size() / group.get_local_world_size())
    sinks = [RayMetricsSink(Path(run.work_folder).name, rank)] if settings.monitor.prometheus else []
    try:
        _check_plan(run, nodes)
        train(run, lambda progress: write_progress(progress, Path(run.work_folder)), _is_leaving(), sinks)
    except RagrayError as error:
        return error
    return None


def _check_plan(run: TrainRun, nodes: int) -> None:
    """Check that this worker fits in its own device, before it loads anything.

    Args:
        run: of the group.
        nodes: as if all had as many workers as this one.

    Raises:
        ConfigError: it does not, or another worker does not.
    """
    from ragray.train.device import this_device
    from ragray.train.plan import check_fits, make_plan
    from ragray.train.together import alike

    folder = Path(run.model_folder)
    with alike():
        check_fits(make_plan(run.settings, folder, this_device(run.settings.use_gpu)), folder, nodes)


def _is_leaving() -> Any:
    """A function that says whether Ray announced the end of a node of this group.

    `ray.train.get_preemption_info` says it too, but waits for all workers, some milliseconds each time; this reads
    what Ray's watcher has put into this worker, and the loop tells the others with the step's losses.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    notes = get_train_context().preemption_context
    return lambda: notes.preemption_info is not None


def _scaling(settings: TrainConfig) -> ScalingConfig:
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=settings.num_workers,  # type: ignore[arg-type]
        use_gpu=settings.use_gpu,
        resources_per_worker=worker_resources(settings),
        elastic_resize_monitor_interval_s=settings.resize_every_s,  # type: ignore[call-arg]
    )


def _failures(settings: TrainConfig) -> FailureConfig:
    from ray.train import FailureConfig

    return FailureConfig(
        max_failures=settings.max_failures,
        max_preemption_failures=settings.max_preemptions,  # type: ignore[call-arg]
        preemption_grace_s=settings.preemption_grace_s,
    )


def _use_threads(settings: TrainConfig) -> None:
    os.environ["OMP_NUM_THREADS"] = str(settings.threads_per_worker)
    if not settings.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    torch.set_num_threads(settings.threads_per_worker)


def worker_resources(settings: TrainConfig) -> dict[str, float]:
    """What each worker asks of Ray."""
    gpus = {"GPU": 1.0} if settings.use_gpu else {}
    return {"CPU": float(settings.threads_per_worker), **gpus}


def fits(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How often `wanted` fits in a node's resources."""
    return min(math.floor(node.get(name, 0.0) / amount) for name, amount in wanted.items())


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "cause", None) or seen.__cause__
