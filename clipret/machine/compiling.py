"""Loops as machine code."""

from collections.abc import Callable

import numba


def compiled(function: Callable, **settings) -> Callable:
    """The function as machine code, without Python's lock; kept on disk where there is a place for it."""
    try:
        return numba.njit(nogil=True, cache=True, **settings)(function)
    except RuntimeError:
        # A read-only installation of a user without a home: compiled anew in each process.
        return numba.njit(nogil=True, **settings)(function)
