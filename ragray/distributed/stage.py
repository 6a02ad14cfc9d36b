"""What a stage is, and how one is run, skipped or resumed.

In: a `RunConfig`. Out: artifacts. Each stage lives in its own file of this folder and exports one
`Stage`; `bring_up_to_date` runs those that are not done, in the order of their needs.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ragray.artifact import Artifact, Draft, Source, Store, artifact_key, code_digest
from ragray.config import RunConfig
from ragray.locks import Check

Report = Callable[[str], None]  # shows one short line about what is going on
Count = Callable[[int, int], None]  # how much is done, of how much

_AGAIN_S = 0.01  # until an interrupt that was lost in a callback is raised again


@dataclass(frozen=True)
class Job:
    """What a stage's `build` gets: fill `draft.folder`, `draft.counts`, `draft.metrics`, `draft.timings_s`."""

    config: RunConfig
    inputs: Mapping[str, Artifact]  # by the names in `Stage.needs`
    draft: Draft
    work_folder: Path  # survives a killed run of this same key: checkpoints go here
    report: Report = lambda line: None  # the next line takes its place
    progress: Count = lambda done, total: None
    warn: Report = lambda line: None  # stays on the screen


@dataclass(frozen=True)
class Stage:
    """One step of the chain.

    `settings` picks the part of the configuration that the result depends on; `sources` lists input
    files outside the store with their digests; `code` the modules whose change makes it run again.
    """

    name: str  # also the kind of its artifact and of its folder
    format_version: int
    needs: tuple[str, ...]
    code: tuple[str, ...]
    settings: Callable[[RunConfig], Mapping[str, Any]]
    build: Callable[[Job], None]
    headline: Callable[[Artifact], str]  # one short line for the closing table: rows or tokens, main figure
    sources: Callable[[RunConfig], Mapping[str, Source]] = field(default=lambda config: {})
    title: str = ""  # what is shown, where several are made by one stage
    once: bool = False  # of several processes that need the same artifact, one makes it and the others wait

    @property
    def shown(self) -> str:
        """What a person reads."""
        return self.title or self.name


@dataclass(frozen=True)
class Outcome:
    """A stage's artifact, and whether it was made now."""

    stage: Stage
    artifact: Artifact
    skipped: bool
    seconds: float


def bring_up_to_date(
    config: RunConfig,
    stages: Sequence[Stage],
    *,
    started: Callable[[Stage], None] = lambda stage: None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    report: Report = lambda line: None,
    progress: Count = lambda done, total: None,
    warn: Report = lambda line: None,
) -> dict[str, Outcome]:
    """Run `stages` (ordered by their needs), each only if its inputs, settings or code changed.

    Raises:
        RagrayError: a stage cannot be done; what was finished before stays.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    store = Store(config.output)
    outcomes: dict[str, Outcome] = {}
    with _heeding_interrupts() as check:
        for stage in stages:
            started(stage)
            inputs = {need: outcomes[need].artifact for need in stage.needs}
            outcome = bring(config, store, stage, inputs, report, progress, warn)
            outcomes[stage.name] = outcome
            finished(outcome)
            check()
    return outcomes


@contextmanager
def _heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Remember Ctrl-C: the function that is given raises `KeyboardInterrupt` if it was pressed.

    In the main thread only, and where no other handler than Python's own is set.

    Python loses the exception where it comes up in a callback of C code, such as a destructor, a weak reference's or
    a compiler's, and the work would go on as if nothing had been pressed: it is raised again a moment later.
    """
    pressed: list[int] = []
    timers: list[threading.Timer] = []
    before = signal.getsignal(signal.SIGINT)
    show_unraisable = sys.unraisablehook

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            timers.append(threading.Timer(_AGAIN_S, _thread.interrupt_main))
            timers[-1].start()
        else:
            show_unraisable(unraisable)

    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield check
        return
    signal.signal(signal.SIGINT, note)
    sys.unraisablehook = lost
    try:
        yield check
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = show_unraisable
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class StageKey:
    """What a stage's artifact is made from, and the key that follows from it."""

    key: str
    sources: Mapping[str, Source]
    settings: Mapping[str, Any]
    code: str


def stage_key(config: RunConfig, stage: Stage, inputs: Mapping[str, Artifact]) -> StageKey:
    """The key of a stage's artifact, from its inputs, settings and code."""
    sources = {name: artifact.source() for name, artifact in inputs.items()} | dict(stage.sources(config))
    settings = {**stage.settings(config), "seed": config.seed, "format": stage.format_version}
    code = code_digest(stage.code)
    return StageKey(artifact_key(stage.name, sources, settings, code), sources, settings, code)


def bring(
    config: RunConfig,
    store: Store,
    stage: Stage,
    inputs: Mapping[str, Artifact],
    report: Report = lambda line: None,
    progress: Count = lambda done, total: None,
    warn: Report = lambda line: None,
) -> Outcome:
    """Run one stage, unless its artifact is there; `bring_up_to_date` says of what and to whom.

    Raises:
        RagrayError: it cannot be done.
    """
    begin = time.perf_counter()
    made_from = stage_key(config, stage, inputs)
    found = store.find(stage.name, made_from.key)
    skipped = found is not None
    with _turn(store, stage, made_from.key, report) if found is None else nullcontext(_nothing) as check:
        if found is None and stage.once:
            found = store.find(stage.name, made_from.key)  # another process may have made it meanwhile
            skipped = found is not None
        if found is None:
            with _draft(store, stage, made_from) as draft:
                work_folder = store.work_folder(stage.name, made_from.key)
                stage.build(Job(config, inputs, draft, work_folder, report, progress, warn))
                check()
            store.forget_work(stage.name, made_from.key)
            found = draft.result
            assert found is not None  # draft() sets it or raises
    return Outcome(stage, found, skipped, time.perf_counter() - begin)


def _nothing() -> None:
    """The check of what needs none."""


def _turn(store: Store, stage: Stage, key: str, report: Report) -> AbstractContextManager[Check]:
    """Wait until no other process makes this artifact, where the stage asks for it."""
    if not stage.once:
        return nullcontext(_nothing)
    return store.lock(stage.name, key, lambda holder: report(f"{stage.shown}: {holder} makes it; waiting"))


def _draft(store: Store, stage: Stage, made_from: StageKey) -> AbstractContextManager[Draft]:
    return store.draft(
        stage.name,
        made_from.key,
        format_version=stage.format_version,
        inputs=made_from.sources,
        config=made_from.settings,
        code=made_from.code,
    )
