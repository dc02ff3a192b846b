"""What an export target is: a file in this folder binds TARGET to a Target, and has a row in exports.TARGETS.

Shape suffixes: D feature width, E embedding width, T captions, I images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from clipret.backbones.protocol import Backbone
from clipret.exports.encoder import CacheEncoder
from clipret.heads.base import SIDES, Dense, Head, Normalise

Embed = (
    Callable[[Path, list[str], list[Path]], tuple[np.ndarray, np.ndarray]]
    | Callable[[Path, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
)


@dataclass(frozen=True)
class Source:
    """What is exported: a trained head, and the encoder in front of it.

    head       float32, on the CPU
    head_file  the head's own file
    backbone   float32, on the CPU, whole; None: the target takes the head alone
    encoder    the same, with the cache's settings of reading images and captions
    log_scale  logarithm of the factor of cosines, as the head's loss had it; None: the encoder's own stays
    bias       of the scaled cosines, where the head's loss had one
    """

    head: Head
    head_file: Path
    backbone: Backbone | None = None
    log_scale: float | None = None
    bias: float | None = None
    encoder: CacheEncoder | None = None


@dataclass(frozen=True)
class Way:
    """How a program opens what was written, for verification in a fresh process.

    embed      (folder, captions, image files) -> embeddings of norm 1, (T, E) and (I, E) float32. By the library's own
               code alone: neither clipret's encoders nor its heads. Of a target without an encoder (folder, text
               features (T, D_t), image features (I, D_i))
    tolerance  the largest difference of two embeddings that is rounding
    needs      the package, as Python imports it
    code       Python that opens the folder, for the model card; {folder} stands for its place. Where the target has the
               encoder, it takes `pictures`, PIL images, and `captions`, texts, and leaves `images` and `texts`, their
               embeddings: (n, E) arrays or tensors on the CPU
    remark     what a user should know of it; ""
    cropped    as embed, of image files that are S x S already; None: embed leaves such images as they are
    clean      (caption, encoder) -> the text that the library's tokenizer reads as the encoder reads the caption. What
               it makes of the caption itself is compared apart, and only reported
    """

    embed: Embed
    code: str
    needs: str
    tolerance: float = 1e-5
    remark: str = ""
    cropped: Embed | None = None
    clean: Callable[[str, Backbone], str] = lambda caption, backbone: caption


def no_remarks(source: Source) -> tuple[str, ...]:
    """Of a target that has a place for all there is."""
    return ()


@dataclass(frozen=True)
class Target:
    """A form in which a trained head leaves clipret.

    refusal     Source -> why the target has no place for it, the end of a sentence; None: it has
    write       (Source, empty folder) -> None; writes the files
    ways        name -> Way, the first of which is the target's own
    encoder     whether the encoder is written too; else the head is verified by features of the cache
    library     Hugging Face's name of the library, for the model card's metadata
    remarks     Source -> what of it the target has no place for, though it takes the head: sentences without their stop
    """

    refusal: Callable[[Source], str | None]
    write: Callable[[Source, Path], None]
    ways: Mapping[str, Way]
    encoder: bool = True
    library: str | None = None
    remarks: Callable[[Source], tuple[str, ...]] = no_remarks


def projections_of(head: Head) -> dict[str, Dense] | None:
    """image, text -> the projection that a head is, if it is no more than that and the norm; None: it is more."""
    layers = {side: head.layers(side) for side in SIDES}
    if any(
        part is None or [type(layer) for layer in part] != [Dense, Normalise] or part[0].relu
        for part in layers.values()
    ):
        return None
    return {side: part[0] for side, part in layers.items()}


def not_a_projection(source: Source) -> str | None:
    """Why a head cannot stand in place of the encoder's projections; None: it can."""
    if projections_of(source.head) is None:
        return f"a head of kind {source.head.kind} is more than a projection, and has no place there"
    return None


def unit(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    """(n, E) float32 rows of norm 1."""
    values = np.asarray(embeddings, dtype=np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


NO_WAYS: Mapping[str, Way] = MappingProxyType({})
