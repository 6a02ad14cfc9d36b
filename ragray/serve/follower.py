"""How a replica learns of releases: a thread that reports to an actor twice a second and does what it says.

In: a `Stand`, where this replica's parts are loaded and switched. Out: the release to start with, and then new ones,
loaded in a thread while the replica answers. The actor is found by the application's name and what that was deployed
with. No request waits for it: while it is away a replica goes on with what it has, and its next report makes the actor
again. It ends with the application: when the last replica leaves, or when Serve knows no such application any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError

from ragray.config_replicas import Part
from ragray.errors import RagrayError
from ragray.serve.artifacts import Served
from ragray.serve.cache import digest
from ragray.serve.metrics import serving_metrics
from ragray.serve.releases import GONE_S, NAME, NAMESPACE, Failure, Order, Release, Releases, Report

_EVERY_S = 0.5
_REPLY_S = 5.0
_START_S = 10.0  # a replica that starts waits no longer for the actor
_RETRY_S = 10.0  # after which the current release is loaded again where that failed
_WATCH_S = 5.0

logger = logging.getLogger("ray.serve")


class Stand(Protocol):
    """Where a replica's parts are, by release."""

    def loaded(self) -> tuple[int, ...]:
        """Numbers of the releases that are there."""

    def load(self, release: Release) -> bool:
        """Load and check a release beside the others; False: not yet. Runs in a thread; may raise anything."""

    def keep(self, numbers: Collection[int]) -> None:
        """Drop all other releases."""

    def switch(self, release: Release) -> None:
        """Answer from a loaded release."""

    def oldest(self) -> int:
        """The oldest release that an answer may still be running on."""


class ReleasesActor(Releases):
    """`Releases` in an actor, which ends with the application.

    Args:
        application: as Serve knows it.
        base: what it was deployed with.
    """

    def __init__(self, application: str, base: Served) -> None:
        super().__init__(base, ended=lambda outcome: serving_metrics().swapped(outcome))
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, args=(application,), daemon=True).start()

    def leave(self, replica: str) -> bool:
        """Forget a replica that ends in order; with the last one, end."""
        if super().leave(replica):
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]
        return False

    def end(self) -> None:
        """End, unless a replica reported meanwhile."""
        if not self._living():
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _watch(self, application: str) -> None:
        from ray import serve

        while True:
            time.sleep(_WATCH_S + GONE_S)
            if not self.living() and application not in serve.status().applications:
                self._me.end.remote()


def actor_name(application: str, base: Served) -> str:
    """The actor's name: applications of other artifacts have another one, also under the same name in Serve."""
    return f"{NAME}{application} {digest(asdict(base))[:16]}"


class Follower:
    """Keeps one replica at the application's release.

    Args:
        part: what the replica is.
        base: what the application was deployed with.
        stand: its parts.
    """

    def __init__(self, part: Part, base: Served, stand: Stand) -> None:
        from ray import serve

        context = serve.get_replica_context()
        self._application, self._base = context.app_name, base
        self._replica, self._part, self._stand = f"{context.deployment}#{context.replica_tag}", part, stand
        self._current = Release(1, base)
        self._failure: Failure | None = None
        self._retry_at = 0.0
        self._actor: Any = None
        self._is_away = False
        self._loading: tuple[Release, Future[bool]] | None = None
        self._started, self._left = threading.Event(), threading.Event()
        # one thread for good: engines run processes that end with the thread that started them
        self._loader = ThreadPoolExecutor(1, "loads releases")

    def start(self) -> Release:
        """Load what the application answers from now, and follow it from then on.

        Raises:
            RagrayError: the artifacts are missing or damaged.
        """
        order = self._loader.submit(self._first_order).result()
        if order is not None:
            self._current = order.current
        threading.Thread(target=self._run, daemon=True, name="follows releases").start()
        try:
            self._loader.submit(self._stand.load, self._current).result()
        except BaseException:
            self._left.set()
            raise
        self._stand.switch(self._current)
        self._started.set()
        return self._current

    def leave(self) -> None:
        """Say that this replica ends in order; without effect the second time."""
        is_first, actor = not self._left.is_set(), self._actor
        self._left.set()
        if is_first and actor is not None:
            goodbye = threading.Thread(target=self._say_goodbye, args=(actor,), daemon=True)  # the loader may be busy
            goodbye.start()
            goodbye.join(_REPLY_S)

    def _say_goodbye(self, actor: Any) -> None:
        with suppress(RayError):  # the actor ends with the last replica
            ray.get(actor.leave.remote(self._replica), timeout=_REPLY_S)

    def _first_order(self) -> Order | None:
        deadline = time.monotonic() + _START_S
        while (order := self._tell()) is None and time.monotonic() < deadline:
            time.sleep(_EVERY_S / 5)  # a name stays taken for a moment after its actor's end
        return order

    def _tell(self) -> Order | None:
        stand, number = self._stand, self._current.number
        loaded, oldest = (stand.loaded(), stand.oldest()) if self._started.is_set() else ((), number)
        report = Report(self._replica, self._part, self._current, oldest, loaded, self._failure)
        try:
            if self._actor is None:
                self._actor = self._found()
            order: Order = ray.get(self._actor.report.remote(report), timeout=_REPLY_S)
        except (RayError, ValueError) as error:  # ValueError: another actor of that name ended while it was looked up
            if not self._is_away and not isinstance(error, RayActorError):
                logger.warning("the record of releases is away; answering from release %d: %s", number, error)
            self._actor, self._is_away = None, True
            return None
        self._is_away = False
        return order

    def _found(self) -> Any:
        options = {
            "name": actor_name(self._application, self._base), "namespace": NAMESPACE, "get_if_exists": True,
            "lifetime": "detached", "num_cpus": 0,
        }  # fmt: skip
        return ray.remote(ReleasesActor).options(**options).remote(self._application, self._base)

    def _run(self) -> None:
        while not self._left.wait(_EVERY_S):
            order = self._tell()
            if order is not None and self._started.is_set():
                self._follow(order)

    def _follow(self, order: Order) -> None:
        self._look_at_load()
        stand, current = self._stand, order.current
        if current.number > self._current.number and current.number in stand.loaded():
            stand.switch(current)
            self._current = current
            logger.info("release %d answers", current.number)
        wanted = {self._current.number, current.number} | ({order.next.number} if order.next else set())
        stand.keep(wanted | set(range(order.oldest, self._current.number)))
        for release in (current, order.next):
            if release is not None and self._is_due(release):
                self._loading = release, self._loader.submit(stand.load, release)

    def _is_due(self, release: Release) -> bool:
        if self._loading is not None or release.number in self._stand.loaded():
            return False
        failed_before = self._failure is not None and self._failure.number == release.number
        return not failed_before or time.monotonic() >= self._retry_at

    def _look_at_load(self) -> None:
        if self._loading is None or not self._loading[1].done():
            return
        (release, load), self._loading = self._loading, None
        error = load.exception()
        if error is None:
            self._failure = None
            return
        logger.error("release %d cannot be loaded: %s", release.number, error)
        if isinstance(error, RagrayError):
            self._failure = Failure(release.number, error.message, error.fix)
        else:
            self._failure = Failure(release.number, f"{type(error).__name__}: {error}", "see the replica's log")
        self._retry_at = time.monotonic() + _RETRY_S
