"""Ray's errors as ragray's: the work's own error as it was raised, a lost worker with what to do.

In: the waiting for a task's result, in a `with`. Out: the same result, or a `RagrayError`; an error of the
work that ragray does not know (a bug) keeps Ray's traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ragray.errors import RagrayError, WorkError

TASK_RETRIES = 3  # of a task whose worker or node was lost

T = TypeVar("T")


@contextmanager
def plain_errors(name: str, fix: str = "free memory, then run again") -> Iterator[None]:
    """Raise in ragray's words what waiting for task `name`, retried `TASK_RETRIES` times, raises in Ray's.

    Raises:
        RagrayError: as the work raised it.
        WorkError: its worker or node was lost too often.
    """
    from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError

    try:
        yield
    except RuntimeEnvSetupError as error:
        raise WorkError(f"{name}: its environment cannot be set up: {error}", "mend what the message names") from None
    except RayTaskError as error:
        if isinstance(error.cause, RagrayError):
            raise error.cause from None
        raise
    except RayError as error:
        raise WorkError(f"{name}: its worker was lost {TASK_RETRIES + 1} times: {error}", fix) from None


def system_faults() -> tuple[type[Exception], ...]:
    """Ray's errors for a lost worker or node, after which a task may be started anew."""
    from ray import exceptions

    return (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
    )


def run_tasks(name: str, work: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    """The results of `work(*arguments[i])` for each i, each a task on one CPU.

    Raises:
        RagrayError: as the work raised it.
        WorkError: a task's worker or node was lost too often.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(work)
    with plain_errors(name):
        results: list[T] = ray.get([task.remote(*each) for each in arguments])
    return results
