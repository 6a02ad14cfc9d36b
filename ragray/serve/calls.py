"""Calls to other deployments, with the faults of the cluster turned into answers for the client.

In: the response of a deployment handle. Out: its result, or an `ApiError`: 429 where a queue is full, 503
where a replica was lost or is not there yet. A call whose caller goes away is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from ragray.serve.api import ApiError, busy

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentResponse, DeploymentResponseGenerator

    Response = DeploymentResponse[Any] | DeploymentResponseGenerator[Any]


async def unary(response: Response) -> Any:
    """The result of a call that gives one.

    Raises:
        ApiError: 429 when the queue is full, 503 when the replica is lost.
    """
    with _cluster_faults_explained():
        try:
            return await response
        finally:
            cancel(response)


async def streaming(response: DeploymentResponseGenerator[Any]) -> AsyncGenerator[Any, None]:
    """The items of a call that gives many; leaving early cancels it.

    Raises:
        ApiError: 429 when the queue is full, 503 when the replica is lost.
    """
    with _cluster_faults_explained():
        try:
            async for item in response:
                yield item
        finally:
            cancel(response)


def cancel(response: Response) -> None:
    """Stop a call that nobody waits for; without effect on one that is done."""
    response.cancel()  # type: ignore[no-untyped-call]


@contextmanager
def _cluster_faults_explained() -> Iterator[None]:
    try:
        yield
    except BackPressureError:
        raise busy() from None
    except (RayActorError, DeploymentUnavailableError, TaskCancelledError):
        message = "a part of the server is restarting; try again"
        raise ApiError(503, message, code="restarting", retry_after_s=2) from None
