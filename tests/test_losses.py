import pytest
import torch

from clipret.losses import margin_loss


def naive_margin_loss(similarities, positives, margin, reduction):
    """The definition, one pair at a time."""
    matching, others = [], []
    for row in range(similarities.shape[0]):
        for column in range(similarities.shape[1]):
            s = similarities[row, column]
            if positives[row, column]:
                matching.append(0.5 * (1 - s))
            else:
                others.append(0.5 * (s - margin) if s > margin else 0 * s)
    if reduction == "mean":
        return sum(matching + others) / len(matching + others)
    return sum(matching) / max(1, len(matching)) + sum(others) / max(1, len(others))


BATCHES = {
    "one caption an image": torch.eye(9, dtype=torch.bool),
    "uneven": torch.tensor([0, 0, 0, 1, 2, 2, 3])[:, None] == torch.arange(5),
    "an image without caption": torch.tensor([0, 1, 1])[:, None] == torch.arange(4),
    "single pair": torch.ones(1, 1, dtype=torch.bool),
    "no other pairs": torch.ones(4, 1, dtype=torch.bool),
    "no matching pairs": torch.zeros(3, 4, dtype=torch.bool),
}


@pytest.mark.parametrize("reduction", ["mean", "balanced"])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("positives", BATCHES.values(), ids=BATCHES.keys())
def test_margin_loss_equals_naive_double_loop_in_value_and_gradient(positives, margin, reduction):
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(positives.shape, generator=generator, dtype=torch.float64) * 2 - 1
    ours, naive = start.clone().requires_grad_(), start.clone().requires_grad_()
    loss = margin_loss(ours, positives, margin=margin, reduction=reduction)
    expected = naive_margin_loss(naive, positives, margin, reduction)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.grad, naive.grad, rtol=1e-12, atol=1e-14)


def test_margin_loss_is_torchs_cosine_embedding_loss_halved():
    generator = torch.Generator().manual_seed(2)
    texts, images = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    positives = torch.eye(6, dtype=torch.bool)
    unit = torch.nn.functional.normalize
    loss = margin_loss(unit(texts) @ unit(images).T, positives, margin=0.2, reduction="mean")
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    target = torch.where(positives.flatten(), 1, -1)
    whole = torch.nn.functional.cosine_embedding_loss(texts[pairs[:, 0]], images[pairs[:, 1]], target, margin=0.2)
    torch.testing.assert_close(loss, whole / 2)


def test_margin_loss_in_mean_weighs_a_matching_pair_by_one_over_batch():
    similarities = torch.zeros(8, 8)
    loss = margin_loss(similarities, torch.eye(8, dtype=torch.bool), margin=0.1, reduction="mean")
    assert loss.item() == pytest.approx(0.5 / 8)


def test_margin_loss_refuses_unknown_reduction():
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        margin_loss(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), margin=0.1, reduction="sum")
