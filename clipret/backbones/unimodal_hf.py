"""transformers' encoders of images alone and of text alone: hf/ORG/NAME of the hub, hf/FOLDER."""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipret.backbones.hf_tokens import tokenizer_digest
from clipret.backbones.hub import digest_of
from clipret.backbones.library import ImageSide, TextSide, measure_width
from clipret.backbones.processor_crop import read_processing
from clipret.backbones.sizes import require_size
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.backbones.unimodal import (
    PADDING,
    Half,
    calm,
    find_folder,
    masked,
    pad_ids,
    require_complete,
    require_weights,
)
from clipret.errors import BackboneError

_EXPECTED = "model.safetensors beside config.json"
# What tokenizers say that know no limit.
_NO_LIMIT = 1 << 20
_USUAL_LENGTH = 512
# Position ids of these begin behind that of the padding.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")
_POOLER, _CLASS, _MEAN = "pooler_output", "class token", "mean over the tokens"


def load_image(name: str, *, download_root: Path | None) -> Half:
    """The image half by what follows hf/, such as DINOv2. Raises BackboneError."""
    folder, revision = _folder(name, download_root, option="pair:hf/FOLDER+TEXT")
    files = require_weights(folder, expected=_EXPECTED)
    processing = read_processing(folder, name=name)
    model, missing = _load(folder, files, name=name)
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise BackboneError(
            f"{name} is a {type(model).__name__}, which is no encoder of images; expected such as DINOv2."
        )
    blank = torch.zeros(2, 3, processing.side, processing.side)
    has_pooler = _has_pooler(model, missing, what=name)
    with calm("transformers", name):
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
        crop=processing.crop,
        side=processing.side,
        mean=processing.mean,
        std=processing.std,
    )
    details = {
        "image_encoder": _described(model, folder),
        "image_pooling": pooling,
        **_revision("image", revision),
    }
    return Half(side, _library(), files, details, processing.described)


def load_text(name: str, *, download_root: Path | None) -> Half:
    """The text half by what follows hf/. Raises BackboneError."""
    folder, revision = _folder(name, download_root)
    files = require_weights(folder, expected=_EXPECTED)
    tokenizer = _open_tokenizer(folder, name=name)
    model, missing = _load(folder, files, name=name, text=True)
    if getattr(model, "main_input_name", "") != "input_ids":
        raise BackboneError(f"{name} is a {type(model).__name__}, which is no encoder of text; expected such as BERT.")
    has_pooler = _has_pooler(model, missing, what=name)
    padding, probe = tokenizer.pad_token_id, torch.tensor([tokenizer("a photo")["input_ids"]])
    with calm("transformers", name):
        outputs = _outputs(model, **masked(probe, padding=padding))
        pooling = _POOLER if has_pooler and outputs.get("pooler_output") is not None else _MEAN
        encode = functools.partial(_text_features, model=model, padding=padding, pooling=pooling)
        width = measure_width(encode, probe)
    tokens = _tokenizer(tokenizer, length=_context_length(tokenizer, folder))
    side = TextSide(model=model, encode=encode, reference=encode, slot=None, width=width, tokenizer=tokens)
    details = {
        "text_encoder": _described(model, folder),
        "tokenizer": f"{type(tokenizer).__name__} {tokenizer_digest(folder)}, {tokens.context_length:,} tokens",
        "text_pooling": pooling,
        **_revision("text", revision),
    }
    return Half(side, _library(), files, details)


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The tokenizer of a text half; no weights are read. Raises BackboneError."""
    folder, _ = _folder(name, download_root)
    tokenizer = _open_tokenizer(folder, name=name)
    return _tokenizer(tokenizer, length=_context_length(tokenizer, folder))


def _folder(name: str, root: Path | None, *, option: str = "pair:IMAGE+hf/FOLDER") -> tuple[Path, str]:
    folder, revision = find_folder(name, repository=name, option=option, cache=root)
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{folder} has no config.json; expected a folder as transformers saves it.")
    return folder, revision


def _load(folder: Path, files: list[Path], *, name: str, text: bool = False) -> tuple[nn.Module, list[str]]:
    """The model, and the names of its parameters that are not in its files."""
    with calm("transformers", name):
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

        settings = {"trust_remote_code": False, "local_files_only": True}
        config = AutoConfig.from_pretrained(str(folder), **settings)
        if hasattr(config, "text_config") and hasattr(config, "vision_config"):
            raise BackboneError(
                f"{name} is a {config.model_type}, a model of images and text together; take an encoder of one of them."
            )
        # Encoders alone, of models such as T5.
        kind = (
            AutoModelForTextEncoding if text and type(config) in AutoModelForTextEncoding._model_mapping else AutoModel
        )
        require_size(lambda: kind.from_config(config), config=folder / "config.json", files=files)
        model, information = kind.from_pretrained(str(folder), output_loading_info=True, **settings)
    return model.float().eval(), sorted(information["missing_keys"])


def _described(model: nn.Module, folder: Path) -> str:
    """Its class, and what else decides what it computes with the same weights."""
    return f"{type(model).__name__}, config.json {digest_of([folder / 'config.json'])[:12]}"


def _has_pooler(model: nn.Module, missing: list[str], *, what: str) -> bool:
    """Whether the pooler, if there is one, has weights. Raises BackboneError where other weights are missing."""
    pooler = [name for name in missing if name.startswith("pooler.")]
    has_pooler = any(name.startswith("pooler.") for name, _ in model.named_parameters() if name not in missing)
    # Of half a pooler the other half would be random numbers.
    require_complete(missing if has_pooler else [name for name in missing if name not in pooler], what=what)
    return not missing


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


def _open_tokenizer(folder: Path, *, name: str) -> Any:
    with calm("transformers", f"the tokenizer of {name}"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, padding_side="right", truncation_side="right"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise BackboneError(f"the tokenizer of {name} has no token for padding; expected an encoder such as BERT.")
    return tokenizer


def _context_length(tokenizer: Any, folder: Path) -> int:
    """The most tokens of a caption, by the tokenizer and the model's positions; 512 where neither says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _NO_LIMIT else []
    if isinstance(positions, int) and positions > 0:
        offset = tokenizer.pad_token_id + 1 if config.get("model_type") in _OFFSET_POSITIONS else 0
        limits.append(positions - offset)
    return min(limits, default=_USUAL_LENGTH)


def _tokenizer(tokenizer: Any, *, length: int) -> LibraryTokenizer:
    return LibraryTokenizer(
        tokenize=functools.partial(_tokenize, tokenizer=tokenizer, length=length),
        count=functools.partial(_count, tokenizer=tokenizer),
        context_length=length,
        end=None,
        padding=PADDING,
        cut=True,
    )


def _tokenize(texts: list[str], *, tokenizer: Any, length: int) -> torch.Tensor:
    return pad_ids(tokenizer(texts, truncation=True, max_length=length)["input_ids"])


def _count(texts: list[str], *, tokenizer: Any) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def _revision(side: str, revision: str) -> dict[str, str]:
    return {f"{side}_revision": revision} if revision else {}


def _library() -> str:
    return f"transformers {version('transformers')}"
