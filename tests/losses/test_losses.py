import math

import numpy as np
import pytest
import torch

from clipret import TrainConfig
from clipret.losses import LOSSES, load_loss
from clipret.losses.margin import margin_loss
from clipret.losses.quantiles import _select, _select_on_cpu, negative_quantile
from clipret.losses.triplet import resurvey_triplet, survey_triplet, triplet_loss
from tests.helpers.loss_cases import CASES, EYE, MASKS, by_owner, random_similarities
from tests.helpers.naive_losses import NAIVE

every_case = pytest.mark.parametrize(
    ("name", "parameters"), CASES, ids=[" ".join([name, *map(str, rest.values())]) for name, rest in CASES]
)
every_mask = pytest.mark.parametrize("positives", MASKS.values(), ids=MASKS.keys())


def survey_of(name, similarities, positives, *, rows, **parameters):
    """The survey of the whole matrix, taken in blocks of rows."""
    survey = None
    for take in load_loss(name).passes:
        for block, matching in zip(similarities.split(rows, dim=-2), positives.split(rows, dim=-2), strict=True):
            survey = take(block, matching, previous=survey, **parameters)
    return survey


def in_blocks(name, similarities, positives, *, rows, **parameters):
    survey = survey_of(name, similarities, positives, rows=rows, **parameters)
    blocks = zip(similarities.split(rows, dim=-2), positives.split(rows, dim=-2), strict=True)
    return [load_loss(name).function(block, matching, survey=survey, **parameters) for block, matching in blocks]


def assert_close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def assert_equals_naive(name, similarities, positives, parameters):
    """Value and every derivative, the naive one's taken by autograd."""
    variable = similarities.clone().requires_grad_()
    learned = {
        key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for key, value in parameters.items()
        if key in ("scale", "bias")
    }
    expected = NAIVE[name](variable, positives, **{**parameters, **learned})
    expected.backward()
    ours = load_loss(name).function(similarities, positives, **parameters)
    assert_close(ours.value, expected.detach())
    assert_close(ours.gradient, variable.grad)
    assert ours.learned.keys() == learned.keys()
    for key, value in learned.items():
        assert_close(ours.learned[key], value.grad)


@every_case
@every_mask
def test_every_loss_equals_the_naive_double_loop_in_value_and_derivatives(name, parameters, positives):
    assert_equals_naive(name, random_similarities(*positives.shape), positives, parameters)


@every_case
def test_items_that_are_equal_share_what_the_naive_loss_gives_them(name, parameters):
    similarities = random_similarities(6, 5)
    similarities[3], similarities[4] = similarities[1], similarities[1]
    similarities[:, 4] = similarities[:, 2]
    # A pair exactly at the tip of a hinge, where autograd of the naive loop picks a side, is not what is tested here.
    parameters = {**parameters, "margin": parameters["margin"] + 0.01} if "margin" in parameters else parameters
    assert_equals_naive(name, similarities, by_owner(0, 1, 2, 3, 0, 2, images=5), parameters)


@every_case
@every_mask
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_blocks_of_rows_add_up_to_the_whole_matrix(name, parameters, positives, rows):
    similarities = random_similarities(2, *positives.shape)
    positives = positives.expand(similarities.shape)
    whole = load_loss(name).function(similarities, positives, **parameters)
    parts = in_blocks(name, similarities, positives, rows=rows, **parameters)
    assert_close(sum(part.value for part in parts), whole.value)
    assert_close(torch.cat([part.gradient for part in parts], dim=-2), whole.gradient)
    for key, value in whole.learned.items():
        assert_close(sum(part.learned[key] for part in parts), value)


@pytest.mark.parametrize("violation", ["max", "sum"])
def test_blocks_add_up_where_the_hardest_negatives_of_several_blocks_are_equal(violation):
    similarities = random_similarities(6, 3).repeat(2, 1)
    positives = by_owner(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, images=3)
    whole = triplet_loss(similarities, positives, margin=0.2, violation=violation)
    parts = in_blocks("triplet", similarities, positives, rows=3, margin=0.2, violation=violation)
    assert whole.value > 0
    assert_close(torch.cat([part.gradient for part in parts]), whole.gradient)


