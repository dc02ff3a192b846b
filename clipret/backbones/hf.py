"""Models of transformers: CLIP, SigLIP 1 and 2, AltCLIP, ChineseCLIP, MetaClip 2, VisionTextDualEncoder.

Shape suffixes: B batch, S image side, L token positions, D feature width, E embedding width.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import Compose, Normalize, ToTensor

from clipret.backbones.hf_files import Source, find_source, library_version, load_files, read_config
from clipret.backbones.hf_kinds import MASKED
from clipret.backbones.hf_openai import clip_weights, is_openai
from clipret.backbones.hf_tokens import describe_tokens, load_tokens, reading_of
from clipret.backbones.hub import digest_of
from clipret.backbones.library import ImageSide, LibraryBackbone, Slot, TextSide
from clipret.backbones.loading import require_weights
from clipret.backbones.openai import as_openai
from clipret.backbones.origin import Origin
from clipret.backbones.processors import Pixels, load_pixels
from clipret.backbones.protocol import Backbone
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.errors import BackboneError

# Image models of a VisionTextDualEncoder that stretch their positions over images of any size.
_ANY_SIDE = ("dinov2", "dinov2_with_registers")


def load(name: str, *, device: str, precision: str, compiled: bool, download_root: Path | None) -> Backbone:
    """A frozen encoder by a name that begins with hf:, in eval mode; see backbones.load_backbone.

    One of OpenAI's architecture runs through our own towers. Raises BackboneError.
    """
    source = find_source(name, download_root=download_root)
    config = read_config(source)
    # First what is read soonest and goes wrong most.
    tokens = load_tokens(source, config=config)
    pixels = load_pixels(source, side=_side_of(config, source=source))
    model, sha256 = _load_model(source)
    reads = reading_of(source, config=config)
    common = {
        "name": name,
        "family": "hf",
        "library": library_version(),
        "weights_sha256": sha256,
        "precision": precision,
        "compiled": compiled,
        "preprocessing": pixels.words,
        "origin": Origin(source.folder),
        "details": {
            "architecture": f"{source.kind.name}, {source.words}",
            "tokenizer": describe_tokens(tokens.tokenize, source=source, reads=reads),
            "pooling": source.kind.pooling,
            **({"revision": source.revision} if source.revision else {}),
        },
    }
    if source.kind.name == "CLIPModel" and is_openai(config, tokens=tokens):
        preprocess = Compose([pixels.crop, ToTensor(), Normalize(pixels.mean, pixels.std)])
        return as_openai(clip_weights(model), preprocess=preprocess, device=device, own_tokenizer=tokens, **common)
    model.to(device)
    return LibraryBackbone(
        image=_image_side(model, source=source, config=config, pixels=pixels),
        text=_text_side(model, source=source, tokens=tokens, masked=reads == MASKED),
        logit_scale=float(model.logit_scale.detach().reshape(())),
        **common,
    )


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The model's own tokenizer; the weights are not read. Raises BackboneError."""
    source = find_source(name, download_root=download_root)
    return load_tokens(source, config=read_config(source))


def _load_model(source: Source) -> tuple[nn.Module, str]:
    """The whole model, in float32 and eval mode, and the sha256 of its weights. Raises BackboneError."""
    import transformers

    kind = getattr(transformers, source.kind.name, None)
    if kind is None:
        raise BackboneError(
            f"{source.name} is a {source.kind.name}, which {library_version()} does not have; install a newer one: "
            f"pip install -U transformers"
        )
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    loaded = load_files(kind, source, attn_implementation=attention)
    require_weights(loaded.missing, name=source.name, kind=source.kind.name, resized=loaded.resized)
    return loaded.model, digest_of(loaded.files)


def _side_of(config: Any, *, source: Source) -> int | None:
    """S: height and width of the images that a model takes; None: any."""
    vision = config.vision_config
    if vision.model_type in _ANY_SIDE:
        return None
    side = vision.image_size
    sides = {side} if isinstance(side, int) else set(side)
    if len(sides) > 1:
        raise BackboneError(f"{source.name} takes images of {' x '.join(map(str, side))} pixels; clipret's are square.")
    return sides.pop()


def _image_side(model: nn.Module, *, source: Source, config: Any, pixels: Pixels) -> ImageSide:
    slot, encode = _slot(model, source.kind.image), functools.partial(_encode_image, model)
    return ImageSide(
        model=model,
        encode=encode,
        reference=encode,
        slot=slot,
        width=slot.weight.shape[0] if slot else config.vision_config.hidden_size,
        crop=pixels.crop,
        side=pixels.side,
        mean=pixels.mean,
        std=pixels.std,
    )


def _text_side(model: nn.Module, *, source: Source, tokens: LibraryTokenizer, masked: bool) -> TextSide:
    slot = _slot(model, source.kind.text)
    encode = functools.partial(_encode_text, model, padding=tokens.padding if masked else None)
    width = slot.weight.shape[0]
    return TextSide(model=model, encode=encode, reference=encode, slot=slot, width=width, tokenizer=tokens)


def _slot(model: nn.Module, place: str | None) -> Slot | None:
    """The projection at a dotted place of a model."""
    if place is None:
        return None
    owner, _, name = place.rpartition(".")
    return Slot(model.get_submodule(owner), name)


def _encode_image(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What get_image_features returns, which is not normalised; without the projection, what goes into it."""
    return _pooled(model.get_image_features(pixel_values=pixels), side="image")


def _encode_text(model: nn.Module, ids: torch.Tensor, *, padding: int | None) -> torch.Tensor:
    """What get_text_features returns for (B, L) ids; padding: the id at the end that is masked, None: no mask.

    A causal text is read at its end, which sees nothing of what follows; SigLIP reads its padding.
    """
    mask = {} if padding is None else {"attention_mask": _until_last(ids != padding)}
    return _pooled(model.get_text_features(input_ids=ids, **mask), side="text")


def _until_last(filled: torch.Tensor) -> torch.Tensor:
    """(B, L) bool -> int64, 1 up to the last that is true. A sum, which ONNX has, unlike the running maximum."""
    return (filled.flip(1).long().cumsum(dim=1).flip(1) > 0).long()


def _pooled(output: Any, *, side: str) -> torch.Tensor:
    """The features: in transformers 5 in an object, in 4 as they are."""
    features = output if isinstance(output, torch.Tensor) else getattr(output, "pooler_output", None)
    if features is None:
        # So it is of some ChineseCLIPs in some versions of transformers 4, too.
        raise BackboneError(
            f"the {side} side of this model has no pooled output in {library_version()}; clipret needs it."
        )
    return features
