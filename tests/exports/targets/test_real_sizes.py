"""Encoders of real size with random weights, opened by every library."""

import pytest
import torch

from clipret.backbones import load_backbone
from tests.helpers.backbone_models import real_clip
from tests.helpers.export_sources import adapter_head, linear_head, source_of, verified

# The name of the head is for the table in docs/export.md.
HEADS = {
    "linear": linear_head,
    "linear, text only": lambda backbone: linear_head(backbone, sides=("text",)),
    "linear, 256 wide": lambda backbone: linear_head(backbone, width=256),
    "adapter": adapter_head,
    "adapter, text only": lambda backbone: adapter_head(backbone, sides=("text",)),
}
LINEAR = [name for name in HEADS if name.startswith("linear")]
ROWS = [
    *[("ViT-B/32", head, target) for target in ("open_clip", "hf") for head in LINEAR],
    *[("ViT-B/32", head, "sentence-transformers") for head in HEADS],
    *[("RN50", head, "open_clip") for head in LINEAR],
]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Name -> a backbone, as clipret loads it of a checkpoint."""
    root, backbones = tmp_path_factory.mktemp("real"), {}

    def load(name):
        if name not in backbones:
            path = root / f"{name.replace('/', '-')}.pt"
            torch.save(real_clip(name).state_dict(), path)
            backbones[name] = load_backbone(str(path), precision="fp32")
        return backbones[name]

    return load


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head", "target"), ROWS)
def test_a_library_gives_clipret_s_embeddings_at_real_size(real, tmp_path, name, head, target):
    backbone = real(name)
    for result in verified(target, source_of(backbone, HEADS[head](backbone)), tmp_path, fresh=True):
        assert result["difference"] <= 1e-6
