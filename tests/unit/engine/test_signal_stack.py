"""A library may set a signal stack: afterwards the thread has its own again."""

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ragray.engine.signal_stack import kept_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is kept")

_SIZE = 1 << 16
_DISABLED = 2


class Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def put(stack: Stack) -> None:
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0


def now() -> tuple[int | None, int]:
    """(address, flags) of this thread's signal stack."""
    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address, found.flags


def in_a_thread(work: Callable[[], None]) -> None:
    """Run it in a new thread, which has no signal stack, and raise what it raises."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


@pytest.mark.parametrize("fails", [False, True])
def test_the_stack_before_is_the_stack_after(fails: bool) -> None:
    own, other = (ctypes.create_string_buffer(_SIZE) for _ in range(2))

    def work() -> None:
        put(Stack(ctypes.addressof(own), 0, _SIZE))
        try:
            with kept_signal_stack():
                put(Stack(ctypes.addressof(other), 0, _SIZE))
                assert now() == (ctypes.addressof(other), 0)
                if fails:
                    raise RuntimeError("cannot load")
        except RuntimeError:
            assert fails
        assert now() == (ctypes.addressof(own), 0)
        put(Stack(None, _DISABLED, 0))

    in_a_thread(work)


def test_a_thread_without_one_has_none_afterwards() -> None:
    other = ctypes.create_string_buffer(_SIZE)

    def work() -> None:
        assert now()[1] == _DISABLED
        with kept_signal_stack():
            put(Stack(ctypes.addressof(other), 0, _SIZE))
        assert now()[1] == _DISABLED

    in_a_thread(work)
