"""One process at a time, on one machine or many: for work that two must not do at once.

In: a path, in a local or shared file system or in an object store. Out: a lock that does not outlive its holder.
In a file system the kernel lets go of it when the process ends, however it ends. An object store has no locks: there
a small object names the holder, who writes it anew every few seconds; one that stands still is taken over.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

from ragray.errors import WorkError

BEAT_S = 5.0  # between two signs of life of a holder in an object store
STALE_S = 30.0  # without a sign of life, after which another takes over
SETTLE_S = 2.0  # within which two that write at once are both seen
_POLL_S = 0.2

Waiting = Callable[[str], None]  # hears who holds the lock
Check = Callable[[], None]  # raises WorkError when the lock was lost


@contextmanager
def file_lock(path: Path, waiting: Waiting) -> Iterator[Check]:
    """Hold the lock of a file, which is made and removed again.

    Source: flock(2); on NFS the server's lock manager does the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path, waiting)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, _me().encode())
        yield lambda: None
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, waiting: Waiting) -> int:
    """A descriptor that holds the lock of the file that has this name now."""
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                waiting(os.pread(descriptor, 200, 0).decode(errors="replace") or "another process")
                told = True
            os.close(descriptor)
            time.sleep(_POLL_S)
            continue
        if _same(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder removed it


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def object_lock(
    files: pafs.FileSystem,
    path: str,
    waiting: Waiting,
    beat_s: float = BEAT_S,
    stale_s: float = STALE_S,
    settle_s: float = SETTLE_S,
) -> Iterator[Check]:
    """Hold the lock that an object stands for. Call the check that is given before what must be done by one alone.

    Two who take over within the same few moments may both go on until the check of one of them.
    """
    lease = _Lease(files, path, beat_s)
    lease.acquire(waiting, stale_s, settle_s)
    stop = threading.Event()
    beating = threading.Thread(target=lease.beat, args=(stop,), daemon=True)
    beating.start()
    try:
        yield lease.check
    finally:
        stop.set()
        beating.join()
        lease.release()


class _Lease:
    """The object of a lock: the holder's mark, a count that grows, and who it is, a line each."""

    def __init__(self, files: pafs.FileSystem, path: str, beat_s: float) -> None:
        self._files, self._path, self._beat_s = files, path, beat_s
        self._mark, self._beats, self._lost = uuid.uuid4().hex, 0, False
        self._writing = threading.Lock()  # in a file system an object that is being written is empty for a moment

    def acquire(self, waiting: Waiting, stale_s: float, settle_s: float) -> None:
        seen, since, told = self._read(), time.monotonic(), False
        while True:
            if seen is None or time.monotonic() - since > stale_s:
                self._write()
                time.sleep(settle_s)
                if self._mine():
                    return
            elif not told:
                waiting((seen.splitlines() or ["another process"])[-1])
                told = True
            time.sleep(min(_POLL_S, self._beat_s))
            if (now := self._read()) != seen:
                seen, since = now, time.monotonic()

    def beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._beat_s) and not self._lost:
            with self._writing:
                if self._mine():
                    self._write()
                else:
                    self._lost = True

    def check(self) -> None:
        with self._writing:
            lost = self._lost or not self._mine()
        if lost:
            raise WorkError(
                f"{self._path}: another process took over, as this one gave no sign of life",
                "run it again: what the other one made is used",
            )

    def release(self) -> None:
        if self._mine():
            self._files.delete_file(self._path)

    def _mine(self) -> bool:
        text = self._read()
        return text is not None and text.startswith(self._mark)

    def _read(self) -> str | None:
        try:
            with self._files.open_input_stream(self._path) as stream:
                text: str = stream.read().decode()
        except FileNotFoundError:
            return None
        return text

    def _write(self) -> None:
        self._beats += 1
        with self._files.open_output_stream(self._path) as stream:
            stream.write(f"{self._mark}\n{self._beats}\n{_me()}".encode())
