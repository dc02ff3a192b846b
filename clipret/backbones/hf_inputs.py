"""What transformers' models take: pixels, as their own image processor prepares them, and token ids.

Shape suffixes: B batch, S image side, L token positions.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from clipret.backbones.hf_files import CAUSAL, CONFIG, MASKED, PADDED, Source, explained, quiet
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.errors import BackboneError

# Those whose settings say all that they do.
_PROCESSORS = (
    "BitImageProcessor",
    "ChineseCLIPImageProcessor",
    "CLIPImageProcessor",
    "DeiTImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
)
# Far from square, both ways.
_PROBES = ((97, 61), (40, 83))
_PROBE_TEXTS = ("A dog", "Two men ride on 3 trains!")
# Files that decide how a text becomes ids.
_TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# Text models whose positions are counted from the id of the padding on.
_OFFSET = ("altclip_text_model", "camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
# Text models of a VisionTextDualEncoder that are CLIP's.
_CAUSAL = ("clip_text_model", "metaclip_2_text_model")
# ChineseCLIP was trained on captions of 52 tokens; its table of positions is that of the BERT that it began as.
_TRAINED = {"ChineseCLIPModel": 52}


@dataclass(frozen=True)
class Crop:
    """PIL image -> PIL RGB image of S x S, by a processor of transformers. Can be pickled."""

    processor: Any

    def __call__(self, image: Image.Image) -> Image.Image:
        values = self.processor(images=image.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="np")[
            "pixel_values"
        ][0]
        if values.dtype != np.uint8 or values.shape[0] != 3:
            raise BackboneError(
                f"{type(self.processor).__name__} makes pixels of {values.dtype} and shape {values.shape}; expected "
                f"three channels of bytes."
            )
        return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))


class Pixels(NamedTuple):
    """How images become pixels: crop and side, as of an ImageSide, and the rest of it in words."""

    crop: Crop
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    words: str


def load_pixels(source: Source, *, side: int) -> Pixels:
    """The preprocessing of a folder; side: of the images that the model takes. Raises BackboneError."""
    import transformers

    # Of PIL, whatever else is installed: others resize to other pixels.
    newer = int(transformers.__version__.split(".")[0]) >= 5
    backend = {"backend": "pil"} if newer else {"use_fast": False}
    with quiet(), explained(source.name):
        processor = transformers.AutoImageProcessor.from_pretrained(
            source.folder, trust_remote_code=False, local_files_only=True, **backend
        )
    settings = processor.to_dict()
    kind = settings.get("image_processor_type", type(processor).__name__)
    if kind not in _PROCESSORS:
        raise BackboneError(
            f"the images of {source.name} are prepared by a {kind}, which clipret does not know; expected one of "
            f"{', '.join(_PROCESSORS)} in preprocessor_config.json."
        )
    factor = settings.get("rescale_factor", 1 / 255)
    if not settings.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        applied = f"by {factor:.6g}" if settings.get("do_rescale", True) else "not"
        raise BackboneError(
            f"the pixels of {source.name} are rescaled {applied} in preprocessor_config.json; clipret supports 1/255 "
            f"only: do_rescale true, rescale_factor 0.00392156862745098."
        )
    crop = Crop(processor)
    with quiet(), explained(source.name):
        sizes = [crop(Image.new("RGB", size)).size for size in _PROBES]
    if sizes != [(side, side)] * len(_PROBES):
        width, height = next(size for size in sizes if size != (side, side))
        raise BackboneError(
            f"the preprocessing of {source.name} makes images of {width} x {height} pixels (preprocessor_config.json); "
            f"its model takes {side} x {side}."
        )
    normalises = settings.get("do_normalize", True)
    mean, std = (settings[f"image_{name}"] if normalises else value for name, value in (("mean", 0.0), ("std", 1.0)))
    mean, std = (tuple(np.broadcast_to(values, 3).tolist()) for values in (mean, std))
    return Pixels(crop, side, mean, std, _described(settings, kind=kind, side=side, mean=mean, std=std))


def _described(settings: dict, *, kind: str, side: int, mean: tuple, std: tuple) -> str:
    """The preprocessing, in words."""
    steps = [f"{side} px"]
    if settings.get("do_resize"):
        size = settings["size"]
        edge = size.get("shortest_edge")
        steps += [f"shortest side to {edge}" if edge else f"squash to {size['height']} x {size['width']}"]
        steps += [Image.Resampling(settings["resample"]).name.lower()]
    if settings.get("do_center_crop"):
        steps += [f"centre crop {settings['crop_size']['height']}"]
    if settings.get("do_pad"):
        steps += ["padded"]
    numbers = ["/".join(f"{value:.6g}" for value in values) for values in (mean, std)]
    return f"{', '.join(steps)}, mean {numbers[0]}, std {numbers[1]} ({kind})"


@dataclass(frozen=True)
class Tokens:
    """Texts -> ids, as a tokenizer of transformers gives them. Can be pickled."""

    tokenizer: Any
    length: int

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(B, length) int64, truncated, and padded at the end."""
        settings = {"padding": "max_length", "truncation": True, "max_length": self.length}
        return self.tokenizer(texts, **settings, return_tensors="pt")["input_ids"]

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of texts before truncation, start and end included."""
        return [len(ids) for ids in self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def load_tokens(source: Source, *, config: Any) -> LibraryTokenizer:
    """The folder's own tokenizer, with the context length of its model; config: the model's. Raises BackboneError."""
    import transformers

    reads, text = reading_of(source, config=config), config.text_config
    with quiet(), explained(source.name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=False, local_files_only=True
        )
        ids = [tokenizer(probe)["input_ids"] for probe in _PROBE_TEXTS]
    if reads == PADDED and tokenizer.padding_side != "right":
        raise BackboneError(
            f"the tokenizer of {source.name} pads at the left, and the model reads the padding; SigLIP was trained "
            f'with padding at the right: expected "padding_side": "right" in tokenizer_config.json.'
        )
    # Nowhere else does the side change what a model makes of a text.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None and reads == CAUSAL:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise BackboneError(f"the tokenizer of {source.name} has no padding; expected a pad_token in its files.")
    if len(tokenizer) > text.vocab_size:
        raise BackboneError(
            f"the tokenizer of {source.name} has {len(tokenizer):,} tokens, its model {text.vocab_size:,}; expected "
            f"the tokenizer that the model was trained with."
        )
    if reads == CAUSAL:
        _require_end(ids, source=source, text=text)
    tokens = Tokens(tokenizer, _context_length(source, text=text, tokenizer=tokenizer))
    ends = reads != MASKED and all(row[-1] == tokenizer.eos_token_id for row in ids)
    return LibraryTokenizer(
        tokenize=tokens,
        count=tokens.count,
        context_length=tokens.length,
        end=tokenizer.eos_token_id if ends else None,
        padding=tokenizer.pad_token_id,
        cut=reads != PADDED,
    )


def reading_of(source: Source, *, config: Any) -> str:
    """How the model reads a text: causal, masked or padded."""
    return CAUSAL if config.text_config.model_type in _CAUSAL else source.kind.reads


def _require_end(ids: list[list[int]], *, source: Source, text: Any) -> None:
    """CLIP's text model takes the first eos_token_id of a text, and where there is none its first token, silently."""
    end = text.eos_token_id
    for row in ids:
        # 2 stands for the highest id in CLIP's first configs; not so in MetaClip 2's.
        highest = end == 2 and text.model_type == "clip_text_model"
        place = row.index(max(row)) if highest else row.index(end) if end in row else 0
        if place != len(row) - 1:
            raise BackboneError(
                f"eos_token_id of text_config in {source.folder / CONFIG} is {end}, so that transformers reads a text at "
                f"token {place + 1} of {len(row)}; its tokenizer ends texts with {row[-1]}: write that there."
            )


