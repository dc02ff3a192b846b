"""transformers' encoders of images alone and of text alone: hf/ORG/NAME of the hub, hf/FOLDER."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipret.backbones.hf_files import Loaded, Source, find_model, library_version, load_files, read_config
from clipret.backbones.hf_kinds import MASKED
from clipret.backbones.hf_tokens import (
    Tokens,
    context_length,
    describe_tokens,
    open_tokenizer,
    require_vocabulary,
)
from clipret.backbones.library import ImageSide, TextSide, measure_width
from clipret.backbones.loading import explained, require_weights
from clipret.backbones.processors import load_pixels
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.backbones.unimodal import Half, mask_tokenizer, masked, pad_right, revision_of
from clipret.errors import BackboneError

_POOLER, _CLASS, _MEAN = "pooler_output", "class token", "mean over the tokens"


def load_image(name: str, *, download_root: Path | None) -> Half:
    """The image half by what follows hf/, such as DINOv2. Raises BackboneError."""
    source = find_model(name, option="pair:hf/FOLDER+TEXT", download_root=download_root)
    pixels = load_pixels(source, side=None)
    loaded = _load(source)
    model = loaded.model
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise BackboneError(
            f"{name} is a {type(model).__name__}, which is no encoder of images; expected such as DINOv2."
        )
    blank = torch.zeros(2, 3, pixels.side, pixels.side)
    has_pooler = _has_pooler(loaded, name=name)
    with explained("transformers", name):
        if has_pooler and _outputs(model, pixel_values=blank).get("pooler_output") is not None:
            pooling = _POOLER
        else:
            pooling = _CLASS if _has_class_token(model) else _MEAN
        encode = functools.partial(_image_features, model=model, pooling=pooling)
        width = measure_width(encode, blank)
    side = ImageSide(
        model=model,
        encode=encode,
        reference=encode,
        slot=None,
        width=width,
        crop=pixels.crop,
        side=pixels.side,
        mean=pixels.mean,
        std=pixels.std,
    )
    details = {
        "image_encoder": f"{type(model).__name__}, {source.words}",
        "image_pooling": pooling,
        **revision_of("image", source.revision),
    }
    return Half(side, library_version(), loaded.files, details, pixels.words)


def load_text(name: str, *, download_root: Path | None) -> Half:
    """The text half by what follows hf/. Raises BackboneError."""
    source = find_model(name, option="pair:IMAGE+hf/FOLDER", download_root=download_root)
    tokens = _tokens(source)
    loaded = _load(source, text=True)
    model = loaded.model
    if getattr(model, "main_input_name", "") != "input_ids":
        raise BackboneError(f"{name} is a {type(model).__name__}, which is no encoder of text; expected such as BERT.")
    require_vocabulary(tokens.tokenizer, config=model.config, name=name)
    has_pooler = _has_pooler(loaded, name=name)
    padding, probe = tokens.tokenizer.pad_token_id, torch.tensor(tokens.rows(["a photo"]))
    with explained("transformers", name):
        outputs = _outputs(model, **masked(probe, padding=padding))
        pooling = _POOLER if has_pooler and outputs.get("pooler_output") is not None else _MEAN
        encode = functools.partial(_text_features, model=model, padding=padding, pooling=pooling)
        width = measure_width(encode, probe)
    tokenizer = mask_tokenizer(tokens)
    side = TextSide(model=model, encode=encode, reference=encode, slot=None, width=width, tokenizer=tokenizer)
    details = {
        "text_encoder": f"{type(model).__name__}, {source.words}",
        "tokenizer": describe_tokens(tokens, source=source, reads=MASKED),
        "text_pooling": pooling,
        **revision_of("text", source.revision),
    }
    return Half(side, library_version(), loaded.files, details)


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The tokenizer of a text half; no weights are read. Raises BackboneError."""
    return mask_tokenizer(_tokens(find_model(name, option="pair:IMAGE+hf/FOLDER", download_root=download_root)))


def _tokens(source: Source) -> Tokens:
    tokenizer = pad_right(open_tokenizer(source), name=source.name)
    return Tokens(tokenizer, context_length(read_config(source), tokenizer=tokenizer))


def _load(source: Source, *, text: bool = False) -> Loaded:
    """The encoder; one of images and text together is refused."""
    config = read_config(source)
    if hasattr(config, "text_config") and hasattr(config, "vision_config"):
        raise BackboneError(
            f"{source.name} is a {config.model_type}, a model of images and text together; take an encoder of one of "
            f"them."
        )
    from transformers import AutoModel, AutoModelForTextEncoding

    # Encoders alone, of models such as T5.
    is_encoder = text and type(config) in AutoModelForTextEncoding._model_mapping
    return load_files(AutoModelForTextEncoding if is_encoder else AutoModel, source)


def _has_pooler(loaded: Loaded, *, name: str) -> bool:
    """Whether the pooler, if there is one, has weights. Raises BackboneError where other weights are missing."""
    # Of half a pooler the other half would be random numbers.
    names = {name for name, _ in loaded.model.named_parameters() if name.startswith("pooler.")}
    others = [weight for weight in loaded.missing if weight not in names or names - set(loaded.missing)]
    require_weights(others, name=name, kind=type(loaded.model).__name__, resized=loaded.resized)
    return not loaded.missing


def _outputs(model: nn.Module, **inputs: torch.Tensor) -> Any:
    with torch.inference_mode():
        return model(**inputs)


def _has_class_token(model: nn.Module) -> bool:
    return any(name.rpartition(".")[2] in ("cls_token", "class_token") for name, _ in model.named_parameters())


def _image_features(pixels: torch.Tensor, *, model: nn.Module, pooling: str) -> torch.Tensor:
    outputs = model(pixel_values=pixels)
    if pooling == _POOLER:
        # Of convolutions (B, D, 1, 1).
        return outputs.pooler_output.flatten(1)
    states = outputs.last_hidden_state
    if pooling == _CLASS:
        return states[:, 0]
    return states.mean(dim=(2, 3)) if states.dim() == 4 else states.mean(dim=1)


def _text_features(ids: torch.Tensor, *, model: nn.Module, padding: int, pooling: str) -> torch.Tensor:
    inputs = masked(ids, padding=padding)
    outputs = model(**inputs)
    if pooling == _POOLER:
        return outputs.pooler_output
    states, mask = outputs.last_hidden_state, inputs["attention_mask"][..., None]
    return (states * mask).sum(dim=1) / mask.sum(dim=1)