@every_case
@pytest.mark.parametrize("shared", [False, True], ids=["a mask each", "one mask"])
def test_each_run_of_a_stack_gets_what_it_gets_alone(name, parameters, shared):
    similarities = random_similarities(3, 6, 5)
    masks = torch.stack([by_owner(0, 1, 2, 3, 4, 0, images=5), by_owner(0, 1, 2, 3, 2, 1, images=5), EYE[:, :5]])
    masks = masks[:1] if shared else masks
    differing = {
        key: torch.tensor([value, value * 0.9 + 0.05, value * 0.7]) if isinstance(value, float) else value
        for key, value in parameters.items()
    }
    stacked = load_loss(name).function(similarities, masks, **differing)
    assert stacked.value.shape == (3,)
    for run in range(3):
        own = {key: value[run] if isinstance(value, torch.Tensor) else value for key, value in differing.items()}
        alone = load_loss(name).function(similarities[run], masks[0 if shared else run], **own)
        assert alone.value.shape == ()
        assert_close(stacked.value[run], alone.value)
        assert_close(stacked.gradient[run], alone.gradient)
        for key, value in alone.learned.items():
            assert stacked.learned[key].shape == (3,)
            assert_close(stacked.learned[key][run], value)


@every_case
def test_derivatives_are_the_limits_of_differences(name, parameters):
    similarities, positives = random_similarities(5, 4), by_owner(0, 1, 2, 3, 1, images=4)
    parameters = {**parameters, "margin": parameters["margin"] + 0.01} if "margin" in parameters else parameters
    loss, step = load_loss(name).function, 1e-6
    ours = loss(similarities, positives, **parameters)
    changes = torch.eye(similarities.numel(), dtype=torch.float64).reshape(-1, *similarities.shape) * step
    ahead, behind = (loss(similarities + sign * changes, positives, **parameters).value for sign in (1, -1))
    differences = ((ahead - behind) / (2 * step)).reshape(similarities.shape)
    torch.testing.assert_close(ours.gradient, differences, rtol=1e-6, atol=1e-7)
    for key, slope in ours.learned.items():
        ends = [loss(similarities, positives, **{**parameters, key: parameters[key] + d}).value for d in (step, -step)]
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)


