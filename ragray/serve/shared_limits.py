"""One ledger for all replicas of the ingress.

In: the same calls as a ledger in the process. Out: the same answers, from an actor that every replica finds by name.
Whichever replica needs it first starts it, and it ends with that one: the next call of another starts it anew, with
full accounts. Each call costs a message to another process, so a single replica counts by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import ray
from ray.exceptions import RayActorError

from ragray.config_limits import LimitsConfig
from ragray.serve.api import ApiError
from ragray.serve.limits import Accounts, Ledger, Quota, Refusal, lease_s

NAMESPACE = "ragray"
_TRIES = 10
_PAUSE_S = 0.1  # between two tries; a name stays taken for a moment after its actor's end

logger = logging.getLogger("ray.serve")


class SharedAccounts:
    """A ledger in an actor.

    Args:
        application: the application whose replicas share it.
        lease_s: as of `Ledger`.
    """

    def __init__(self, application: str, lease_s: float) -> None:
        self._name = f"limits of {application}"
        self._lease_s = lease_s
        self._actor = self._found()

    async def enter(self, name: str, quota: Quota) -> int | Refusal:
        """See `Ledger.enter`.

        Raises:
            ApiError: 503, the ledger cannot be reached.
        """
        return cast("int | Refusal", await self._call("enter", name, quota))

    async def leave(self, name: str, lease: int) -> None:
        """See `Ledger.leave`; without effect where the ledger is gone, and the lease with it."""
        await self._tell("leave", name, lease)

    async def reserve(self, name: str, quota: Quota, tokens: int) -> Refusal | None:
        """See `Ledger.reserve`.

        Raises:
            ApiError: 503, the ledger cannot be reached.
        """
        return cast("Refusal | None", await self._call("reserve", name, quota, tokens))

    async def charge(self, name: str, tokens: int) -> None:
        """See `Ledger.charge`; without effect where the ledger is gone, and what was reserved with it."""
        await self._tell("charge", name, tokens)

    def _found(self) -> Any:
        return (
            ray.remote(Ledger)
            .options(name=self._name, namespace=NAMESPACE, get_if_exists=True, num_cpus=0)
            .remote(self._lease_s)
        )

    async def _call(self, method: str, *args: Any) -> Any:
        for _ in range(_TRIES):
            try:
                return await getattr(self._actor, method).remote(*args)
            except RayActorError:
                await asyncio.sleep(_PAUSE_S)
                self._actor = self._found()
        raise ApiError(503, "a part of the server is restarting; try again", code="restarting", retry_after_s=2)

    async def _tell(self, method: str, *args: Any) -> None:
        try:
            await getattr(self._actor, method).remote(*args)
        except RayActorError:
            logger.warning("the ledger of limits is gone; accounts begin anew")


def accounts_of(limits: LimitsConfig, replicas: int) -> Accounts | None:
    """Where one of `replicas` of the ingress counts; None: by itself."""
    if not (replicas > 1 if limits.shared is None else limits.shared):
        return None
    from ray import serve

    return SharedAccounts(serve.get_replica_context().app_name, lease_s(limits))
