"""Which release an application answers from, and how a new one takes its place: `ragray serve --swap`.

In: what each replica reports a few times a second, and what the command asks for. Out: orders to the replicas, progress
for the command. A release is a number and the artifacts behind it. All replicas load a new one beside the one that
answers; when all have it, it is the current one; when one cannot, all drop it. No Ray here: `follower` brings this into
an actor. What is lost with that actor comes back with the replicas' next reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ragray.config_replicas import Part
from ragray.serve.artifacts import Served

NAMESPACE = "ragray"
NAME = "releases of "  # an application: the actor's name, with a digest behind it
GONE_S = 10.0  # a replica that did not report for so long is not waited for; loading can hold Python's lock for seconds
_ASKED_S = 20.0  # a swap that nobody asks about any more, as its command was killed, is undone
State = Literal["loading", "switching", "served", "failed"]


@dataclass(frozen=True, slots=True)
class Release:
    """What answers together. Numbers only grow; the first is what the application was deployed with."""

    number: int
    served: Served


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica cannot load a release."""

    number: int
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of itself."""

    replica: str
    part: Part
    current: Release  # that it answers from, or starts with
    oldest: int  # release that an answer may still be running on
    loaded: tuple[int, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a replica shall have: the release that answers, the one to load, and the oldest that is still asked for."""

    current: Release
    next: Release | None
    oldest: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a swap is."""

    state: State
    waits_for: tuple[str, ...]  # replicas
    has: tuple[str, ...]
    reason: str = ""  # why it failed
    fix: str = ""


@dataclass(slots=True)
class _Swap:
    release: Release
    until: float
    asked: float  # when the command was last heard of
    state: State = "loading"
    reason: str = ""
    fix: str = ""


@dataclass(slots=True)
class _Heard:
    report: Report
    at: float = field(default=0.0)


class Releases:
    """The release that answers, at most one that is being loaded, and what the replicas said last.

    Args:
        base: what the application was deployed with.
        clock: seconds that only grow.
        ended: told of each swap's outcome, "served" or "failed".
    """

    def __init__(
        self,
        base: Served,
        clock: Callable[[], float] = time.monotonic,
        ended: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._clock, self._ended = clock, ended
        self._current = Release(1, base)
        self._last = 1  # number that was given out
        self._heard: dict[str, _Heard] = {}
        self._parts: set[Part] = set()
        self._swap: _Swap | None = None

    def report(self, report: Report) -> Order:
        """Hear a replica, and tell it what to have."""
        self._heard[report.replica] = _Heard(report, self._clock())
        self._parts.add(report.part)
        self._last = max(self._last, report.current.number, *report.loaded)
        if report.current.number > self._current.number:
            self._current = report.current  # an actor that was made again learns what was lost
        self._advance()
        swap = self._swap
        following = swap.release if swap is not None and swap.state == "loading" else None
        return Order(self._current, following, self._oldest())

    def leave(self, replica: str) -> bool:
        """Forget a replica that ends in order; whether it was the last one."""
        self._heard.pop(replica, None)
        return not self._heard

    def current(self) -> Release:
        """The release that answers."""
        return self._current

    def living(self) -> list[str]:
        """The replicas that reported lately."""
        return [report.replica for report in self._living()]

    def begin(self, served: Served, timeout_s: float) -> int | str:
        """Have a release loaded by all replicas; its number, or why not.

        Args:
            served: what shall answer.
            timeout_s: after which the release is dropped when not all replicas have it.
        """
        self._advance()
        now, swap = self._clock(), self._swap
        if swap is not None and swap.state in ("loading", "switching"):
            return f"another swap, to release {swap.release.number}, is running"
        if served.parts != self._current.served.parts:
            return f"the application serves {self._current.served.parts}, and these artifacts make {served.parts}"
        if not self._living():
            return "none of the application's replicas answers"
        self._last += 1
        self._swap = _Swap(Release(self._last, served), now + timeout_s, now)
        return self._last

    def progress(self, number: int) -> Progress | None:
        """How far the swap to a release is; None: nothing is known of it. Whoever asks no more has it undone."""
        swap = self._swap
        if swap is None or swap.release.number != number:
            is_current = self._current.number == number  # of an actor that was made again
            return Progress("served", (), tuple(self.living())) if is_current else None
        swap.asked = self._clock()
        self._advance()
        has = [report.replica for report in self._living() if self._has(report, swap)]
        waits_for = tuple(name for name in self.living() if name not in has)
        return Progress(swap.state, waits_for, tuple(has), swap.reason, swap.fix)

    def abort(self, number: int) -> bool:
        """Drop a release that is being loaded; False: there is none, or it answers already."""
        swap = self._swap
        if swap is None or swap.release.number != number or swap.state != "loading":
            return False
        self._fail(swap, "it was interrupted", "")
        return True

    def _living(self) -> list[Report]:
        since = self._clock() - GONE_S
        self._heard = {name: heard for name, heard in self._heard.items() if heard.at >= since}
        return [heard.report for heard in self._heard.values()]

    def _oldest(self) -> int:
        """Of the releases that an ingress' answers may still ask for."""
        asking = [report.oldest for report in self._living() if report.part == "ingress"]
        return min([*asking, self._current.number])

    @staticmethod
    def _has(report: Report, swap: _Swap) -> bool:
        number = swap.release.number
        return number in report.loaded if swap.state == "loading" else report.current.number >= number

    def _advance(self) -> None:
        swap = self._swap
        if swap is None:
            return
        living = self._living()
        have_it = all(self._has(report, swap) for report in living)
        if swap.state == "switching" and have_it and living:
            swap.state = "served"
            self._ended("served")
        elif swap.state == "loading":
            self._load(swap, living, have_it)

    def _load(self, swap: _Swap, living: list[Report], have_it: bool) -> None:
        for report in living:
            if report.failure is not None and report.failure.number == swap.release.number:
                failure = report.failure
                return self._fail(swap, f"{report.replica} cannot load it: {failure.message}", failure.fix)
        now = self._clock()
        if have_it and {report.part for report in living} == self._parts:  # else one is just being started again
            self._current, swap.state = swap.release, "switching"
        elif now > swap.until:
            waits = ", ".join(sorted(report.replica for report in living if not self._has(report, swap)))
            fix = "raise serve.swap_timeout_s, or see the replica's log"
            self._fail(swap, f"not loaded in time by {waits or 'a part without replicas'}", fix)
        elif now - swap.asked > _ASKED_S:
            self._fail(swap, "the command that asked for it is gone", "run it again")
        return None

    def _fail(self, swap: _Swap, reason: str, fix: str) -> None:
        swap.state, swap.reason, swap.fix = "failed", reason, fix
        self._ended("failed")
