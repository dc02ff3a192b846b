"""Loops compiled by numba."""

from collections.abc import Callable

import numba


def compiled(function: Callable, **settings) -> Callable:
    """The function compiled by numba, without the GIL; cached on disk if possible."""
    try:
        return numba.njit(nogil=True, cache=True, **settings)(function)
    except RuntimeError:
        # Installation and home cannot be written: compiled again in each process.
        return numba.njit(nogil=True, **settings)(function)
