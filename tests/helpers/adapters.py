"""Adapter heads of random tensors, behind projections as conftest.contents makes them."""

import numpy as np

from clipret.heads.adapter import AdapterHead


def adapter(projections, *, sides=("image", "text"), ratio=0.3, relu=True):
    """An adapter of bottleneck 5 on the sides, for embeddings of width 12."""
    generator = np.random.default_rng(0)
    added = {}
    for side in sides:
        added |= {f"{side}_down": generator.normal(size=(12, 5)), f"{side}_up": generator.normal(size=(5, 12))}
    return AdapterHead({**projections, **added}, ratio=ratio, relu=relu)
