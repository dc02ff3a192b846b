"""Backbones over random weights, and inputs for them, of the tests of clipret.backbones."""

import numpy as np
import torch

from clipret.backbones.openai import OpenAIClip
from tests.conftest import random_clip, randomise

# embedding, side, vision layers, vision width, patch; context, vocabulary, text width, text heads, text layers
SIZES = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "RN101": (512, 224, (3, 4, 23, 3), 64, None, 77, 49408, 512, 8, 12),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, None, 77, 49408, 640, 10, 12),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, None, 77, 49408, 768, 12, 12),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, None, 77, 49408, 1024, 16, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
    "ViT-L/14@336px": (768, 336, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
CAPTIONS = ["a red bus", "two dogs on a very long beach at night", "x"]


def real_clip(name: str) -> torch.nn.Module:
    """A CLIP of the real sizes of an OpenAI model, with random weights."""
    from clip.model import CLIP

    torch.manual_seed(0)
    return enlivened(randomise(CLIP(*SIZES[name])))


def lively_clip(family: str) -> torch.nn.Module:
    """conftest's small CLIP, but images differ in the features of its ResNet too."""
    return enlivened(random_clip(family))


@torch.no_grad()
def enlivened(model: torch.nn.Module) -> torch.nn.Module:
    """Give the BatchNorms the statistics of what they see.

    With random ones a ResNet's activations shrink layer by layer, until all images have one feature to five digits, and
    whatever is done to the pixels is right. The last norm of each block is small, as in a trained ResNet (clip starts
    it at zero): otherwise each block would magnify the rounding of those before it.
    """
    norms = [module for module in model.visual.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for name, parameter in model.visual.named_parameters():
        if name.endswith("bn3.weight"):
            parameter.mul_(0.25)
    model.visual.train()
    if norms:
        model.visual(pictures(4, side=model.visual.input_resolution, seed=9).permute(0, 3, 1, 2) / 64 - 2)
    return model.eval()


def backbone_of(model: torch.nn.Module, *, precision: str = "float32", compiled: bool = False) -> OpenAIClip:
    from clip.clip import _transform

    preprocess = _transform(model.visual.input_resolution)
    return OpenAIClip("random", "0" * 64, "random 1.0", model, preprocess, precision, compiled)


def pictures(count: int, *, side: int, seed: int = 1) -> torch.Tensor:
    """(B, S, S, 3) uint8 with what photographs have: areas of a colour, edges between them, and noise."""
    generator = np.random.default_rng(seed)
    areas = generator.integers(0, 256, size=(count, 6, 6, 3))
    place = np.arange(side) * 6 // side
    noise = generator.normal(scale=12, size=(count, side, side, 3))
    return torch.from_numpy(np.clip(areas[:, place][:, :, place] + noise, 0, 255).astype(np.uint8))


def error_of(result: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert result.shape == expected.shape
    return ((result.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def spread_of(values: torch.Tensor) -> float:
    """How much rows differ, relative to the largest value; below the error allowed, no test would see a wrong row."""
    return ((values - values.mean(dim=0)).abs().max() / values.abs().max()).item()


def embedded(backbone: OpenAIClip, side: str, features: torch.Tensor) -> torch.Tensor:
    """Penultimate features through the head that the backbone gives."""
    head = {name: torch.from_numpy(value) for name, value in backbone.projections().items()}
    return features.float() @ head[f"{side}/weight"] + head.get(f"{side}/bias", 0)
