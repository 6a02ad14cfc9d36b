"""Calls to other deployments, with the faults of the cluster turned into answers for the client.

In: a method of a deployment handle and its arguments. Out: its result, or an `ApiError`: 429 where a queue is full, 503
where replicas were lost again and again. What is called here only reads, so a call whose replica was lost is made
again, as long as nothing of its result was given away. A call whose caller goes away is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, cast

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from ragray.serve.api import ApiError, busy

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentResponse, DeploymentResponseGenerator

    Response = DeploymentResponse[Any] | DeploymentResponseGenerator[Any]
    Method = Callable[..., Response]

_LOST = (RayActorError, AioRpcError, TaskCancelledError)  # what a replica raises itself comes as what it is
_FAULTS = (BackPressureError, DeploymentUnavailableError, *_LOST)
_AGAIN_AFTER_S = (0.05, 0.5)  # few: a request that brings replicas down would bring down one with each further call

logger = logging.getLogger("ray.serve")


async def unary(method: Method, *args: Any) -> Any:
    """The result of a call that gives one.

    Args:
        method: `remote` of a handle's method, which changes nothing: it may be carried out more than once.
        args: what it is called with.

    Raises:
        ApiError: 429 when the queue is full, 503 when replicas are lost.
    """
    waits = iter(_AGAIN_AFTER_S)
    while True:
        response = method(*args)
        try:
            return await cast("DeploymentResponse[Any]", response)
        except _FAULTS as fault:
            await _before_next(fault, next(waits, None))
        finally:
            cancel(response)


async def streaming(method: Method, *args: Any) -> AsyncGenerator[Any, None]:
    """The items of a call that gives many; leaving early cancels it.

    Args:
        method: `remote` of a handle's method, which changes nothing: until its first item it may be called again.
        args: what it is called with.

    Raises:
        ApiError: 429 when the queue is full, 503 when replicas are lost, or one is after the first item.
    """
    waits = iter(_AGAIN_AFTER_S)
    begun = False
    while True:
        response = method(*args)
        try:
            async for item in cast("DeploymentResponseGenerator[Any]", response):
                begun = True
                yield item
            return
        except _FAULTS as fault:
            await _before_next(fault, None if begun else next(waits, None))
        finally:
            cancel(response)


async def _before_next(fault: Exception, wait_s: float | None) -> None:
    """Wait before a call is made again.

    Raises:
        ApiError: it is not; `wait_s` is None after the last one.
    """
    if isinstance(fault, BackPressureError):
        raise busy() from None
    if wait_s is None or isinstance(fault, DeploymentUnavailableError):
        logger.error("replicas were lost (%s); the request fails", type(fault).__name__)
        raise ApiError(503, "a part of the server is restarting; try again", code="restarting", retry_after_s=2)
    logger.warning("a replica was lost (%s); its request goes to another", type(fault).__name__)
    await asyncio.sleep(wait_s)


def cancel(response: Response) -> None:
    """Stop a call that nobody waits for; without effect on one that is done."""
    response.cancel()  # type: ignore[no-untyped-call]
