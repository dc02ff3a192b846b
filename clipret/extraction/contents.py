"""The contents of a cache before the first feature is written: rows, settings, versions."""

import datetime
from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch

from clipret.backbones.protocol import Backbone
from clipret.cache import SIDES, CacheContents
from clipret.cache.layout import NOTES, PLAIN_NOTES
from clipret.cache.taps import Tap, block_notes
from clipret.config import BATCH_SIZES, FAST_DECODERS, ExtractConfig
from clipret.datasets.base import RetrievalDataset
from clipret.extraction.processes import Rank
from clipret.images import ImageReader, decode_on_device

_COMPARED_IMAGES = 16
_LIBRARIES = ("clipret", "torch", "torchvision", "pillow", "h5py", "numpy")


def cache_contents(
    config: ExtractConfig,
    *,
    dataset: RetrievalDataset,
    backbone: Backbone,
    rank: Rank,
    decoding: dict | None,
    taps: Mapping[str, Tap],
    tap_loss: dict | None,
) -> CacheContents:
    """Everything in the cache except the features.

    decoding  difference between fast and exact decoding, from measured_decoding; None for exact decoding
    taps      of the sides whose tokens are kept, from tapping.plan_taps
    tap_loss  what their type costs, from tapping.measured_loss; None without taps
    """
    kind = backbone.device.type
    blocks = {side: backbone.last_blocks[side] for side in taps}
    inputs = {
        "backbone": backbone.family,
        "weights_sha256": backbone.weights_sha256,
        "precision": backbone.precision,
        "compiled": config.compile,
        "preprocessing": backbone.preprocessing,
        "decode": FAST_DECODERS[kind] if config.decode == "fast" else "exact",
        "background": background_of(config, dataset),
        "caption_clean": config.caption_clean,
        "prompt": config.prompt,
        "dtype": config.dtype,
        "dataset": dataset.name,
        "annotation_sha256": dataset.annotation_sha256,
        **({"pad_images": True} if config.pad_images else {}),
        **({"tap": ", ".join(taps), "tap_dtype": config.tap_dtype} if taps else {}),
        # Another version of a library may compute other features; ours for OpenAI's are compared with clip's each time.
        **({"library": backbone.library, **backbone.details} if backbone.details else {}),
    }
    about = {
        "model": backbone.name,
        "library": backbone.library,
        "versions": {name: version(name) for name in _LIBRARIES},
        "context_length": backbone.context_length,
        "device": torch.cuda.get_device_name(backbone.device) if kind == "cuda" else kind,
        "kernels": backbone.kernels,
        "batch_size": config.batch_size or BATCH_SIZES[kind],
        "decoding": decoding,
        **({"blocks": block_notes(blocks), "tap_loss": tap_loss} if taps else {}),
        "root": str(dataset.root),
        "split_rule": dataset.split_rule,
        "remarks": list(dataset.remarks),
        "command": rank.command(config),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return CacheContents(
        **dataset.columns,
        projections=backbone.projections(),
        widths=backbone.widths,
        dtype=config.dtype,
        inputs=inputs,
        about=about,
        notes={side: NOTES[side] if side in taps else PLAIN_NOTES[side] for side in SIDES},
        taps=taps,
        blocks=blocks,
    )


def background_of(config: ExtractConfig, dataset: RetrievalDataset) -> str:
    """How transparent pixels are read: the user's setting, or the data set's default."""
    return config.background or dataset.background


def measured_decoding(backbone: Backbone, *, exact: ImageReader, fast: ImageReader) -> dict | None:
    """The difference between features of fast and exact decoding, on the first images that can be read.

    Returns images (how many), and the mean and minimum of the cosine between the two features of an image: as they
    are, and centred, which is after subtracting the mean feature of these images. None when no image can be read.
    """
    rows = np.arange(min(len(exact.files), 4 * _COMPARED_IMAGES))
    pixels, problems, *_ = exact.read(rows)
    readable = [place for place in range(len(rows)) if place not in problems][:_COMPARED_IMAGES]
    if not readable:
        return None
    if backbone.device.type == "cpu":
        changed, *_ = fast.read(rows[readable])
    else:
        encoded, *_ = fast.read_encoded(rows[readable])
        changed, _ = decode_on_device(encoded, reader=fast, device=backbone.device)
    one, other = (backbone.encode_image(images).double().cpu() for images in (pixels[readable], changed))
    cosines = torch.cosine_similarity(one, other)
    centred = torch.cosine_similarity(one - one.mean(dim=0), other - one.mean(dim=0))
    return {
        "images": len(readable),
        "cosine": {"mean": round(cosines.mean().item(), 6), "min": round(cosines.min().item(), 6)},
        "centred_cosine": {"mean": round(centred.mean().item(), 6), "min": round(centred.min().item(), 6)},
    }
