"""Checkpoints validated beside training, each by a Ray task of its own.

In: a `TrainRun` and the adapters that its workers set aside (`train.validations`). Out: their results, in the same
folder, and a request to stop where they no longer improve. While the workers are there, one task runs at a time, and
only where all of them fit in the cluster beside it, wherever it runs: a group that must start again never waits for a
validation. What found no room, or failed, is done after training.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragray.config_train import TrainConfig
from ragray.distributed.session import connect, living_nodes
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors
from ragray.distributed.train_group import fits, worker_resources
from ragray.errors import ConfigError, RagrayError

if TYPE_CHECKING:
    import ray

    from ragray.engine.validation import ValidationTask
    from ragray.train.loop import TrainRun
    from ragray.train.validations import Candidate, SampleAnswer, Validation

_POLL_SECONDS = 1.0
_TRIES = 2  # of a validation; the second one after training, when there is all room


class CheckpointValidator:
    """Starts validations and takes in what they found; one thread at a time calls its methods.

    Args:
        run: whose work folder is looked at.
        report: gets a line for each result.
        warn: gets a line for each failure.
    """

    def __init__(self, run: TrainRun, report: Callable[[str], None], warn: Callable[[str], None]) -> None:
        from ragray.train.validations import Validations

        self._run, self._report, self._warn = run, report, warn
        self._validations = Validations(Path(run.work_folder))
        self._validations.clear_dead()
        self._running: dict[ray.ObjectRef[Any], Candidate] = {}
        self._tries: Counter[str] = Counter()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Validate while training goes on in the `with`.

        Raises:
            ConfigError: the cluster has no node for a validation.
        """
        connect()
        check_room(self._run.settings)
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stop,), daemon=True, name="validation")
        thread.start()
        try:
            yield
        except BaseException:
            stop.set()
            thread.join()
            self._cancel()
            raise
        stop.set()
        thread.join()

    def finish(self) -> int:
        """Validate all that waits, what failed once more; how many are left without a result.

        Raises:
            ConfigError: the cluster has no node for a validation.
        """
        import ray

        if self._validations.waiting():
            connect()
            check_room(self._run.settings)
        try:
            while self._start(self._open(_TRIES)) or self._running:
                ray.wait(list(self._running), num_returns=1)
                self._collect()
        except BaseException:
            self._cancel()
            raise
        return len(self._validations.waiting())

    def _watch(self, stop: threading.Event) -> None:
        from ray.exceptions import RayError

        try:
            while not stop.wait(_POLL_SECONDS):
                self._collect()
                if not self._running and (waiting := self._open(1)) and has_room_beside(self._run.settings):
                    self._start(waiting[:1])
        except (RayError, OSError, RagrayError) as error:
            self._warn(f"no validation beside training any more, what is left comes after it: {error}")

    def _open(self, tries: int) -> list[Candidate]:
        """What waits, does not run, and was tried fewer times than `tries`."""
        running = {candidate.folder for candidate in self._running.values()}
        waiting = (candidate for candidate in self._validations.waiting() if candidate.folder not in running)
        return [candidate for candidate in waiting if self._tries[candidate.folder.name] < tries]

    def _start(self, candidates: Sequence[Candidate]) -> int:
        import ray

        settings = self._run.settings.validation
        task: Any = ray.remote(
            num_cpus=settings.cpus, num_gpus=int(settings.use_gpu), max_retries=TASK_RETRIES
        )(validate_adapter)  # fmt: skip
        for candidate in candidates:
            self._tries[candidate.folder.name] += 1
            self._running[task.remote(self._task_of(candidate))] = candidate
        return len(candidates)

    def _task_of(self, candidate: Candidate) -> ValidationTask:
        from ragray.engine.validation import ValidationTask

        run, adapter = self._run, candidate.adapter
        return ValidationTask(
            run.settings, run.seed, run.model_folder, run.examples_file,
            None if adapter is None else str(adapter), candidate.step, candidate.digest,
        )  # fmt: skip

    def _collect(self) -> None:
        import ray

        if not self._running:
            return
        done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in done:
            self._take(reference, self._running.pop(reference))

    def _take(self, reference: ray.ObjectRef[Any], candidate: Candidate) -> None:
        import ray
        from ray.exceptions import RayTaskError

        name = f"validation after step {candidate.step}"
        try:
            with plain_errors(name):
                result, answers = ray.get(reference)
        except (RagrayError, RayTaskError) as error:
            if candidate.folder.exists():  # else an attempt of the workers took its place
                self._warn(f"{name} failed: {str(error).strip().splitlines()[-1]}")
            return
        if not candidate.folder.exists():
            return
        self._validations.add(candidate, result, answers, self._run.settings.keep_best)
        self._report(_line(result))
        self._stop_early(result.step)

    def _stop_early(self, step: int) -> None:
        from ragray.train.monitor import should_stop

        losses = [result.loss for result in self._validations.results()]
        if should_stop(losses, self._run.settings.validation) and not self._validations.stop_requested():
            self._validations.request_stop(step)
            self._report(f"no improvement up to step {step}: stopping early")

    def _cancel(self) -> None:
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()


def validate_adapter(task: ValidationTask) -> tuple[Validation, list[SampleAnswer]]:
    """What the Ray task runs."""
    import torch

    from ragray.engine.validation import validate

    torch.set_num_threads(task.settings.validation.cpus)
    return validate(task)


def check_room(settings: TrainConfig) -> None:
    """Check that a validation can ever run.

    Raises:
        ConfigError: no node has what it asks for; without this check Ray would wait for ever.
    """
    wanted = _wanted(settings)
    if not any(fits(node, wanted) for node in living_nodes()):
        want = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        raise ConfigError(
            f"train.validation: no node of this cluster has {want}",
            "lower train.validation.cpus, or set train.validation.use_gpu to false",
        )


def has_room_beside(settings: TrainConfig) -> bool:
    """Whether a validation fits beside the workers now."""
    return fits_beside(living_nodes(), worker_resources(settings), settings.most_workers, _wanted(settings))


def fits_beside(
    nodes: Sequence[Mapping[str, float]], worker: Mapping[str, float], workers: int, wanted: Mapping[str, float]
) -> bool:
    """Whether so many workers fit in the cluster, on whichever node Ray puts a task that asks for `wanted`.

    Args:
        nodes: all resources of each node, used or not.
        worker: what each worker asks for.
        workers: how many there are.
        wanted: what the task asks for.
    """
    lost = [
        fits(node, worker) - fits({name: node.get(name, 0.0) - wanted.get(name, 0.0) for name in worker}, worker)
        for node in nodes
        if fits(node, wanted)
    ]
    return bool(lost) and sum(fits(node, worker) for node in nodes) - max(lost) >= workers


def _wanted(settings: TrainConfig) -> dict[str, float]:
    gpus = {"GPU": 1.0} if settings.validation.use_gpu else {}
    return {"CPU": float(settings.validation.cpus), **gpus}


def _line(result: Validation) -> str:
    parts = [f"validation after step {result.step}: loss {result.loss:.4f}"]
    named = {"F1": result.f1, "exact match": result.exact_match, "right citation": result.citation_recall}
    return "  ".join([*parts, *(f"{name} {value:.2f}" for name, value in named.items() if value is not None)])