def _context_length(source: Source, *, text: Any, tokenizer: Any) -> int:
    """The most tokens that a text model has positions for, and its tokenizer and training allow."""
    positions = getattr(text, "max_position_embeddings", None) or tokenizer.model_max_length
    offset = text.pad_token_id + 1 if text.model_type in _OFFSET else 0
    return min(positions - offset, tokenizer.model_max_length, _TRAINED.get(source.kind.name, positions))


def describe_tokens(tokens: LibraryTokenizer, *, source: Source, reads: str) -> str:
    """The tokenizer, in words."""
    tokenizer, digest = tokens.tokenize.tokenizer, hashlib.sha256()
    for name in _TOKENIZER_FILES:
        if (source.folder / name).is_file():
            digest.update((source.folder / name).read_bytes())
    with quiet():
        upper, lower = tokenizer([_PROBE_TEXTS[0], _PROBE_TEXTS[0].lower()])["input_ids"]
    case = "lower-cased" if upper == lower else "case kept"
    padding = {CAUSAL: "read up to the end", MASKED: "padding masked", PADDED: "padded to that, no mask"}
    length = f"{tokens.context_length} tokens"
    return f"{type(tokenizer).__name__} {digest.hexdigest()[:12]}, {length}, {case}, {padding[reads]}"
