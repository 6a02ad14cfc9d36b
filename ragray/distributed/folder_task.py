"""A remote task whose result is a folder, wherever in the cluster it runs.

In: a function that fills a folder. Out: its result, and the folder's files written here. The task writes to
its own machine's disk and streams the files back in pieces, so no shared file system is needed. After a system fault
(a lost worker or node) it is started anew and nothing of the lost attempt is kept: Ray's own retry would go on
behind the pieces that arrived, and mix two attempts. An error of the work itself comes back as it was raised.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ragray.artifact import Artifact, Store, file_digest
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors, system_faults
from ragray.errors import RagrayError, WorkError

if TYPE_CHECKING:
    import ray

PIECE_BYTES = 64 * 2**20
_PIECES_AHEAD = 4  # that wait in the object store for their reader
_SOON_S = 2.0  # a task that has no place by then is said to wait

T = TypeVar("T")
Work = Callable[..., T]  # called with its arguments and, last, the folder to fill
Report = Callable[[str], None]


class _Damaged(Exception):
    """What arrived is not what the task wrote."""


@dataclass(frozen=True)
class Limits:
    """How long a task may take, seconds."""

    wait_s: float  # for its place in the cluster
    run_s: float  # from its start until its files are here


@dataclass
class FolderTask(Generic[T]):
    """A task that was started; `collect` waits for it."""

    name: str
    submit: Callable[[], ray.ObjectRefGenerator]
    limits: Limits
    unplaced: Callable[[], RagrayError]
    report: Report
    _pieces: ray.ObjectRefGenerator = field(init=False)
    _started: float = field(init=False)  # by time.monotonic

    def __post_init__(self) -> None:
        self._submit()

    def collect(self, folder: Path) -> T:
        """Write the task's files below `folder` and return the work's result.

        Raises:
            RagrayError: as the work raised it.
            WorkError: the workers were lost too often, or a time limit passed.
        """
        faults: tuple[type[Exception], ...] = (*system_faults(), _Damaged)
        lost = 0
        with plain_errors(self.name):
            while True:
                try:
                    return self._attempt(folder)
                except faults as error:
                    lost += 1
                    if lost > TASK_RETRIES:
                        if isinstance(error, _Damaged):
                            raise WorkError(f"{self.name}: {error}, {lost} times", "check that node's disk") from None
                        raise
                    self.report(f"{self.name}: its worker was lost; started anew, {lost} of {TASK_RETRIES}")
                    self._submit()

    def _submit(self) -> None:
        self._pieces, self._started = self.submit(), time.monotonic()

    def _attempt(self, folder: Path) -> T:
        """One attempt: its files arrive aside, and are put in place once all of them are here and right."""
        aside = folder / f".{uuid.uuid4().hex}"
        aside.mkdir(parents=True)
        try:
            self._wait_for_place()
            deadline = time.monotonic() + self.limits.run_s
            result: T = self._next(deadline)
            while isinstance(piece := self._next(deadline), tuple):
                _append(aside, *piece)
            _check(aside, piece)
            for name in piece:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (aside / name).replace(folder / name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return result

    def _wait_for_place(self) -> None:
        """Wait until the task says that it runs."""
        deadline = self._started + self.limits.wait_s
        if not self._ready(min(_SOON_S, self.limits.wait_s)):
            self.report(f"{self.name}: waits for a place in the cluster, at most {self.limits.wait_s:.0f} s")
            if not self._ready(deadline - time.monotonic()):
                self._cancel()
                raise self.unplaced()
        self._get()

    def _next(self, deadline: float) -> Any:
        if not self._ready(deadline - time.monotonic()):
            self._cancel()
            raise WorkError(
                f"{self.name}: not finished within {self.limits.run_s:.0f} s of its start",
                "raise its time limit, or give it a faster machine",
            )
        return self._get()

    def _ready(self, timeout_s: float) -> bool:
        import ray

        return bool(ray.wait([self._pieces], timeout=max(timeout_s, 0.0), fetch_local=False)[0])

    def _get(self) -> Any:
        import ray

        return ray.get(next(self._pieces))

    def _cancel(self) -> None:
        import ray

        ray.cancel(self._pieces, force=True)


def start(
    name: str,
    work: Work[T],
    *arguments: Any,
    options: Mapping[str, Any],
    limit_s: float,
    wait_s: float | None = None,
    unplaced: Callable[[], RagrayError] | None = None,
    report: Report = lambda line: None,
) -> FolderTask[T]:
    """Start `work(*arguments, folder)` as a Ray task.

    Args:
        name: for messages.
        work: a module-level function.
        arguments: its arguments, without the last one.
        options: Ray's options for where it runs, such as num_cpus or accelerator_type.
        limit_s: how long it may run, seconds.
        wait_s: how long it may wait for its place, seconds; by default as long as it may run.
        unplaced: the error of a task that found no place.
        report: hears what becomes of it.
    """
    import ray

    remote: Any = ray.remote(_stream).options(
        max_retries=0,
        num_returns="streaming",
        _generator_backpressure_num_objects=_PIECES_AHEAD,
        **options,
    )
    limits = Limits(limit_s if wait_s is None else wait_s, limit_s)
    return FolderTask(
        name, lambda: remote.remote(work, arguments), limits, unplaced or (lambda: _no_place(name, limits)), report
    )


def collect_all(tasks: Sequence[FolderTask[T]], folders: Sequence[Path]) -> list[T]:
    """`collect` for each of the tasks, into its folder.

    All at once: a task keeps its CPU until its files are fetched, and another one may wait for it.
    """
    with ThreadPoolExecutor(max(len(tasks), 1)) as threads:
        return list(threads.map(FolderTask.collect, tasks, folders))


def local_folder(artifact: Artifact) -> Path:
    """An artifact's folder on the machine where this runs; a remote store's files are fetched."""
    if "://" not in artifact.uri:
        return artifact.folder.absolute()
    return Store(artifact.uri.rsplit("/", 2)[0]).open(artifact.uri).folder


def _no_place(name: str, limits: Limits) -> WorkError:
    return WorkError(
        f"{name}: found no place in the cluster within {limits.wait_s:.0f} s",
        "check that the cluster has room: `ray status`",
    )


def _stream(work: Work[T], arguments: tuple[Any, ...]) -> Iterator[Any]:
    """None when it runs, the result, then `(path, piece)` for the files in order, then {path: sha256}."""
    yield None
    digests = {}
    with tempfile.TemporaryDirectory(prefix="ragray-task-") as name:
        folder = Path(name)
        yield work(*arguments, folder)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest, part = hashlib.sha256(), str(path.relative_to(folder))
            with path.open("rb") as stream:
                piece = stream.read(PIECE_BYTES)
                while True:
                    digest.update(piece)
                    yield part, piece
                    if not (piece := stream.read(PIECE_BYTES)):
                        break
            digests[part] = digest.hexdigest()
    yield digests


def _append(folder: Path, name: str, piece: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        stream.write(piece)


def _check(folder: Path, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise _Damaged(f"{name} arrived otherwise than it was written")
