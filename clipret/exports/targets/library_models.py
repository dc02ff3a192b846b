"""Models that run as their own library has them, with a trained head in place of their projections."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from clipret.backbones.library import LibraryBackbone
from clipret.exports.targets.target import Source, not_a_projection, projections_of
from clipret.heads.base import Dense


def refusal(source: Source, *, family: str, rebuilt: Callable[[Source], nn.Module]) -> str | None:
    """Why a model of a library cannot have the head in place of its projections; None: it can.

    family   the library's row of FAMILIES
    rebuilt  Source -> the library's model as the config that is written describes it, without values
    """
    backbone = source.backbone
    if not isinstance(backbone, LibraryBackbone) or backbone.family != family or backbone.origin is None:
        return f"{backbone.name} is neither of OpenAI's architecture nor a model of this library"
    reason = not_a_projection(source)
    if reason is not None:
        return reason
    for side, dense in projections_of(source.head).items():
        slot = getattr(backbone, side).slot
        if slot is None and not _is_identity(dense):
            return (
                f"{backbone.name} has no {side} projection, and the head has one (train only the other side: --train)"
            )
        if slot is not None and slot.bias is None and dense.bias is not None:
            return f"the {side} projection of {backbone.name} has no place for a bias"
    if embedding_width(source) == _own_width(backbone):
        return None
    with whole_model(source) as (_, weights):
        described = {name: tuple(tensor.shape) for name, tensor in rebuilt(source).state_dict().items()}
        if described != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
            return f"{backbone.name} cannot have embeddings of another width"
    return None


@contextlib.contextmanager
def whole_model(source: Source) -> Iterator[tuple[nn.Module, dict[str, torch.Tensor]]]:
    """Inside, the library's model with the head in place of its projections; and its state dict, of float32.

    The state dict has the scale and the bias of the loss, where the loss has them and the model a place.
    """
    backbone = source.backbone
    model = backbone.image.model
    with contextlib.ExitStack() as stack:
        for side, dense in projections_of(source.head).items():
            slot = getattr(backbone, side).slot
            if slot is not None:
                other = slot.another(dense.weight, bias=dense.bias)
                stack.enter_context(slot.filled(next(model.parameters()), projection=other))
        # Copies: files of safetensors have no two names for the same values.
        weights = {name: tensor.detach().float().contiguous().clone() for name, tensor in model.state_dict().items()}
        for name, value in (("logit_scale", source.log_scale), ("logit_bias", source.bias)):
            if value is not None and name in weights:
                weights[name].fill_(value)
        yield model, weights


def embedding_width(source: Source) -> int:
    """E of the head."""
    return projections_of(source.head)["text"].weight.shape[1]


def _own_width(backbone: LibraryBackbone) -> int:
    return next(side.slot.weight.shape[1] for side in (backbone.text, backbone.image) if side.slot is not None)


def _is_identity(dense: Dense) -> bool:
    width = dense.weight.shape[0]
    same = dense.weight.shape[1] == width and torch.equal(dense.weight, torch.eye(width))
    return same and (dense.bias is None or not dense.bias.any())
