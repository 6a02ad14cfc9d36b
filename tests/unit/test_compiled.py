"""What compiled functions may do."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from numba.core.errors import NumbaError

from ragray.compiled import array_kernel, inlined, kernel


@inlined
def _squared(value):
    return value * value


@array_kernel
def _sort(values):
    values[:] = np.sort(values)


@kernel
def _sort_for(values):
    _sort(values)


@kernel
def _add_squares(values, found):
    for k in range(len(values)):
        found[k] += _squared(values[k])


@kernel
def _makes_an_array(values):
    return values + np.ones(3)


def test_kernels_write_to_the_arrays_they_are_given():
    found = np.ones(3)
    _add_squares(np.array([1.0, 2.0, 3.0]), found)
    assert found.tolist() == [2.0, 5.0, 10.0]


def test_a_kernel_that_makes_an_array_does_not_compile():
    with pytest.raises(NumbaError):
        _makes_an_array(np.ones(3))


def test_a_kernel_calls_one_that_makes_arrays():
    values = np.array([3, 1, 2])
    _sort_for(values)
    assert values.tolist() == [1, 2, 3]


def test_a_kernel_leaves_its_arguments_to_their_owner():
    values, found = np.ones(3), np.zeros(3)
    gone = weakref.ref(values)
    for _ in range(3):
        _add_squares(values, found)
    del values
    gc.collect()
    assert gone() is None
    assert found.tolist() == [3.0] * 3


_STARTED = """
import sys
import ragray.compiled
assert "scipy.linalg" not in sys.modules
from numba.np import arraymath, linalg
assert linalg.ensure_blas.__module__ == linalg.__name__
from numba import njit
import numpy as np
assert njit(lambda a, b: np.dot(a, b))(np.ones(3), np.ones(3)) == 3.0
assert "scipy.linalg" in sys.modules
"""


def test_scipy_is_imported_by_those_alone_who_multiply_matrices():
    pytest.importorskip("scipy")
    subprocess.run([sys.executable, "-c", _STARTED], check=True)