@every_case
def test_float32_is_as_good_as_float32_can_be(name, parameters):
    similarities, positives = random_similarities(40, 30), by_owner(*range(30), *range(10), images=30)
    exact = load_loss(name).function(similarities.float().double(), positives, **parameters)
    ours = load_loss(name).function(similarities.float(), positives, **parameters)
    assert ours.value.dtype == ours.gradient.dtype == torch.float32
    torch.testing.assert_close(ours.value.double(), exact.value, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(ours.gradient.double(), exact.gradient, rtol=1e-4, atol=1e-6)


@every_case
@pytest.mark.parametrize("place", [(2, 2), (2, 3)], ids=["positive", "negative"])
@pytest.mark.parametrize("positives", [EYE, EYE & False, EYE | True], ids=["some", "no", "all"])
def test_a_similarity_that_is_nan_makes_its_runs_value_nan_and_no_others(name, parameters, place, positives):
    similarities = random_similarities(2, 6, 6)
    similarities[(1, *place)] = math.nan
    value = load_loss(name).function(similarities, positives, **parameters).value
    assert value.isnan().tolist() == [False, True]
    parts = in_blocks(name, similarities, positives.expand(2, 6, 6), rows=4, **parameters)
    assert sum(part.value for part in parts).isnan().tolist() == [False, True]


@every_case
def test_what_a_loss_is_given_stays_as_it_was(name, parameters):
    similarities, positives = random_similarities(6, 6), EYE.clone()
    tensors = {key: torch.tensor(value) if isinstance(value, float) else value for key, value in parameters.items()}
    load_loss(name).function(similarities, positives, **tensors)
    in_blocks(name, similarities, positives, rows=4, **tensors)
    assert torch.equal(similarities, random_similarities(6, 6))
    assert torch.equal(positives, EYE)
    assert all(tensors[key] == value for key, value in parameters.items())


def test_a_sigmoid_loss_that_is_almost_nothing_keeps_its_digits_in_float32():
    ours = load_loss("sigmoid").function(EYE.float() * 2 - 1, EYE, scale=15.0, bias=0.0).value.item()
    assert ours == pytest.approx(6 * math.log1p(math.exp(-15)), rel=1e-5)


def test_a_loss_is_capturable_but_for_the_triplet_losss_form_sum():
    settings = vars(TrainConfig("x.h5")) | {"violation": "sum"}
    assert {name for name in LOSSES if not load_loss(name).capturable(settings)} == {"triplet"}
    assert all(load_loss(name).capturable(settings | {"violation": "max"}) for name in LOSSES)


def test_every_row_names_settings_of_a_training():
    assert {name for row in LOSSES.values() for name in row.settings} <= vars(TrainConfig("x.h5")).keys()


@pytest.mark.parametrize(("name", "parameters"), [case for case in CASES if case[1].get("violation") != "sum"])
def test_a_loss_that_is_captured_in_a_graph_asks_the_device_for_no_value(name, parameters):
    # Tensors of torch's device meta have no values, and raise when they are asked for one.
    similarities, positives = torch.empty(2, 6, 5, device="meta"), torch.empty(2, 6, 5, dtype=bool, device="meta")
    assert load_loss(name).function(similarities, positives, **parameters).gradient.shape == (2, 6, 5)
    assert len(in_blocks(name, similarities, positives, rows=4, **parameters)) == 2
    assert negative_quantile(similarities, positives, quantile=0.9).shape == (2,)


def test_margin_loss_is_torchs_cosine_embedding_loss_halved():
    generator = torch.Generator().manual_seed(2)
    texts, images = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    unit = torch.nn.functional.normalize
    loss = margin_loss(unit(texts) @ unit(images).T, EYE, margin=0.2, reduction="mean")
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    target = torch.where(EYE.flatten(), 1, -1)
    whole = torch.nn.functional.cosine_embedding_loss(texts[pairs[:, 0]], images[pairs[:, 1]], target, margin=0.2)
    torch.testing.assert_close(loss.value, whole / 2)


def test_margin_loss_in_mean_weighs_a_positive_by_one_over_batch():
    loss = margin_loss(torch.zeros(8, 8), torch.eye(8, dtype=torch.bool), margin=0.1, reduction="mean")
    assert loss.value.item() == pytest.approx(0.5 / 8)


def test_infonce_is_torchs_cross_entropy_both_ways_where_each_item_has_one_positive():
    similarities = random_similarities(6, 6)
    target, cross_entropy = torch.arange(6), torch.nn.functional.cross_entropy
    expected = (cross_entropy(14 * similarities, target) + cross_entropy(14 * similarities.T, target)) / 2
    torch.testing.assert_close(load_loss("infonce").function(similarities, EYE, scale=14.0).value, expected)


@pytest.mark.parametrize("call", [margin_loss, triplet_loss, survey_triplet])
def test_a_form_of_a_loss_that_does_not_exist_is_refused(call):
    option, allowed = ("reduction", "balanced', 'mean") if call is margin_loss else ("violation", "max', 'sum")
    with pytest.raises(ValueError, match=rf"^{option} is 'median', expected one of \('{allowed}'\)$"):
        call(torch.zeros(6, 6), EYE, margin=0.1, **{option: "median"})


@pytest.mark.parametrize("violation", ["max", "sum"])
def test_a_triplet_survey_after_one_pass_is_refused(violation):
    similarities = torch.zeros(6, 6)
    first = survey_triplet(similarities, EYE, margin=0.1, violation=violation)
    with pytest.raises(ValueError, match=r"^the survey has seen the rows once; resurvey_triplet has to go over them"):
        triplet_loss(similarities, EYE, margin=0.1, violation=violation, survey=first)
    second = resurvey_triplet(similarities, EYE, previous=first, margin=0.1, violation=violation)
    assert triplet_loss(similarities, EYE, margin=0.1, violation=violation, survey=second).value.item() > 0


@every_mask
@pytest.mark.parametrize("quantile", [0.0, 0.29, 0.9, 1.0])
def test_negative_quantile_is_numpys_lower_quantile_of_the_negatives(positives, quantile):
    similarities = random_similarities(2, *positives.shape)
    quantiles = negative_quantile(similarities, positives, quantile=quantile)
    for run, matrix in enumerate(similarities):
        negatives = matrix[~positives].numpy()
        expected = np.quantile(negatives, quantile, method="lower") if negatives.size else 0
        assert quantiles[run].item() == expected


def test_negative_quantile_takes_a_mask_and_a_quantile_of_each_run():
    similarities = random_similarities(3, 6, 6)
    masks = torch.stack([EYE, EYE | True, ~EYE])
    quantiles = negative_quantile(similarities, masks, quantile=torch.tensor([0.5, 0.1, 1.0]))
    expected = [np.quantile(similarities[0][~EYE].numpy(), 0.5, method="lower"), 0, similarities[2][EYE].max()]
    assert quantiles.tolist() == expected


def test_a_gpus_way_to_select_gives_what_the_cpus_does():
    values, ranks = random_similarities(4, 3, 50).float(), torch.arange(12).reshape(4, 3) * 4
    assert torch.equal(_select(values, ranks), _select_on_cpu(values, ranks))
    assert torch.equal(_select(values, ranks), values.sort(-1).values.gather(-1, ranks[..., None])[..., 0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64])
def test_a_mask_counts_the_same_in_whatever_type_it_comes(dtype):
    similarities = random_similarities(6, 6)
    expected = margin_loss(similarities, EYE, margin=0.1)
    torch.testing.assert_close(margin_loss(similarities, EYE.to(dtype), margin=0.1).gradient, expected.gradient)
