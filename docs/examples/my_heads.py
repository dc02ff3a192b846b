"""A head of your own, for `clipret train --head my_heads.py:MLP`."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional


class MLP(nn.Module):
    """Two layers on each side: CLIP's projection, then a residual layer that starts at zero.

    Untrained it computes CLIP's own embeddings, so validation starts at the zero-shot figures.
    """

    def __init__(self, projections: Mapping[str, torch.Tensor]):
        super().__init__()
        self.image = _side(projections["image/weight"])
        self.text = _side(projections["text/weight"])

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_image) features -> (B, E) embeddings of length 1."""
        return _embed(self.image, features)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_text) features -> (B, E) embeddings of length 1."""
        return _embed(self.text, features)


def _side(weight: torch.Tensor) -> nn.ModuleList:
    width, embedding = weight.shape
    first, second = nn.Linear(width, embedding, bias=False), nn.Linear(embedding, embedding)
    with torch.no_grad():
        first.weight.copy_(weight.T)
        second.weight.zero_()
        second.bias.zero_()
    return nn.ModuleList([first, second])


def _embed(layers: nn.ModuleList, features: torch.Tensor) -> torch.Tensor:
    projected = functional.normalize(layers[0](features), dim=-1)
    return functional.normalize(projected + layers[1](functional.gelu(projected)), dim=-1)
