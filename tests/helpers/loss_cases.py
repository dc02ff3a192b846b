"""Parameters of every loss, masks of every kind, and similarities."""

import torch

EYE = torch.eye(6, dtype=torch.bool)


def by_owner(*owners, images):
    return torch.tensor(owners)[:, None] == torch.arange(images)


MASKS = {
    "one caption an image": torch.eye(7, dtype=torch.bool),
    "several captions an image, uneven": by_owner(0, 0, 0, 1, 2, 2, 3, 4, 4, images=5),
    "captions that match several images": by_owner(0, 1, 2, 3, 1, 2, images=5) | by_owner(3, 1, 0, 4, 0, 2, images=5),
    "an image without caption": by_owner(0, 1, 1, images=4),
    "a caption without image": by_owner(0, 9, 1, 0, images=2),
    "a single pair": torch.ones(1, 1, dtype=torch.bool),
    "a single pair that does not match": torch.zeros(1, 1, dtype=torch.bool),
    "no negatives": torch.ones(4, 3, dtype=torch.bool),
    "no positives": torch.zeros(3, 4, dtype=torch.bool),
}
CASES = [
    *[("margin", {"margin": m, "reduction": r}) for m in (-1.0, 0.0, 0.3, 1.0) for r in ("balanced", "mean")],
    *[("infonce", {"scale": scale}) for scale in (1.0, 14.3, 100.0)],
    *[("triplet", {"margin": m, "violation": v}) for m in (-1.0, 0.0, 0.2, 1.0) for v in ("max", "sum")],
    *[("sigmoid", {"scale": scale, "bias": bias}) for scale, bias in ((1.0, 0.0), (10.0, -10.0), (100.0, 3.0))],
]


def random_similarities(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
