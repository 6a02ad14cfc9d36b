"""Commands of other environments: run to the end, their output kept, ended when this process ends.

In: an argument vector and a log file. Out: nothing, or an error with the last lines.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ragray.errors import EngineError

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
_TAIL_LINES = 15


def run_logged(argv: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end; the command itself and its output are appended to `log`.

    Raises:
        EngineError: it cannot be started, or ended with an error; the message holds its last lines.
    """
    with log.open("ab") as stream:
        stream.write(f"$ {shlex.join(argv)}\n".encode())
        stream.flush()
        start = stream.tell()
        try:
            ran = subprocess.run(
                list(argv), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd,
                env=os.environ | dict(env or {}), preexec_fn=dies_with_parent(), check=False,
            )  # fmt: skip
        except OSError as error:
            raise EngineError(f"{argv[0]} cannot be started: {error.strerror}", "name an installed Python") from None
    if ran.returncode:
        raise EngineError(
            f"{shlex.join(argv[:4])} ended with code {ran.returncode}:\n{tail(log, start)}", f"read {log}"
        )


def tail(log: Path, start: int = 0) -> str:
    """The last lines of what a log holds from byte `start` on."""
    with log.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def dies_with_parent() -> Callable[[], None] | None:
    """What a child calls before it starts so that Linux ends it with its parent; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child may not load libraries
    return lambda: prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
