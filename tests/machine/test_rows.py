import numpy as np
import pytest
import torch

from clipret.machine.rows import FEWEST, among_others, batches_of_a_length


@pytest.mark.parametrize("count", [1, 2, FEWEST - 1, FEWEST, 40])
def test_few_rows_are_computed_as_more_and_come_back_as_they_were(count):
    shapes = []

    def double(rows):
        shapes.append(tuple(rows.shape))
        return rows * 2

    rows = torch.arange(count * 6.0).view(count, 2, 3)
    assert torch.equal(among_others(double, rows), rows * 2)
    assert shapes == [(max(count, FEWEST), 2, 3)]


def test_a_row_has_the_bits_that_it_has_among_many():
    weight = torch.randn(192, 128, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(300, 192, generator=torch.Generator().manual_seed(1))
    together = rows @ weight
    alone = torch.cat([among_others(lambda part: part @ weight, row[None]) for row in rows])
    assert torch.equal(alone, together)


def test_batches_have_one_length_and_at_most_so_many():
    lengths = np.random.default_rng(0).integers(3, 9, size=100).tolist()
    batches = list(batches_of_a_length(lengths, batch_size=7))
    assert all(len({lengths[place] for place in batch}) == 1 and 1 <= len(batch) <= 7 for batch in batches)
    together = np.concatenate(batches).tolist()
    assert together == sorted(range(100), key=lambda place: (lengths[place], place))
    assert len(batches) == sum(-(-lengths.count(length) // 7) for length in range(3, 9))
    assert not list(batches_of_a_length([], batch_size=7))
