"""A side of a stack of heads against autograd through plain formulas, in float64."""

import torch
from torch.nn import functional

RUNS, ROWS, WIDTH, EMBEDDING, BOTTLENECK = 3, 7, 10, 8, 2


def random_tensors(*, bias):
    """Tensors of an adapter on the image side, (RUNS, ...), transposed as a stack has them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(RUNS, *shape, generator=generator, dtype=torch.float64)

    tensors = {"image_weight": draw(EMBEDDING, WIDTH), "image_down": draw(BOTTLENECK, EMBEDDING)}
    tensors |= {"image_up": draw(EMBEDDING, BOTTLENECK)}
    return {**tensors, "image_bias": draw(EMBEDDING)} if bias else tensors


def project(tensors, features):
    bias = tensors["image_bias"][:, None] if "image_bias" in tensors else 0
    return functional.normalize(features @ tensors["image_weight"].transpose(1, 2) + bias, dim=2)


def assert_tower_equals_autograd(tower, reference, tensors, *, learning):
    """Embeddings and gradients; reference: tensors and features (RUNS, ROWS, WIDTH) -> (RUNS, ROWS, EMBEDDING)."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(RUNS, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    pull = torch.randn(RUNS, EMBEDDING, ROWS, generator=generator, dtype=torch.float64)
    watched = {name: tensors[name].clone().requires_grad_(name in learning) for name in tensors}
    expected = reference(watched, features).transpose(1, 2)
    (expected * pull).sum().backward()
    embeddings = tower.forward(features)
    torch.testing.assert_close(embeddings, expected.detach(), rtol=1e-12, atol=1e-12)
    gradients = tower.backward(pull.clone(), along=(embeddings * pull).sum(1, keepdim=True))
    assert gradients.keys() == learning
    for name in learning:
        torch.testing.assert_close(torch.stack(list(gradients[name])), watched[name].grad, rtol=1e-10, atol=1e-10)
