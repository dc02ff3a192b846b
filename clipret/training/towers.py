"""The two sides of a stack of heads, forwards and backwards, with gradients written out.

Everything is transposed, embeddings (S, E, B) and weights (S, E, D): then the left factor of every product is
contiguous, which the CPU's products want. Shape suffixes: S runs, B rows of a batch, D feature width, E embedding
width, H width of an adapter's bottleneck.
"""

from collections.abc import Sequence

import torch

from clipret.machine.products import Products

Gradients = dict[str, Sequence[torch.Tensor]]
# Of a row of zeros: as torch.nn.functional.normalize has it.
_SMALLEST_NORM = 1e-12


class Projection:
    """normalize(W x + b): a linear head's side, and what an adapter stands behind."""

    def __init__(self, tensors: dict[str, torch.Tensor], *, side: str, learns: bool, products: Products):
        """tensors: SIDE_weight (S, E, D) and perhaps SIDE_bias (S, E), updated in place by the optimiser."""
        self._weight, self._bias = tensors[f"{side}_weight"], tensors.get(f"{side}_bias")
        self._side, self._learns, self._products = side, learns, products

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (S, B, D) -> embeddings (S, E, B), columns of norm 1."""
        projected = self._products(self._weight, features.transpose(1, 2))
        if self._bias is not None:
            projected += self._bias[:, :, None]
        self._features = features
        self._embeddings, self._norms = _normalise(projected)
        return self._embeddings

    def backward(self, gradient: torch.Tensor, *, along: torch.Tensor) -> Gradients:
        """Gradients of what learns, a tensor for each run, from that of the embeddings.

        gradient  (S, E, B), overwritten
        along     (S, 1, B) its inner product with the embeddings
        """
        if not self._learns:
            return {}
        gradient = _through_norm(gradient, self._embeddings, along=along, norms=self._norms)
        gradients = {f"{self._side}_weight": self._products.separately(gradient, self._features)}
        if self._bias is not None:
            gradients[f"{self._side}_bias"] = gradient.sum(2).unbind()
        return gradients


class Adapter:
    """normalize(ratio * o + (1 - ratio) * z): heads.AdapterHead's side, z a frozen projection."""

    def __init__(self, tensors: dict[str, torch.Tensor], *, side: str, ratio: float, relu: bool, products: Products):
        """tensors: the projection's, SIDE_down (S, H, E) and SIDE_up (S, E, H)."""
        self._projection = Projection(tensors, side=side, learns=False, products=products)
        self._down, self._up = tensors[f"{side}_down"], tensors[f"{side}_up"]
        self._side, self._ratio, self._relu, self._products = side, ratio, relu, products

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (S, B, D) -> embeddings (S, E, B), columns of norm 1."""
        self._base = self._projection.forward(features)
        self._hidden = self._products(self._down, self._base).clamp_min_(0)
        self._raised = self._products(self._up, self._hidden)
        mixed = self._raised.clamp_min(0) if self._relu else self._raised.clone()
        mixed.mul_(self._ratio).add_(self._base, alpha=1 - self._ratio)
        self._embeddings, self._norms = _normalise(mixed)
        return self._embeddings

    def backward(self, gradient: torch.Tensor, *, along: torch.Tensor) -> Gradients:
        """As Projection.backward. relu's subgradient at 0 is 1 for the last one, or `up`, which is 0 at the start,
        would never move."""
        gradient = _through_norm(gradient, self._embeddings, along=along, norms=self._norms).mul_(self._ratio)
        if self._relu:
            gradient *= self._raised >= 0
        up = self._products.separately(gradient, self._hidden.transpose(1, 2))
        inner = self._products(self._up.transpose(1, 2), gradient)
        inner *= self._hidden > 0
        down = self._products.separately(inner, self._base.transpose(1, 2))
        return {f"{self._side}_up": up, f"{self._side}_down": down}


def _normalise(columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of norm 1, in place, and the norms (S, 1, B) that they had."""
    norms = (columns * columns).sum(1, keepdim=True).sqrt_().clamp_min_(_SMALLEST_NORM)
    return columns.div_(norms), norms


def _through_norm(
    gradient: torch.Tensor, embeddings: torch.Tensor, *, along: torch.Tensor, norms: torch.Tensor
) -> torch.Tensor:
    """The gradient before normalisation, (g - u (u . g)) / norm, in place."""
    return gradient.addcmul_(embeddings, along, value=-1).div_(norms)
