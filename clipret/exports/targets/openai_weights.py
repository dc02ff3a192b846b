"""The weights of OpenAI's CLIP with a trained head folded into them, by clip's names, and what reads them."""

import torch

from clipret.backbones.openai import OpenAIClip
from clipret.exports.targets.preprocessing import openai_preprocessing, preprocessing_of
from clipret.exports.targets.target import Source, not_a_projection, projections_of

# The id of clip's end of text, the last of its vocabulary.
END = 49407


def refusal(source: Source) -> str | None:
    """Why clip itself cannot compute the embeddings; None: it can."""
    return weights_refusal(source) or _other_reading(source)


def weights_refusal(source: Source) -> str | None:
    """Why there are no such weights; None: there are."""
    if not isinstance(source.backbone, OpenAIClip):
        return f"{source.backbone.name} is not of OpenAI's architecture"
    reason = not_a_projection(source)
    if (
        reason is None
        and hasattr(source.backbone.model.visual, "proj")
        and projections_of(source.head)["image"].bias is not None
    ):
        return "OpenAI's vision transformers have no place for a bias of the image projection"
    if reason is None and projections_of(source.head)["text"].bias is not None:
        return "OpenAI's text side has no place for a bias of the projection"
    return reason


def remarks(source: Source) -> tuple[str, ...]:
    """What of a source these weights have no place for."""
    if source.bias is None:
        return ()
    return (
        f"the bias of the loss, {source.bias:.4g}, has no place there: probabilities need it beside the scale, ranks "
        f"need neither",
    )


def _other_reading(source: Source) -> str | None:
    """Why clip's own tokenizer and preprocessing are not the model's."""
    backbone = source.backbone
    if backbone.own_tokenizer is not None and backbone.own_tokenizer.end != END:
        return f"{backbone.name} has another vocabulary than clip's"
    if preprocessing_of(backbone) != openai_preprocessing(backbone.image_side):
        return f"{backbone.name} takes images that are prepared otherwise than clip does ({backbone.preprocessing})"
    return None


def folded_weights(source: Source) -> dict[str, torch.Tensor]:
    """clip's state dict in float32, with the head in place of the projections; the scale of the loss, if it has one."""
    model, head = source.backbone.model, projections_of(source.head)
    weights = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    if hasattr(model.visual, "proj"):
        weights["visual.proj"] = head["image"].weight.contiguous()
    else:
        weights["visual.attnpool.c_proj.weight"] = head["image"].weight.T.contiguous()
        bias = head["image"].bias
        weights["visual.attnpool.c_proj.bias"] = torch.zeros(head["image"].weight.shape[1]) if bias is None else bias
    weights["text_projection"] = head["text"].weight.contiguous()
    if source.log_scale is not None:
        weights["logit_scale"] = torch.tensor(source.log_scale, dtype=torch.float32)
    return weights
