"""open_clip's models: CLIP, SigLIP, EVA02, ConvNeXt, MobileCLIP, CoCa, PE, and text towers of Hugging Face.

Shape suffixes: B batch, S image side, L token positions, D feature width, E embedding width.
"""

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import Compose, Normalize, ToTensor

from clipret.backbones.hub import digest_of
from clipret.backbones.library import ImageSide, LibraryBackbone, Slot, TextSide, identity, measure_width
from clipret.backbones.loading import explained
from clipret.backbones.open_clip_sources import (
    CONFIG,
    FOLDER,
    Source,
    find_architecture,
    find_source,
    unknown_model,
)
from clipret.backbones.openai import as_openai
from clipret.backbones.origin import Origin
from clipret.backbones.pixels import describe_statistics
from clipret.backbones.protocol import Backbone
from clipret.backbones.sizes import require_size
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.errors import BackboneError

# What a config may say of the sides of a model of OpenAI's architecture; anything else is another architecture.
_OPENAI_VISION = {"image_size", "layers", "width", "patch_size", "head_width"}
_OPENAI_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}


def load(name: str, *, device: str, precision: str, compiled: bool, download_root: Path | None) -> Backbone:
    """A frozen encoder by a name that begins with open_clip:, in eval mode; see backbones.load_backbone.

    One of OpenAI's architecture runs through our own towers. Raises BackboneError.
    """
    source = find_source(name, download_root=download_root)
    with explained("open_clip", name):
        import open_clip
        from open_clip.model import get_model_preprocess_cfg
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if source.architecture.startswith(FOLDER):
            require_size(
                lambda: open_clip.create_model(
                    source.architecture, load_weights=False, pretrained_text=False, device="meta"
                ),
                config=Path(source.architecture.removeprefix(FOLDER)) / CONFIG,
                files=[source.weights],
            )
        model = open_clip.create_model(
            source.architecture,
            load_weights=False,
            force_quick_gelu=source.quick_gelu,
            force_preprocess_cfg=dict(source.preprocess),
            pretrained_text=False,
        )
        # Pickles with weights_only.
        open_clip.load_checkpoint(model, str(source.weights))
        config = open_clip.get_model_config(source.architecture) | ({"quick_gelu": True} if source.quick_gelu else {})
        preprocess = image_transform_v2(PreprocessCfg(**get_model_preprocess_cfg(model)), is_train=False)
        tokenizer = open_clip.get_tokenizer(source.architecture, cache_dir=download_root)
    common = {
        "name": name,
        "family": "open_clip",
        "library": f"open_clip_torch {importlib.metadata.version('open_clip_torch')}",
        "weights_sha256": digest_of([source.weights]),
        "precision": precision,
        "compiled": compiled,
        "preprocessing": _described(get_model_preprocess_cfg(model)),
        "origin": _origin(source, model=config, preprocess=get_model_preprocess_cfg(model)),
        "details": _details(config, source, tokenizer=tokenizer),
    }
    if _is_openai(model, config):
        steps = [*preprocess.transforms[:-2], ToTensor(), Normalize(*_statistics(preprocess))]
        return as_openai(model.state_dict(), preprocess=Compose(steps), device=device, **common)
    model.to(device)
    return LibraryBackbone(
        image=_image_side(model, preprocess=preprocess),
        text=_text_side(model, tokenizer=tokenizer),
        logit_scale=float(model.logit_scale.detach().reshape(())),
        **common,
    )


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The model's own tokenizer; the weights are not read. Raises BackboneError."""
    import open_clip

    architecture, _ = find_architecture(name, download_root=download_root)
    with explained("open_clip", name):
        config = open_clip.get_model_config(architecture)
        tokenizer = open_clip.get_tokenizer(architecture, cache_dir=download_root)
    if config is None:
        raise BackboneError(unknown_model(architecture))
    return _tokenizer(tokenizer, cut=False, padding=0)


def _image_side(model: nn.Module, *, preprocess: Compose) -> ImageSide:
    visual = model.visual
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = _statistics(preprocess)
    slot = _image_slot(visual)
    encode = functools.partial(_first, visual)
    width = slot.weight.shape[0] if slot else measure_width(encode, torch.zeros(1, 3, side, side).to(_like(model)))
    return ImageSide(
        model=model,
        encode=encode,
        reference=functools.partial(model.encode_image, normalize=False),
        slot=slot,
        width=width,
        crop=Compose(preprocess.transforms[:-2]),
        side=side,
        mean=mean,
        std=std,
    )


def _image_slot(visual: nn.Module) -> Slot | None:
    """Where the projection of an image side is; None: it has none, as SigLIP's."""
    kind = type(visual).__name__
    if kind == "ModifiedResNet":
        return Slot(visual.attnpool, "c_proj", empty=identity(visual.attnpool.c_proj.in_features))
    if kind == "VisionTransformer":
        return None if visual.proj is None else Slot(visual, "proj")
    if kind != "TimmModel":
        raise BackboneError(f"the image side is a {kind}, which clipret does not support; expected one of open_clip 3.")
    head = visual.head
    if hasattr(head, "mlp"):
        return Slot(head.mlp, "fc2")
    if hasattr(head, "proj"):
        return Slot(head, "proj")
    if hasattr(head, "pool"):
        return Slot(head.pool, "proj")
    classifier = visual.trunk.get_classifier()
    for owner in visual.trunk.modules():
        for name, child in owner.named_children():
            if child is classifier and isinstance(child, nn.Linear):
                return Slot(owner, name)
    return None


