"""The libraries of encoders of images alone and of text alone, of which a pair has two. Importing this loads none."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Library(NamedTuple):
    """Encoders of one side, or of either.

    module   has `load_image`, `load_text` or both, called with the name and download_root, which return a Half; beside
             load_text, `load_tokenizer`, called the same way
    sides    image, text
    example  of a name, for messages
    needs    the packages that are imported, as pip calls them
    extra    of this package, that installs them
    """

    module: str
    sides: tuple[str, ...]
    example: str
    needs: tuple[str, ...]
    extra: str


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "timm": Library("clipret.backbones.unimodal_timm", ("image",), "vit_small_patch14_dinov2", ("timm",), "timm"),
        "hf": Library("clipret.backbones.unimodal_hf", ("image", "text"), "ORG/NAME", ("transformers",), "hf"),
        "st": Library("clipret.backbones.sentences", ("text",), "all-MiniLM-L6-v2", ("sentence-transformers",), "hf"),
    }
)
