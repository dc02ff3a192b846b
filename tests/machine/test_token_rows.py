"""Rows of different numbers of tokens, against plain lists."""

import pytest
import torch

from clipret.machine.rows import TOGETHER, among_others
from clipret.machine.token_rows import TokenRows

LENGTHS = [3, 1, 4, 1, 5]


def rows(lengths=LENGTHS, *, scales=False) -> tuple[TokenRows, list[torch.Tensor]]:
    values = torch.arange(sum(lengths) * 2, dtype=torch.float32).view(-1, 2)
    factors = torch.arange(1.0, sum(lengths) + 1) if scales else None
    stored = values.to(torch.int8) if scales else values
    numbers = values * factors[:, None] if scales else values
    return TokenRows(stored, torch.tensor(lengths), factors), list(numbers.split(lengths))


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize(
    "places", [slice(None), slice(1, 4), slice(3, 3), torch.tensor([4, 0, 0]), torch.tensor([2])], ids=str
)
def test_places_are_taken_as_of_a_list(places, scales):
    taken, listed = rows(scales=scales)
    taken = taken[places].float()
    expected = listed[places] if isinstance(places, slice) else [listed[place] for place in places.tolist()]
    assert len(taken) == len(expected)
    assert taken.lengths.tolist() == [len(part) for part in expected]
    assert torch.equal(taken.values, torch.cat(expected) if expected else torch.zeros(0, 2))


def test_shorter_rows_are_padded_with_zeros():
    padded, there = rows()[0].padded()
    assert padded.shape == (5, 5, 2)
    for place, expected in enumerate(rows()[1]):
        assert torch.equal(padded[place, : len(expected)], expected)
        assert not padded[place, len(expected) :].any()
        assert there[place].tolist() == [True] * len(expected) + [False] * (5 - len(expected))


def test_rows_of_one_length_are_not_copied():
    even, _ = rows([2, 2])
    padded, there = even.padded()
    assert there is None
    assert padded.data_ptr() == even.values.data_ptr()


def test_a_few_rows_are_computed_among_others():
    seen = []

    def function(batch):
        seen.append(len(batch))
        return torch.stack([part.sum(dim=0) for part in batch.values.split(batch.lengths.tolist())])

    some, listed = rows()
    assert torch.equal(among_others(function, some), torch.stack([part.sum(dim=0) for part in listed]))
    assert seen == [TOGETHER]
