"""A remote task whose result is a folder, wherever in the cluster it runs.

In: a function that fills a folder. Out: its result, and the folder's files written here. The task writes to
its own machine's disk and streams the files back in pieces, so no shared file system is needed. System faults
(a lost worker or node) are retried; an error of the work itself comes back as it was raised.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ragray.artifact import Artifact, Store
from ragray.distributed.task_errors import TASK_RETRIES, plain_errors
from ragray.errors import WorkError

if TYPE_CHECKING:
    import ray

PIECE_BYTES = 64 * 2**20
_PIECES_AHEAD = 4  # that wait in the object store for their reader

T = TypeVar("T")
Work = Callable[..., T]  # called with its arguments and, last, the folder to fill


@dataclass(frozen=True)
class FolderTask(Generic[T]):
    """A running task; `collect` waits for it."""

    name: str
    deadline: float  # by time.monotonic
    limit_s: float
    pieces: ray.ObjectRefGenerator

    def collect(self, folder: Path) -> T:
        """Write the task's files below `folder` and return the work's result.

        Raises:
            RagrayError: as the work raised it.
            WorkError: the workers were lost too often, or the time limit passed.
        """
        with plain_errors(self.name):
            result: T = self._next()
            while (piece := self._next()) is not None:
                _append(folder, *piece)
        return result

    def _next(self) -> Any:
        import ray

        left = max(self.deadline - time.monotonic(), 0.0)
        ready, _ = ray.wait([self.pieces], timeout=left, fetch_local=False)
        if not ready:
            ray.cancel(self.pieces, force=True)
            raise WorkError(
                f"{self.name}: not finished within {self.limit_s:.0f} s",
                "check that the cluster has room: `ray status`",
            )
        return ray.get(next(self.pieces))


def start(name: str, work: Work[T], *arguments: Any, options: Mapping[str, Any], limit_s: float) -> FolderTask[T]:
    """Start `work(*arguments, folder)` as a Ray task.

    Args:
        name: for messages.
        work: a module-level function.
        arguments: its arguments, without the last one.
        options: Ray's options for where it runs, such as num_cpus or accelerator_type.
        limit_s: waiting and running together, seconds.
    """
    import ray

    task: Any = ray.remote(_stream).options(
        max_retries=TASK_RETRIES,
        num_returns="streaming",
        _generator_backpressure_num_objects=_PIECES_AHEAD,
        **options,
    )
    return FolderTask(name, time.monotonic() + limit_s, limit_s, task.remote(work, arguments))


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


def _stream(work: Work[T], arguments: tuple[Any, ...]) -> Iterator[Any]:
    """The result, then `(path, piece)` for the files in order, then None."""
    with tempfile.TemporaryDirectory(prefix="ragray-task-") as name:
        folder = Path(name)
        yield work(*arguments, folder)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb") as stream:
                yield str(path.relative_to(folder)), stream.read(PIECE_BYTES)
                while piece := stream.read(PIECE_BYTES):
                    yield str(path.relative_to(folder)), piece
    yield None


def _append(folder: Path, name: str, piece: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        stream.write(piece)
