"""The term that keeps neighbours, beside a plain one in float64."""

import pytest
import torch

from clipret.machine.products import Products
from clipret.training import neighbours
from clipret.training.neighbours import TEMPERATURE, Kept, keep_neighbours


def plain_term(embeddings, features):
    """Item by item: the divergence of the softmax over the others by features and by embeddings; (B, E), (B, D)."""
    centred = features - features.mean(0)
    centred = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    total = embeddings.new_zeros(())
    for item in range(len(embeddings)):
        others = [other for other in range(len(embeddings)) if other != item]
        wanted = torch.softmax(centred[others] @ centred[item] / TEMPERATURE, 0)
        ours = torch.softmax(embeddings[others] @ embeddings[item] / TEMPERATURE, 0)
        total = total + (wanted * (wanted.log() - ours.log())).sum()
    return total / len(embeddings)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kept(embeddings, features, weights):
    return keep_neighbours(embeddings, features, weights=torch.tensor(weights), products=Products("cpu"))


@pytest.mark.parametrize(("count", "rows"), [(2, 99), (7, 99), (7, 3), (23, 5), (8, 1)])
def test_value_and_gradient_are_those_of_the_plain_term_in_any_blocks(monkeypatch, count, rows):
    weights = [0.5, 0.0, 2.0]
    embeddings = torch.nn.functional.normalize(drawn(3, 4, count), dim=1)
    features = drawn(1, count, 6, seed=1)
    # Some that are alike, and one that is the mean of all but for rounding.
    features[0, 0] = features[0, -1]
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 4 * 3 * count * rows)
    ours = kept(embeddings, features, weights)
    for run, weight in enumerate(weights):
        leaf = embeddings[run].T.double().requires_grad_()
        value = weight * plain_term(leaf, features[0].double())
        value.backward()
        assert ours.value[run].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
        torch.testing.assert_close(ours.gradient[run].T.double(), leaf.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.along, (ours.gradient * embeddings).sum(1, keepdim=True))


def test_runs_may_have_features_of_their_own():
    embeddings = torch.nn.functional.normalize(drawn(2, 4, 5), dim=1)
    features = drawn(2, 5, 6, seed=1)
    together = kept(embeddings, features, [1.0, 1.0])
    for run in range(2):
        alone = kept(embeddings[run : run + 1], features[run : run + 1], [1.0])
        torch.testing.assert_close(together.gradient[run], alone.gradient[0])
        torch.testing.assert_close(together.value[run], alone.value[0])


def test_embeddings_with_the_neighbours_of_the_features_are_left_alone():
    features = drawn(1, 9, 4)
    centred = torch.nn.functional.normalize(features - features.mean(1, keepdim=True), dim=2)
    ours = kept(centred.transpose(1, 2).contiguous(), features, [1.0])
    assert ours.value.abs().max() < 1e-6
    assert ours.gradient.abs().max() < 1e-5


def test_a_single_item_and_items_that_are_all_the_same_give_nothing_that_is_not_finite():
    alone: Kept = kept(torch.nn.functional.normalize(drawn(1, 4, 1), dim=1), drawn(1, 1, 6), [1.0])
    assert alone.value.item() == 0
    assert not alone.gradient.any()
    embeddings = torch.nn.functional.normalize(drawn(1, 4, 5), dim=1)
    same = kept(embeddings, torch.ones(1, 5, 6), [1.0])
    assert torch.isfinite(same.value).all()
    assert torch.isfinite(same.gradient).all()
