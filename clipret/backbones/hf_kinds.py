"""The models of images and texts in transformers that clipret takes: a row a class. Importing this loads no library."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

CONFIG = "config.json"
# The names that transformers writes and reads, in the order in which it looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

CAUSAL, MASKED, PADDED = "causal", "masked", "padded"


class Kind(NamedTuple):
    """A class of transformers.

    name         of the class
    image, text  where its projections are; None: there is none
    reads        causal: a text is read up to its end. masked: padding is masked. padded: padding is read as well
    pooling      of image and text, in words
    """

    name: str
    image: str | None
    text: str
    reads: str
    pooling: str


_NAMES = ("visual_projection", "text_projection")
# What config.json calls a model (model_type) -> its class.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "clip": Kind("CLIPModel", *_NAMES, CAUSAL, "class token; end of text"),
        "metaclip_2": Kind("MetaClip2Model", *_NAMES, CAUSAL, "class token; end of text"),
        "siglip": Kind("SiglipModel", None, "text_model.head", PADDED, "attention; last position"),
        "altclip": Kind("AltCLIPModel", *_NAMES, MASKED, "class token; first token, transformed"),
        "chinese_clip": Kind("ChineseCLIPModel", *_NAMES, MASKED, "class token; first token"),
        "vision-text-dual-encoder": Kind("VisionTextDualEncoderModel", *_NAMES, MASKED, "the poolers of both models"),
    }
)
