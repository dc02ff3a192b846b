"""What the loss of a batch gives to training."""

from dataclasses import dataclass, replace

import torch

from clipret.machine.products import Products


@dataclass(frozen=True)
class Pull:
    """The loss of a batch and its gradients.

    value            (S,) the loss
    texts, images    (S, E, B_t), (S, E, B_i): gradients with respect to the embeddings
    along_texts, along_images  (S, 1, B_t), (S, 1, B_i): inner products of those gradients with the embeddings
    learned          gradients (S,) with respect to the loss's learned scalars
    """

    value: torch.Tensor
    texts: torch.Tensor
    images: torch.Tensor
    along_texts: torch.Tensor
    along_images: torch.Tensor
    learned: dict[str, torch.Tensor]

    @classmethod
    def of(
        cls,
        gradient: torch.Tensor,
        *,
        value: torch.Tensor,
        along: tuple[torch.Tensor, torch.Tensor],
        embeddings: tuple[torch.Tensor, torch.Tensor],
        learned: dict[str, torch.Tensor],
        products: Products,
    ) -> "Pull":
        """From the gradient by the similarities (S, B_t, B_i).

        along       (S, B_t) and (S, B_i): sums of its products with the similarities
        embeddings  of texts (S, E, B_t) and of images (S, E, B_i), contiguous
        """
        texts, images = embeddings
        by_texts, by_images = products(images, gradient.transpose(1, 2)), products(texts, gradient)
        return cls(value, by_texts, by_images, *(sums[:, None] for sums in along), learned)

    def with_side(self, side: str, *, value: torch.Tensor, gradient: torch.Tensor, along: torch.Tensor) -> "Pull":
        """With another term, of the embeddings of one side, added to it."""
        name = "images" if side == "image" else "texts"
        sums = {name: getattr(self, name) + gradient, f"along_{name}": getattr(self, f"along_{name}") + along}
        return replace(self, value=self.value + value, **sums)
