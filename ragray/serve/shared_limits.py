"""One ledger for all replicas of the ingress.

In: the same calls as a ledger in the process. Out: the same answers, from an actor that every replica finds by name.
Whichever replica is first starts it, and it ends with that one: the next call of another starts it anew, with full
accounts. Each call costs a message to another process, so a single replica counts by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, cast

import ray
from ray.exceptions import RayActorError

from ragray.config_limits import LimitsConfig
from ragray.serve.api import ApiError
from ragray.serve.limits import Accounts, Ledger, Quota, Refusal, lease_s

NAMESPACE = "ragray"
_PATIENCE_S = 2.0  # for a call, with all its tries
_PAUSE_S = 0.1  # between two tries; a name stays taken for a moment after its actor's end
_START_S = 60.0

_GONE = (RayActorError, ValueError)  # ValueError: the name is still that of an actor which has ended

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
        self._actor: Any = None

    def start(self) -> SharedAccounts:
        """Wait until the ledger answers, so that the first request need not.

        Raises:
            RayActorError: it cannot be started.
            ValueError: its name stays taken by one that has ended.
        """
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self._actor = self._found()
                ray.get(self._actor.__ray_ready__.remote())
                return self
            except _GONE:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    async def enter(self, name: str, quota: Quota, lease: str) -> Refusal | None:
        """See `Ledger.enter`.

        Raises:
            ApiError: 503, the ledger cannot be reached.
        """
        return cast("Refusal | None", await self._call("enter", name, quota, lease))

    async def leave(self, name: str, lease: str) -> None:
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
        try:
            return await asyncio.wait_for(self._tried(method, *args), _PATIENCE_S)
        except TimeoutError:
            message = "a part of the server is restarting; try again"
            raise ApiError(503, message, code="restarting", retry_after_s=2) from None

    async def _tried(self, method: str, *args: Any) -> Any:
        while True:
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(self._found)
                return await getattr(self._actor, method).remote(*args)
            except _GONE:
                self._actor = None
            await asyncio.sleep(_PAUSE_S)

    async def _tell(self, method: str, *args: Any) -> None:
        if self._actor is None:  # what was taken went with it
            return
        try:
            await asyncio.wait_for(self._said(method, *args), _PATIENCE_S)
        except (RayActorError, TimeoutError):
            logger.warning("the ledger of limits does not answer; where it is gone, accounts begin anew")

    async def _said(self, method: str, *args: Any) -> None:
        await getattr(self._actor, method).remote(*args)


def accounts_of(limits: LimitsConfig, replicas: int) -> Accounts | None:
    """Where one of `replicas` of the ingress counts; None: by itself."""
    if not (replicas > 1 if limits.shared is None else limits.shared):
        return None
    from ray import serve

    return SharedAccounts(serve.get_replica_context().app_name, lease_s(limits)).start()
