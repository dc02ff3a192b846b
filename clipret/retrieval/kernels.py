"""Compiled loops over a tile of scores: the number of scores below each matching pair's edge, and the best items.

An edge is a pair's score minus the tie tolerance, in float64. The scores of a tile are float32, so each edge has two
bounds: scores less than `low` are below it, scores not less than `high` are not, and the few in between are recomputed
in float64. So counts depend neither on the tiles nor on the order of summation.

All comparisons are "less than": they are false for NaN, which therefore counts against the pair.
"""

from functools import partial

import numpy as np

from clipret.machine.compiling import compiled

# Small, so that little is read again when a score is close to an edge.
_SCORES_AT_ONCE = 1024


# Allows sums in any order; without that they are not vectorised.
@partial(compiled, fastmath={"reassoc", "contract"})
def dot(left, right):
    """Product of two rows, in float64."""
    total = 0.0
    for place in range(left.size):
        total += np.float64(left[place]) * np.float64(right[place])
    return total


@compiled
def dots(left, right, left_rows, right_rows):
    """(P,) float64 products of left[left_rows[p]] with right[right_rows[p]]."""
    products = np.empty(left_rows.size, dtype=np.float64)
    for pair in range(left_rows.size):
        products[pair] = dot(left[left_rows[pair]], right[right_rows[pair]])
    return products


@compiled
def _below(scores, low, high):
    """The numbers of scores less than low, and less than high."""
    surely, perhaps = np.int32(0), np.int32(0)
    for place in range(scores.size):
        surely += np.int32(scores[place] < low)
        perhaps += np.int32(scores[place] < high)
    return surely, perhaps


@compiled
def _settle(scores, low, high, edge, query, items):
    """The number of scores from low to high that are below the edge in float64. items (len(scores), E): their items."""
    count = 0
    for place in range(scores.size):
        if not scores[place] < low and scores[place] < high and dot(query, items[place]) < edge:
            count += 1
    return count


@compiled
def _count_row(scores, pairs, query, items, edges, below):
    low, high, exact = edges
    for pair in range(pairs[0], pairs[1]):
        for first in range(0, scores.size, _SCORES_AT_ONCE):
            last = min(first + _SCORES_AT_ONCE, scores.size)
            surely, perhaps = _below(scores[first:last], low[pair], high[pair])
            below[pair] += surely
            if surely != perhaps:
                some = items[first:last]
                below[pair] += _settle(scores[first:last], low[pair], high[pair], exact[pair], query, some)


@compiled
def count_rows(tile, queries, items, starts, matching, edges, below):
    """Add to `below` the number of scores in each query's row that are below its pairs' edges, without matching items.

    tile      (B, C) scores of queries (B, E) with items (C, E)
    starts    (B + 1,) the pairs of each row
    matching  (P,) column of each pair's item, which may be outside of the tile
    edges     low, high and edges (P,) as in ties.Edges
    below     (P,)
    """
    for row in range(tile.shape[0]):
        scores, pairs = tile[row], (starts[row], starts[row + 1])
        # Set above every edge while the row is counted, so that they are not counted.
        own_scores = np.empty(pairs[1] - pairs[0], dtype=np.float32)
        for place in range(own_scores.size):
            column = matching[pairs[0] + place]
            if 0 <= column < scores.size:
                own_scores[place], scores[column] = scores[column], np.inf
        _count_row(scores, pairs, queries[row], items, edges, below)
        for place in range(own_scores.size):
            column = matching[pairs[0] + place]
            if 0 <= column < scores.size:
                scores[column] = own_scores[place]


@compiled
def _below_each(tile, low, high, surely, perhaps):
    """As _below, for all columns at once: low, high, surely, perhaps (C,)."""
    for first in range(0, tile.shape[1], _SCORES_AT_ONCE):
        last = min(first + _SCORES_AT_ONCE, tile.shape[1])
        lows, highs, sure, may = low[first:last], high[first:last], surely[first:last], perhaps[first:last]
        for row in range(tile.shape[0]):
            scores = tile[row][first:last]
            for place in range(scores.size):
                sure[place] += np.int32(scores[place] < lows[place])
                may[place] += np.int32(scores[place] < highs[place])


@compiled
def _count_single_columns(tile, queries, items, starts, matching, edges, below):
    low, high, exact = edges
    height, width = tile.shape
    lows, highs = np.full(width, -np.inf, dtype=np.float32), np.full(width, -np.inf, dtype=np.float32)
    surely, perhaps = np.zeros(width, dtype=np.int32), np.zeros(width, dtype=np.int32)
    own_scores = np.empty(width, dtype=np.float32)
    singles = np.flatnonzero(starts[1:] - starts[:-1] == 1)
    for column in singles:
        pair = starts[column]
        lows[column], highs[column] = low[pair], high[pair]
        if 0 <= matching[pair] < height:
            own_scores[column], tile[matching[pair], column] = tile[matching[pair], column], np.inf
    _below_each(tile, lows, highs, surely, perhaps)
    for column in singles:
        pair = starts[column]
        below[pair] += surely[column]
        if surely[column] != perhaps[column]:
            scores = tile[:, column].copy()
            below[pair] += _settle(scores, low[pair], high[pair], exact[pair], queries[column], items)
        if 0 <= matching[pair] < height:
            tile[matching[pair], column] = own_scores[column]


@compiled
def count_columns(tile, queries, items, starts, matching, edges, below):
    """As count_rows, for the columns of the tile: tile (B, C), queries (C, E), items (B, E), starts (C + 1,).

    Columns with a single pair, as captions have, are counted together; any other is copied and counted as a row.
    """
    _count_single_columns(tile, queries, items, starts, matching, edges, below)
    for column in np.flatnonzero(starts[1:] - starts[:-1] > 1):
        pairs, scores = (starts[column], starts[column + 1]), tile[:, column].copy()
        for pair in range(pairs[0], pairs[1]):
            if 0 <= matching[pair] < scores.size:
                scores[matching[pair]] = np.inf
        _count_row(scores, pairs, queries[column], items, edges, below)


@compiled
def insert(score, item, scores, items):
    """Insert an item into the sorted best items if it is good enough. Higher scores first; ties: lower row first."""
    last = scores.size - 1
    # NaN counts as the highest score, so that broken embeddings do not look good.
    score = np.float32(np.inf) if np.isnan(score) else score
    if score < scores[last] or (score == scores[last] and item > items[last]):
        return
    place = last
    while place > 0 and (score > scores[place - 1] or (score == scores[place - 1] and item < items[place - 1])):
        scores[place], items[place] = scores[place - 1], items[place - 1]
        place -= 1
    scores[place], items[place] = score, item


@compiled
def keep_best(tile, row_items, column_items, row_best, column_best):
    """Update the best items so far with those of a tile.

    row_items     (B,) and column_items (C,): gallery rows of the tile's rows and columns
    row_best      scores (B, T) float32 and items (B, T) int64: the best columns of each row
    column_best   the same, (C, T): the best rows of each column
    """
    for row in range(tile.shape[0]):
        for column in range(tile.shape[1]):
            score = tile[row, column]
            if not score < row_best[0][row, -1]:
                insert(score, column_items[column], row_best[0][row], row_best[1][row])
            if not score < column_best[0][column, -1]:
                insert(score, row_items[row], column_best[0][column], column_best[1][column])
