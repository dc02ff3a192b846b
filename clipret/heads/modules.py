"""The heads themselves.

Shape suffixes: B rows, D feature width, E embedding width, H width of an adapter's bottleneck.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clipret.config import TrainConfig

PROJECTION_NAMES = ("image_weight", "image_bias", "text_weight")


class Head(nn.Module):
    """What every head is: CLIP's projections of both sides, and what a kind of head does with them.

    image_weight (D_i, E), text_weight (D_t, E) as in CLIP's vision transformer, image_bias (E,) or None: ResNets have
    one. All tensors are float32.
    """

    kind: str
    names = PROJECTION_NAMES

    def __init__(self, tensors: Mapping[str, torch.Tensor | np.ndarray]):
        """tensors: by name, a cache's projections (image/weight, ...) or a head's tensors (image_weight, ...).

        Arrays are copied; tensors are shared, so that they can be trained under the head. Other names are passed over.
        """
        super().__init__()
        given = {name.replace("/", "_"): values for name, values in tensors.items()}
        for name in self.names:
            self.register_parameter(name, _parameter(given[name]) if name in given else None)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that the head consists of, by name, sharing memory with it."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @property
    def settings(self) -> dict[str, str]:
        """What, beside its tensors, decides the head; as text, for its file."""
        return {}

    def like(self, tensors: Mapping[str, torch.Tensor | np.ndarray]) -> "Head":
        """A head of the same kind and settings of other tensors."""
        return type(self)(tensors)

    def untrained(self, projections: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """What this head's tensors are where it computes CLIP's embeddings, of a cache's projections; on its device."""
        device = self.image_weight.device
        return {name: tensor.to(device) for name, tensor in LinearHead(projections).tensors.items()}

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_i) image features -> (B, E) L2-normalised embeddings."""
        return _project(features, self.image_weight, bias=self.image_bias)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_t) text features -> (B, E) L2-normalised embeddings."""
        return _project(features, self.text_weight, bias=None)


class LinearHead(Head):
    """CLIP's own final projections, image and text, made trainable: normalize(x W + b).

    Started from a cache's projections it computes exactly CLIP's embeddings.
    """

    kind = "linear"


class AdapterHead(Head):
    """A residual bottleneck adapter behind CLIP's own projection, on either side or both.

        z = normalize(x W + b);  a = relu(z down);  o = relu(a up), or a up without relu
        embedding = normalize(ratio * o + (1 - ratio) * z)

    down is (E, H), up (H, E), no biases: CLIP-Adapter (Gao et al. 2021), as its reference implementation has it on the
    image side. While up is 0 the head computes CLIP's embeddings, unless ratio is 1. The last relu's subgradient at 0
    is taken as 1: with the usual 0, up would never move from there.
    """

    kind = "adapter"
    names = (*PROJECTION_NAMES, "image_down", "image_up", "text_down", "text_up")

    def __init__(self, tensors: Mapping[str, torch.Tensor | np.ndarray], *, ratio: float, relu: bool = True):
        """tensors: as of a Head, with SIDE_down and SIDE_up of the sides that have an adapter.

        ratio  of the adapter's output in the embedding, 0 to 1
        relu   whether there is a relu after `up`
        """
        super().__init__(tensors)
        self.ratio, self.relu = ratio, relu

    @property
    def settings(self) -> dict[str, str]:
        """As of a Head."""
        sides = [side for side in ("image", "text") if getattr(self, f"{side}_down") is not None]
        return {
            "ratio": repr(float(self.ratio)),
            "relu": "true" if self.relu else "false",
            "sides": "both" if len(sides) == 2 else sides[0],
        }

    def like(self, tensors: Mapping[str, torch.Tensor | np.ndarray]) -> "AdapterHead":
        """As of a Head."""
        return AdapterHead(tensors, ratio=self.ratio, relu=self.relu)

    def untrained(self, projections: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """As of a Head: `down` is the head's own, and `up` 0."""
        added = {name: tensor for name, tensor in self.tensors.items() if name not in PROJECTION_NAMES}
        adapters = {name: torch.zeros_like(found) if name.endswith("_up") else found for name, found in added.items()}
        return super().untrained(projections) | adapters

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._adapt(super().embed_images(features), down=self.image_down, up=self.image_up)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._adapt(super().embed_texts(features), down=self.text_down, up=self.text_up)

    def _adapt(self, embeddings: torch.Tensor, *, down: nn.Parameter | None, up: nn.Parameter | None) -> torch.Tensor:
        if down is None:
            return embeddings
        raised = functional.relu(embeddings @ down) @ up
        if self.relu:
            raised = torch.where(raised < 0, 0, raised)
        return functional.normalize(self.ratio * raised + (1 - self.ratio) * embeddings, dim=-1)


def parameter_names(config: TrainConfig, tensors: Iterable[str]) -> tuple[str, ...]:
    """Names of the tensors that learn.

    tensors  the names of all that the head has (a dict of them will do); ResNets have an image_bias
    """
    if config.head == AdapterHead.kind:
        learning = [f"{side}_{part}" for side in learning_sides(config) for part in ("down", "up")]
    else:
        learning = [f"{side}_{part}" for side in learning_sides(config) for part in ("weight", "bias")]
    return tuple(name for name in learning if name in set(tensors))


def learning_sides(config: TrainConfig) -> tuple[str, ...]:
    """image, text or both."""
    return ("image", "text") if config.train == "both" else (config.train,)


def build_head(config: TrainConfig, tensors: Mapping[str, torch.Tensor]) -> Head:
    """The head that a training's tensors are, for measuring it: it shares them, and keeps no gradients.

    tensors  by name, float32, on any device: those of initial_tensors, as they are now
    """
    if config.head == AdapterHead.kind:
        head = AdapterHead(tensors, ratio=config.adapter_ratio, relu=config.adapter_relu)
    else:
        head = LinearHead(tensors)
    return head.requires_grad_(False)


def _project(features: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None) -> torch.Tensor:
    projected = features.to(weight.dtype) @ weight
    return functional.normalize(projected if bias is None else projected + bias, dim=-1)


def _parameter(values: torch.Tensor | np.ndarray) -> nn.Parameter:
    if isinstance(values, torch.Tensor):
        return nn.Parameter(values.detach())
    return nn.Parameter(torch.tensor(np.asarray(values), dtype=torch.float32))
