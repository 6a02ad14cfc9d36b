"""Which Ray a `ragray serve` of this user runs on, so that another terminal finds it by its port.

In: a port. Out: a connection to that Ray. Its address and mode of authentication are in a file in a folder that this
user alone can write, as whoever is named there gets the cluster's token.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragray.errors import WorkError

_MODE = "RAY_AUTH_MODE"  # Ray 2.60 sets it where it starts a local Ray, and reads it when it is imported


@contextmanager
def noted(port: int, address: str) -> Iterator[None]:
    """While this process serves on `port` by the Ray at `address`."""
    note = _folder() / f"{port}.json"
    part = note.with_suffix(f".{os.getpid()}")
    told = {"address": address, "pid": os.getpid(), "auth_mode": os.environ.get(_MODE)}
    part.write_text(json.dumps(told), encoding="utf-8")
    part.replace(note)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def join_service(port: int) -> None:
    """Connect this process to the Ray of the service on `port`. It must not have imported ray before.

    Raises:
        WorkError: no `ragray serve` of this user runs there, or its Ray does not answer.
    """
    address, mode = _note(port)
    if mode is not None:
        os.environ.setdefault(_MODE, mode)
    from ragray.distributed.session import join

    join(address)


def _note(port: int) -> tuple[str, str | None]:
    """(address, mode of authentication)."""
    try:
        told = json.loads((_folder() / f"{port}.json").read_text(encoding="utf-8"))
        os.kill(told["pid"], 0)  # raises where there is no such process
        return told["address"], told["auth_mode"]
    except (FileNotFoundError, ProcessLookupError, PermissionError, ValueError, KeyError):
        pass  # none, one of a process that was killed, or one that was cut
    raise WorkError(
        f"no `ragray serve` of yours runs on port {port}",
        "name its port by --port; for an application of `serve run` or `serve deploy` set RAY_ADDRESS",
    )


def _folder() -> Path:
    """Of mode 700.

    Raises:
        WorkError: somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"ragray-serve-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise WorkError(f"{folder}: is not a folder of yours alone", "remove it")
    return folder
