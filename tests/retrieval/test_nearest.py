"""The best items against a plain sort in float64."""

import numpy as np
import pytest

from clipret.retrieval import nearest as module
from clipret.retrieval.nearest import nearest


def unit(rng, rows, width, dtype=np.float32):
    values = rng.standard_normal((rows, width)).astype(np.float32)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(dtype)


def sorted_naively(queries, items, *, k, rows=None):
    rows = np.arange(len(items)) if rows is None else rows
    best = []
    for query in queries.astype(np.float64):
        scores = [sum(query * items[row].astype(np.float64)) for row in rows]
        best.append(sorted(zip(scores, rows, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k])
    return best


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("queries", [1, 4, 5, 33])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_best_are_those_of_a_sort_in_float64(dtype, queries, threads, monkeypatch):
    rng = np.random.default_rng(queries)
    items, asked = unit(rng, 301, 19, dtype), unit(rng, queries, 19)
    monkeypatch.setattr(module, "_SPAN", 100)
    monkeypatch.setattr(module, "_BLOCK", 70)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: threads)
    # Which would be given back as the number that it was.
    monkeypatch.setattr(module.torch, "set_num_threads", lambda count: None)

    scores, rows = nearest(asked, items, k=7)

    expected = sorted_naively(asked, items, k=7)
    assert rows.tolist() == [[row for _, row in best] for best in expected]
    np.testing.assert_allclose(scores, [[score for score, _ in best] for best in expected], atol=1e-12)


@pytest.mark.parametrize("queries", [1, 9])
def test_without_the_instruction_for_halves_the_best_are_the_same(queries, monkeypatch):
    rng = np.random.default_rng(0)
    items, asked = unit(rng, 50, 8, np.float16), unit(rng, queries, 8)
    expected = nearest(asked, items, k=5)
    monkeypatch.setattr(module, "HALVES", False)
    for ours, theirs in zip(nearest(asked, items, k=5), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("queries", [2, 20])
def test_only_the_given_rows_are_searched(queries):
    rng = np.random.default_rng(1)
    items, asked, rows = unit(rng, 90, 12), unit(rng, queries, 12), np.arange(3, 90, 4)
    _, best = nearest(asked, items, k=5, rows=rows)
    expected = sorted_naively(asked, items, k=5, rows=rows)
    assert best.tolist() == [[row for _, row in few] for few in expected]


@pytest.mark.parametrize("queries", [1, 8])
def test_equal_items_come_by_row_however_many_there_are(queries):
    rng = np.random.default_rng(2)
    asked = unit(rng, queries, 16)
    # Far more copies of the best than candidates are kept.
    items = np.concatenate([unit(rng, 40, 16), np.repeat(asked[:1], 3000, axis=0), unit(rng, 40, 16)])
    scores, rows = nearest(asked[:1].repeat(queries, axis=0), items, k=10)
    assert rows.tolist() == [list(range(40, 50))] * queries
    assert (scores == scores[0, 0]).all()


def test_what_float32_cannot_tell_apart_is_decided_in_float64():
    rng = np.random.default_rng(3)
    query = unit(rng, 1, 64)
    # Scores that differ by far less than their rounding in float32.
    items = query.repeat(400, axis=0)
    items[:, 0] = np.nextafter(items[:, 0], np.float32(2) * np.sign(items[0, 0]))
    winner = 371
    items[winner, :5] = np.nextafter(items[winner, :5], 2 * np.sign(items[winner, :5]))
    _, rows = nearest(query, items, k=1)
    assert rows[0, 0] == sorted_naively(query, items, k=1)[0][0][1] == winner


@pytest.mark.parametrize(("count", "k", "kept"), [(3, 10, 3), (0, 10, 0), (5, 0, 0)])
def test_there_are_no_more_than_there_are_items(count, k, kept):
    rng = np.random.default_rng(4)
    scores, rows = nearest(unit(rng, 2, 8), unit(rng, count, 8), k=k)
    assert scores.shape == rows.shape == (2, kept)


def test_no_queries_have_no_best():
    rng = np.random.default_rng(5)
    assert nearest(unit(rng, 0, 8), unit(rng, 4, 8), k=2)[1].shape == (0, 2)


def test_a_memory_map_is_read_as_an_array_is(tmp_path):
    rng = np.random.default_rng(6)
    items, asked = unit(rng, 200, 24, np.float16), unit(rng, 3, 24)
    np.save(tmp_path / "items.npy", items)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    assert nearest(asked, mapped, k=4)[1].tolist() == nearest(asked, items, k=4)[1].tolist()
