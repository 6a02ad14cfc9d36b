"""How loops over arrays are compiled: the one place for numba's options.

Compiled code is kept in `__pycache__`, and releases the GIL while it runs. What numba needs before it can load any of
it is made ready when this module is imported: the first call does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.registry import cpu_target
from numba.np import linalg


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that makes no arrays and calls none that returns one; to make one is an error of numba.

    Its arrays live as long as the call, so they are not reference-counted (numba's option `_nrt`, used in its own
    library). Counting is atomic and is not always optimized away: without it `prepare` took 8 % less time, and a search
    of eight terms 15 % less.
    """
    return njit(cache=True, nogil=True, _nrt=False)(function)


def array_kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that makes arrays; what is hot in it should be a `kernel` that it calls."""
    return njit(cache=True, nogil=True, _nrt=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function part of each kernel that calls it."""
    return njit(cache=True, inline="always")(function)


def _start() -> None:
    """Make numba ready: .13 s, and .11 s less than by itself, because scipy is not imported.

    It imports scipy's linear algebra to know whether there is one; ragray has no use for it. Whoever compiles a matrix
    product gets it all the same, and is told if it is missing.
    """
    look = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401  looks for it
    finally:
        linalg.ensure_blas = look
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


_start()
