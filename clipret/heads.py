"""Heads: the trainable map from cached features to embeddings, and their files (safetensors, never pickle).

Shape suffixes: B rows, D feature width, E embedding width.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from clipret.errors import HeadError

FORMAT = "1"


class LinearHead(nn.Module):
    """CLIP's own final projections, image and text, made trainable.

    Started from a cache's projections it computes exactly CLIP's embeddings. Weights are float32, of shape (D, E) as in
    CLIP's vision transformer; ResNets have a bias on the image side.
    """

    kind = "linear"

    def __init__(self, projections: dict[str, np.ndarray]):
        """projections: image/weight (D_i, E), text/weight (D_t, E) and, for ResNets, image/bias (E,)."""
        super().__init__()
        self.image_weight = _parameter(projections["image/weight"])
        self.image_bias = _parameter(projections["image/bias"]) if "image/bias" in projections else None
        self.text_weight = _parameter(projections["text/weight"])

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_i) image features -> (B, E) L2-normalised embeddings."""
        projected = features.to(self.image_weight.dtype) @ self.image_weight
        if self.image_bias is not None:
            projected = projected + self.image_bias
        return functional.normalize(projected, dim=-1)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_t) text features -> (B, E) L2-normalised embeddings."""
        return functional.normalize(features.to(self.text_weight.dtype) @ self.text_weight, dim=-1)


@torch.no_grad()
def embed(function, features: np.ndarray, *, device: str | torch.device, block: int = 65_536) -> torch.Tensor:
    """Embeddings of all rows, a block at a time so that a memory-mapped cache is never read whole.

    function  a head's embed_images or embed_texts
    features  (B, D) array
    device    where the head lives and the embeddings are left

    Returns (B, E) float32 on the device.
    """
    starts = range(0, len(features), block)
    blocks = [torch.from_numpy(np.array(features[start : start + block])).to(device) for start in starts]
    return torch.cat([function(rows) for rows in blocks])


def save_head(head: LinearHead, *, path: Path, metadata: dict[str, str]) -> None:
    """Write the head atomically: a reader sees the old file or the whole new one.

    metadata  what a user of the file needs to know, such as the model's name and the cache's fingerprint
    """
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in head.named_parameters()}
    unfinished = path.with_name(path.name + ".part")
    # safetensors' own save_file makes files that nobody but their owner can read.
    unfinished.write_bytes(save(tensors, metadata={"format": FORMAT, "kind": head.kind, **metadata}))
    unfinished.replace(path)


def load_head(path: Path, *, projections: dict[str, np.ndarray], weights_sha256: str) -> LinearHead:
    """Read a head for the features of one CLIP model.

    projections     those of the cache it will be used with; they give the widths
    weights_sha256  the cache's; a head works on the features of the very weights it was trained on, and no others

    Raises HeadError when the file is missing, is no head, or is one for other features.
    """
    metadata, tensors = _read(path)
    if metadata.get("kind") != LinearHead.kind or metadata.get("format") != FORMAT:
        found = f"kind {metadata.get('kind', 'none')}, format {metadata.get('format', 'none')}"
        raise HeadError(
            f"{path} is not a head that this clipret reads ({found}); expected kind linear, format {FORMAT}."
        )
    head = LinearHead(projections)
    expected = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise HeadError(
            f"head {path} is of other widths than the cache: it has {_shapes(found)}, "
            f"the cache needs {_shapes(expected)}; use a cache of model {metadata.get('model', 'unknown')}."
        )
    if metadata.get("weights_sha256") != weights_sha256:
        raise HeadError(
            f"head {path} was trained on features of model {metadata.get('model', 'unknown')} with weights "
            f"{metadata.get('weights_sha256', 'unknown')[:12]}, the cache's are {weights_sha256[:12]}; they do not fit."
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise HeadError(f"head {path} holds values in {name} that are not finite; train it again.")
    head.load_state_dict(tensors)
    return head


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise HeadError(f"there is no head at {path}; expected a head.safetensors written by clipret train.") from None
    except (SafetensorError, OSError) as error:
        raise HeadError(
            f"{path} is not a readable safetensors file ({error}); expected one by clipret train."
        ) from None


def _parameter(array: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.asarray(array), dtype=torch.float32))


def _shapes(shapes: dict[str, tuple]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
