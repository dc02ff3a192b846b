"""Losses of blocks, compiled: what torch makes of the whole matrix in float64."""

import functools
import importlib
import math

import numpy as np
import pytest
import torch

from clipret.losses import LOSSES, load_loss
from clipret.losses.compiled.blocks import places
from clipret.losses.compiled.exponential import exp_of_nonpositive
from tests.helpers.loss_cases import CASES, EYE, MASKS, by_owner, random_similarities

COMPILED = [name for name in LOSSES if load_loss(name).compiled]
OURS = [case for case in CASES if case[0] in COMPILED]
every_case = pytest.mark.parametrize(
    ("name", "parameters"), OURS, ids=[" ".join([name, *map(str, rest.values())]) for name, rest in OURS]
)


def in_blocks(name, similarities, positives, *, rows, **parameters):
    """Value, gradient, both sums of their products and the learned gradients of a matrix in blocks of rows."""
    compiled = importlib.import_module(load_loss(name).compiled)
    spans = [slice(first, first + rows) for first in range(0, similarities.shape[1], rows)]
    surveys = [compiled.survey(similarities[:, span], positives[:, span], **parameters) for span in spans]
    survey = functools.reduce(compiled.joined, surveys)
    blocks = [
        compiled.function(
            similarities[:, span].clone(), positives[:, span], first=span.start, survey=survey, **parameters
        )
        for span in spans
    ]
    learned = {key: sum(block.learned[key] for block in blocks) for key in blocks[0].learned}
    return (
        sum(block.value for block in blocks),
        torch.cat([block.gradient for block in blocks], dim=1),
        torch.cat([block.along_texts for block in blocks], dim=1),
        sum(block.along_images for block in blocks),
        learned,
    )


def assert_equals_torch(name, similarities, positives, *, rows, parameters):
    """similarities (S, B_t, B_i) float32, whose rounding weighs as much as they are scaled."""
    slack = max(1, torch.as_tensor(parameters.get("scale", 1)).max().item() / 20)
    exact = load_loss(name).function(similarities.double(), positives, **parameters)
    along = exact.gradient * similarities.double()
    value, gradient, along_texts, along_images, learned = in_blocks(
        name, similarities, positives, rows=rows, **parameters
    )
    near = {"rtol": 2e-5 * slack, "atol": 2e-6 * slack, "check_dtype": False}
    torch.testing.assert_close(value, exact.value, **near)
    torch.testing.assert_close(gradient, exact.gradient, **near)
    torch.testing.assert_close(along_texts, along.sum(2), **near)
    torch.testing.assert_close(along_images, along.sum(1), **near)
    assert learned.keys() == exact.learned.keys()
    for key, slope in exact.learned.items():
        torch.testing.assert_close(learned[key], slope, **near)


def test_the_losses_of_large_batches_are_compiled():
    assert COMPILED == ["margin", "infonce"]


@every_case
@pytest.mark.parametrize("positives", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_compiled_loss_is_that_of_the_whole_matrix(name, parameters, positives, rows):
    similarities = random_similarities(2, *positives.shape).float()
    assert_equals_torch(name, similarities, positives.expand(1, -1, -1), rows=rows, parameters=parameters)


@every_case
def test_a_mask_may_be_of_numbers(name, parameters):
    """As that of batches of one caption an image is, which come to blocks where many runs are trained together."""
    similarities = random_similarities(2, *EYE.shape).float()
    *expected, learned = in_blocks(name, similarities, EYE[None], rows=3, **parameters)
    *found, learned_too = in_blocks(name, similarities, EYE.float()[None], rows=3, **parameters)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert all(torch.equal(learned_too[key], learned[key]) for key in learned)


@every_case
@pytest.mark.parametrize(("texts", "images"), [(150, 37), (33, 130), (64, 64)])
def test_more_rows_than_one_piece_and_odd_widths(name, parameters, texts, images):
    similarities = random_similarities(1, texts, images).float()
    positives = by_owner(*(row % (images + 3) for row in range(texts)), images=images)[None]
    assert_equals_torch(name, similarities, positives, rows=70, parameters=parameters)


@every_case
def test_each_run_has_its_own_parameters_and_mask(name, parameters):
    similarities = random_similarities(3, 40, 9).float()
    masks = torch.stack([by_owner(*(row * step % 9 for row in range(40)), images=9) for step in (1, 2, 4)])
    own = {
        key: torch.tensor([value, value * 0.9 + 0.05, value * 0.7]) if isinstance(value, float) else value
        for key, value in parameters.items()
    }
    assert_equals_torch(name, similarities, masks, rows=25, parameters=own)


@every_case
def test_equal_similarities_and_those_at_the_margin(name, parameters):
    at = float(np.float32(parameters.get("margin", 0.5)))
    parameters = parameters | {"margin": at} if "margin" in parameters else parameters
    similarities = torch.full((1, 40, 8), 0.3)
    similarities[0, ::2] = at
    positives = by_owner(*(row % 8 for row in range(40)), images=8)[None]
    assert_equals_torch(name, similarities, positives, rows=16, parameters=parameters)


@pytest.mark.parametrize("apart", ["columns", "rows", "both"])
def test_softmaxes_that_share_no_exponential(apart):
    """At a scale of 100: columns, or rows, that are far from all others by more than float32's range."""
    similarities = random_similarities(1, 80, 40).float() * 0.01
    if apart != "rows":
        similarities[:, :, ::3] -= 0.98
    if apart != "columns":
        similarities[:, ::5] -= 0.98
    similarities.clamp_(-1, 1)[:, 7, 1] = 0.99
    positives = by_owner(*(row % 40 for row in range(80)), images=40)[None]
    assert_equals_torch("infonce", similarities, positives, rows=50, parameters={"scale": 100.0})


@every_case
@pytest.mark.parametrize("place", [(2, 2), (2, 3), (39, 0)])
@pytest.mark.parametrize("positives", [EYE, EYE & False], ids=["some", "no"])
def test_nan_makes_the_value_nan(name, parameters, place, positives):
    similarities, positives = random_similarities(2, 42, 6).float(), positives.repeat(7, 1)[None]
    similarities[(1, *place)] = math.nan
    value = in_blocks(name, similarities, positives, rows=40, **parameters)[0]
    assert value.isnan().tolist() == [False, True]


def test_exp_is_exact_to_two_units_in_the_last_place():
    numbers = -np.geomspace(1e-12, 87, 20_000, dtype=np.float32)
    ours = np.array([exp_of_nonpositive(number) for number in numbers])
    exact = np.exp(numbers.astype(np.float64))
    assert np.abs(ours - exact).max() <= 1.5e-7
    assert (np.abs(ours - exact) / exact).max() < 2.4e-7
    assert exp_of_nonpositive(np.float32(0)) == 1
    assert 0 < exp_of_nonpositive(np.float32(-200)) < 1e-37
    assert math.isnan(exp_of_nonpositive(np.float32("nan")))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64, 131])
@pytest.mark.parametrize("share", [0, 0.1, 1])
def test_places_are_numpys(size, share):
    mask = (np.random.default_rng(size).random(size) < share).astype(np.uint8)
    assert places(mask).tolist() == np.flatnonzero(mask).tolist()