def _text_side(model: nn.Module, *, tokenizer: Callable) -> TextSide:
    text = getattr(model, "text", model)
    reference = functools.partial(model.encode_text, normalize=False)
    if hasattr(text, "pooler"):
        projection = text.proj
        at = {nn.Linear: (text, "proj"), nn.Sequential: (projection, str(len(list(projection.children())) - 1))}
        slot = Slot(*at[type(projection)]) if type(projection) in at else None
        encode, cut, padding = functools.partial(_first, text), True, text.config.pad_token_id
    else:
        slot = None if text.text_projection is None else Slot(text, "text_projection", empty=None)
        pool = getattr(text, "pool_type", None) or model.text_pool_type
        cut = text.attn_mask is not None and getattr(text, "cls_emb", None) is None and pool in ("argmax", "eos")
        encode = functools.partial(_encode_causal, text, pool) if cut else functools.partial(_encode_text, model, text)
        padding = getattr(text, "pad_id", 0)
    tokens = _tokenizer(tokenizer, cut=cut, padding=padding)
    width = slot.weight.shape[0] if slot else measure_width(encode, torch.ones(1, tokens.context_length).long())
    return TextSide(model=model, encode=encode, reference=reference, slot=slot, width=width, tokenizer=tokens)


def _encode_causal(text: nn.Module, pool: str, ids: torch.Tensor) -> torch.Tensor:
    """(B, L) ids -> (B, D) at the end of text, for any L that holds the captions: nothing after the end is seen."""
    from open_clip.transformer import text_global_pool

    length, dtype = ids.shape[1], text.transformer.get_cast_dtype()
    x = text.token_embedding(ids).to(dtype) + text.positional_embedding[:length].to(dtype)
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:length, :length]))
    end = getattr(text, "eos_id", None) or getattr(text, "text_eos_id", None)
    return text_global_pool(x, ids, pool, eos_token_id=end)


def _encode_text(model: nn.Module, text: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model.encode_text(ids, normalize=False) if text is model else _first(text, ids)


def _first(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a module returns, or the first of several."""
    outputs = module(inputs)
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _tokenizer(tokenizer: Callable, *, cut: bool, padding: int) -> LibraryTokenizer:
    if hasattr(tokenizer, "eot_token_id"):
        end, count = tokenizer.eot_token_id, functools.partial(_count_simple, tokenizer)
    else:
        inner = tokenizer.tokenizer
        end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
        count = functools.partial(_count_pretrained, tokenizer)
    return LibraryTokenizer(
        tokenize=tokenizer, count=count, context_length=tokenizer.context_length, end=end, padding=padding, cut=cut
    )


def _count_simple(tokenizer: Callable, texts: list[str]) -> list[int]:
    return [len(tokenizer.encode(text)) + 2 for text in texts]


def _count_pretrained(tokenizer: Callable, texts: list[str]) -> list[int]:
    from open_clip.tokenizer import basic_clean, canonicalize_text

    clean = getattr(tokenizer, "clean_fn", None) or (lambda text: canonicalize_text(basic_clean(text)))
    # Not verbose: of long texts it would warn that the model cannot read them.
    return [len(ids) for ids in tokenizer.tokenizer([clean(text) for text in texts], verbose=False)["input_ids"]]


def _is_openai(model: nn.Module, config: dict) -> bool:
    """Whether a model computes what clip's own would with the same weights."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    return (
        type(model).__name__ == "CLIP"
        and config.get("quick_gelu", False)
        and model.logit_bias is None
        and set(config) <= {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
        and set(vision) <= _OPENAI_VISION
        and set(text) <= _OPENAI_TEXT
        and vision.get("head_width", 64) == 64
        and text["heads"] * 64 == text["width"]
    )


def _origin(source: Source, *, model: dict, preprocess: dict) -> Origin:
    folder = source.architecture.removeprefix(FOLDER) if source.architecture.startswith(FOLDER) else None
    return Origin(folder and Path(folder), model, preprocess)


def _details(config: dict, source: Source, *, tokenizer: Callable) -> dict[str, str]:
    text = config["text_cfg"]
    inner = getattr(tokenizer, "tokenizer", None)
    named = "CLIP's byte pairs" if inner is None else f"{type(inner).__name__}{_digest(inner)}"
    arguments = text.get("tokenizer_kwargs", {})
    architecture = source.architecture
    if architecture.startswith(FOLDER):
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        architecture = f"open_clip_config.json {digest[:12]}"
    return {
        "architecture": architecture,
        "tokenizer": f"{named}, {text.get('context_length', 77)} tokens{f', {arguments}' if arguments else ''}",
        "pooling": text.get("pool_type") or text.get("hf_pooler_type") or "argmax",
        **({"revision": source.revision} if source.revision else {}),
    }


def _digest(tokenizer: Any) -> str:
    """Of all that decides how one of transformers' tokenizers cuts a text, which may come from a folder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    # What earlier calls left in it.
    content = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return f" {hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


def _described(config: dict) -> str:
    """The preprocessing, in words."""
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    statistics = describe_statistics(config["mean"], config["std"])
    filled = f" on {config['fill_color']}" if config["resize_mode"] == "longest" else ""
    return f"{size} px, {config['resize_mode']}{filled}, {config['interpolation']}, {statistics}"


def _statistics(preprocess: Compose) -> tuple[tuple, tuple]:
    normalise = preprocess.transforms[-1]
    return tuple(normalise.mean), tuple(normalise.std)


def _like(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
