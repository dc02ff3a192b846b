"""Heads over small encoders, and what clipret makes of captions and images through them, for tests of exports."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipret.backbones.protocol import Backbone
from clipret.exports.checkpoints.stage import load_target
from clipret.exports.checkpoints.verification import Sample, verify
from clipret.exports.targets.target import Source, unit
from clipret.heads.adapter import AdapterHead
from clipret.heads.base import SIDES, Head
from clipret.heads.linear import LinearHead
from tests.helpers.exported import open_here

CAPTIONS = [
    "a red bus",
    "two DOGS on a very long beach at night",
    "a man holds the small train!",
    "it's 3 o'clock " * 9,
]


def linear_head(
    backbone: Backbone,
    *,
    sides: tuple[str, ...] = SIDES,
    width: int | None = None,
    biases: tuple[str, ...] = (),
    seed: int = 0,
) -> LinearHead:
    """The encoder's own projections, changed at random.

    sides   those that are changed
    width   of the embeddings, where it is another
    biases  sides that get one, besides those that have one
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, values in backbone.projections().items():
        if name == "logit_scale":
            continue
        values, side = torch.from_numpy(values), name.partition("/")[0]
        if width is not None:
            values = values[..., :1].expand(*values.shape[:-1], width)
        scale = values.std() if values.dim() > 1 else 0.1
        noise = torch.randn(values.shape, generator=generator) * scale
        tensors[name.replace("/", "_")] = values + noise if side in sides or width is not None else values
    embedding = tensors["text_weight"].shape[1]
    for side in biases:
        tensors[f"{side}_bias"] = torch.randn(embedding, generator=generator)
    return LinearHead(tensors)


def adapter_head(
    backbone: Backbone, *, sides: tuple[str, ...] = SIDES, relu: bool = True, ratio: float = 0.3
) -> AdapterHead:
    """Adapters with values at random behind the encoder's own projections."""
    generator = torch.Generator().manual_seed(0)
    tensors = linear_head(backbone, sides=()).tensors
    width = tensors["text_weight"].shape[1]
    for side in sides:
        tensors[f"{side}_down"] = torch.randn(width, 5, generator=generator)
        tensors[f"{side}_up"] = torch.randn(5, width, generator=generator) * 0.5
    return AdapterHead(tensors, ratio=ratio, relu=relu)


def source_of(backbone: Backbone, head: Head, **about) -> Source:
    """What a target writes; about: log_scale and bias."""
    return Source(head, Path("head.safetensors"), backbone, **about)


def sample_of(source: Source, folder: Path, *, captions: list[str] = CAPTIONS) -> Sample:
    """Captions and noise, with their embeddings by clipret's encoder and head; files are in the folder."""
    folder.mkdir(exist_ok=True)
    backbone, head, generator = source.backbone, source.head, np.random.default_rng(0)
    files, cropped = [], []
    for place, (width, height) in enumerate([(97, 61), (300, 200), (200, 301)]):
        files.append(folder / f"{place}.png")
        coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
        cropped.append(folder / f"{place}-cropped.png")
        backbone.crop(Image.open(files[-1])).save(cropped[-1])
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in cropped]))
    with torch.no_grad():
        expected = {
            "text": unit(head.embed_texts(backbone.encode_text(backbone.pad(backbone.tokenize(captions)[0])))),
            "image": unit(head.embed_images(backbone.encode_image(pixels))),
        }
    return Sample(captions, files, cropped, expected, cached={}, backbone=backbone)


def written(target: str, source: Source, folder: Path) -> Path:
    """The folder, as a target writes it."""
    folder.mkdir()
    assert load_target(target).refusal(source) is None
    load_target(target).write(source, folder)
    return folder


def verified(target: str, source: Source, folder: Path, **settings) -> list[dict]:
    """Write, open, compare: what verify returns. Raises ExportError.

    folder    an empty one, which gets more
    settings  of verification and sample_of
    """
    place = written(target, source, folder / "exported")
    return verification(target, source, place, scratch=folder / "scratch", **settings)


def verification(
    target: str, source: Source, folder: Path, *, scratch: Path, fresh: bool = False, **settings
) -> list[dict]:
    """What verify returns for a folder that is written. Raises ExportError.

    fresh  open it in a process of its own, as clipret does, which takes seconds
    """
    with pytest.MonkeyPatch.context() as patch:
        if not fresh:
            open_here(patch)
        return verify(
            load_target(target), target, folder=folder, sample=sample_of(source, scratch, **settings), scratch=scratch
        )
