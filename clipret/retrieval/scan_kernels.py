"""Compiled loops over embeddings in memory or mapped from a file: scores of a few queries, and the best items of many.

Numbers of float16 come as the uint16 of their bits, which are read with half the traffic of float32.
"""

from functools import partial

import numpy as np
from numba.core import types
from numba.extending import overload

from clipret.machine.compiling import compiled
from clipret.machine.instructions import single_of_half
from clipret.retrieval.kernels import insert

# Scores whose largest is looked at before any of them is.
_SCORES_AT_ONCE = 128


def _number(value):
    """A float32 of a number as it is stored; compiled only."""
    raise NotImplementedError


@overload(_number, inline="always")
def _compiled_number(value):
    if value == types.uint16:
        return lambda value: single_of_half(value)
    return lambda value: value


# Allows sums in any order; without that they are not vectorised.
@partial(compiled, fastmath={"reassoc", "contract"})
def _score(query, item):
    total = np.float32(0)
    for place in range(query.size):
        total += query[place] * _number(item[place])
    return total


@compiled
def scan(items, rows, first, last, query, scores, best):
    """Update a query's best items with those at places first to last.

    items   (N, E) float32, or the bits of float16
    rows    (n,) int64: the items that are looked at; empty: all of them
    query   (E,) float32
    scores  (T,) float32 and best (T,) int64: the best so far, higher scores first; ties: lower row first
    """
    for place in range(first, last):
        row = rows[place] if rows.size else place
        score = _score(query, items[row])
        if not score < scores[-1]:
            insert(score, row, scores, best)


@compiled
def widen(items, rows, first, last, values):
    """Items at places first to last, as float32, into values (last - first, E)."""
    for place in range(first, last):
        row = rows[place] if rows.size else place
        for column in range(items.shape[1]):
            values[place - first, column] = _number(items[row, column])


@partial(compiled, fastmath={"reassoc"})
def _largest(scores):
    largest = scores[0]
    for place in range(1, scores.size):
        largest = max(largest, scores[place])
    return largest


@compiled
def keep_rows(tile, numbers, scores, best):
    """Update the best items of Q queries with a tile of scores (Q, B) of the items `numbers` (B,).

    scores, best  (Q, T), as of `scan`
    """
    for query in range(tile.shape[0]):
        for first in range(0, tile.shape[1], _SCORES_AT_ONCE):
            some = tile[query, first : first + _SCORES_AT_ONCE]
            if _largest(some) < scores[query, -1]:
                continue
            for place in range(some.size):
                if not some[place] < scores[query, -1]:
                    insert(some[place], numbers[first + place], scores[query], best[query])
