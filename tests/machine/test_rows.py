import numpy as np
import pytest
import torch

from clipret.machine.rows import among_others, batches_of_a_length


@pytest.fixture
def threads():
    """Sets torch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("number", "count", "computed"),
    [(1, 1, 8), (1, 7, 8), (1, 8, 8), (1, 9, 9), (2, 9, 16), (2, 16, 16), (2, 17, 17), (5, 39, 40), (5, 41, 41)],
)
def test_few_rows_are_computed_as_more_and_come_back_as_they_were(number, count, computed, threads):
    threads(number)
    shapes = []

    def double(rows):
        shapes.append(tuple(rows.shape))
        return rows * 2

    rows = torch.arange(count * 6.0).view(count, 2, 3)
    assert torch.equal(among_others(double, rows), rows * 2)
    assert shapes == [(computed, 2, 3)]


@pytest.mark.parametrize("number", [1, 2, 3, 8, 16])
def test_a_row_has_the_bits_that_it_has_among_many(number, threads):
    """On one thread, with whatever number of threads and of others it is computed."""
    weight = torch.randn(192, 128, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(300, 192, generator=torch.Generator().manual_seed(1))
    threads(1)
    together = rows @ weight
    threads(number)
    for count in (*range(1, 40), 63, 130, 300):
        few = among_others(lambda part: part @ weight, rows[:count])
        assert torch.equal(few, together[:count]), f"{count} rows"


def test_batches_have_one_length_and_at_most_so_many():
    lengths = np.random.default_rng(0).integers(3, 9, size=100).tolist()
    batches = list(batches_of_a_length(lengths, batch_size=7))
    assert all(len({lengths[place] for place in batch}) == 1 and 1 <= len(batch) <= 7 for batch in batches)
    together = np.concatenate(batches).tolist()
    assert together == sorted(range(100), key=lambda place: (lengths[place], place))
    assert len(batches) == sum(-(-lengths.count(length) // 7) for length in range(3, 9))
    assert not list(batches_of_a_length([], batch_size=7))
