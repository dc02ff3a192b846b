import numpy as np

from clipret.retrieval.ranks import Ranks


def test_ranks_of_some_queries_are_taken_from_others_with_their_best_items():
    offsets, rows = np.array([0, 2, 3, 6]), np.array([1, 4, 5])
    first = Ranks(np.array([1, 2, 3, 4, 5, 6]), offsets, 9, rows=rows, top=np.array([[1], [2], [3]]))
    second = Ranks(np.array([7, 8, 9, 1, 2, 3]), offsets, 9, rows=rows, top=np.array([[7], [8], [0]]))
    mixed = first.replaced(second, where=np.array([False, True, True]))
    assert mixed.ranks.tolist() == [1, 2, 9, 1, 2, 3]
    assert mixed.top.tolist() == [[1], [8], [0]]
    assert (mixed.offsets.tolist(), mixed.rows.tolist(), mixed.gallery) == ([0, 2, 3, 6], [1, 4, 5], 9)
    assert first.ranks.tolist() == [1, 2, 3, 4, 5, 6]
