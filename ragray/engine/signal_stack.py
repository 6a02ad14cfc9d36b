"""A thread keeps its signal stack although a library sets another one.

OpenVINO's CPU plugin gives the thread that loads it a stack for signal handlers, and unmaps it when it is unloaded,
perhaps after the next one was set, or in another thread. Python's handlers run on whatever stack is set: once it is
unmapped, Ctrl-C ends the process by a segmentation fault.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DISABLED = 2  # SS_DISABLE: handlers run on the thread's own stack


class _Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """The calling thread has the same signal stack afterwards, or none where that is too small by then.

    Raises:
        OSError: the system refuses both.
    """
    if sys.platform != "linux":  # elsewhere OpenVINO sets none
        yield
        return
    libc, before = ctypes.CDLL(None, use_errno=True), _Stack()
    if libc.sigaltstack(None, ctypes.byref(before)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield
    finally:
        none = _Stack(None, _DISABLED, 0)
        if libc.sigaltstack(ctypes.byref(before), None) and libc.sigaltstack(ctypes.byref(none), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
