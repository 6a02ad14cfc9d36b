"""The memory of this process.

In: Linux's status of it, or what POSIX tells elsewhere. Out: bytes.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """What this process holds now; where only the peak can be asked, the peak."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    lines = (line.partition(":") for line in _STATUS.read_text(encoding="ascii").splitlines())
    return next((int(value.split()[0]) * 1024 for key, _, value in lines if key == name), None)
