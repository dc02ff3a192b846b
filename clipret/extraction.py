"""Stage 1: a data set and a frozen backbone -> features.h5."""

import datetime
import os
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version

import numpy as np
import torch
from torch.utils.data import DataLoader

from clipret.backbones import Backbone, load_backbone
from clipret.cache import PENDING, UNUSABLE, CacheContents, CacheWriter, open_writer
from clipret.config import ExtractConfig, to_command
from clipret.datasets import RetrievalDataset, load_dataset
from clipret.devices import choose_device
from clipret.errors import BackboneError, DatasetError
from clipret.images import ImageBatches
from clipret.progress import Progress, ProgressCallback, silent


def extract(config: ExtractConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write the penultimate features of a data set to its cache, or complete the cache that is there.

    on_progress  called after every batch, with phase "images", then "captions"

    Before the first batch is written, features times projection are compared with clip's own output.

    Returns cache (path), fingerprint, images, captions, problems (images without a usable feature), extracted_images,
    extracted_captions (of this call; less than all after an interruption), batch_size and seconds.

    Raises DatasetError, BackboneError or CacheError, each with what to do next. Whatever was finished is kept, and the
    same call goes on from there.
    """
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    dataset = load_dataset(config.dataset, root=config.root)
    begun = config.cache.exists()
    if not begun:
        _require_files(dataset, range(len(dataset.image_ids)))
    backbone = load_backbone(config.model, device=device, download_root=config.download_root)
    contents = _contents(config, dataset=dataset, backbone=backbone)
    with open_writer(config.cache, contents) as writer:
        # Another size would give a batch other bits than an uninterrupted extraction gives it.
        batch_size = writer.about["batch_size"]
        todo = {side: int(np.sum(states == PENDING)) for side, states in writer.states.items()}
        image_batches = _pending(writer.states["image"], batch_size)
        if begun:
            _require_files(dataset, (row for rows in image_batches for row in rows))
        loader = _image_loader(config, dataset=dataset, backbone=backbone, batches=image_batches)
        _extract_images(writer, loader, backbone=backbone, on_progress=on_progress)
        texts = [config.prompt.replace("{}", caption) for caption in dataset.captions]
        batches = _pending(writer.states["text"], batch_size)
        _extract_texts(writer, texts, batches=batches, backbone=backbone, on_progress=on_progress)
        problems = int(np.sum(writer.states["image"] == UNUSABLE))
    return {
        "cache": str(config.cache),
        "fingerprint": contents.fingerprint,
        "images": len(dataset.image_ids),
        "captions": len(dataset.captions),
        "problems": problems,
        "extracted_images": todo["image"],
        "extracted_captions": todo["text"],
        "batch_size": batch_size,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _contents(config: ExtractConfig, *, dataset: RetrievalDataset, backbone: Backbone) -> CacheContents:
    inputs = {
        "backbone": "openai",
        "weights_sha256": backbone.weights_sha256,
        "precision": backbone.precision,
        "preprocessing": f"clip {backbone.image_side} px",
        "background": config.background or dataset.background,
        "prompt": config.prompt,
        "dtype": config.dtype,
        "dataset": dataset.name,
        "annotation_sha256": dataset.annotation_sha256,
    }
    about = {
        "model": backbone.name,
        "library": backbone.library,
        "versions": {name: version(name) for name in ("clipret", "torch", "torchvision", "pillow", "h5py", "numpy")},
        "context_length": backbone.model.context_length,
        "device": backbone.device.type,
        "batch_size": config.batch_size,
        "root": str(dataset.root),
        "command": to_command("extract", config),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return CacheContents(
        image_ids=dataset.image_ids,
        image_files=dataset.image_files,
        image_splits=dataset.image_splits,
        captions=dataset.captions,
        caption_images=dataset.caption_images,
        projections=backbone.projections(),
        dtype=config.dtype,
        inputs=inputs,
        about=about,
    )


def _require_files(dataset: RetrievalDataset, rows: Iterable[int]) -> None:
    missing = [name for row in rows if not (dataset.root / (name := dataset.image_files[row])).is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DatasetError(
            f"{len(missing)} of {len(dataset.image_ids)} images of '{dataset.name}' are not in {dataset.root}: "
            f"{shown}. Put them there, or give the right folder with --root."
        )


def _pending(states: np.ndarray, batch_size: int) -> list[range]:
    """The batches that hold a row still to do. Cut by row number, so that a resumed extraction cuts the same ones."""
    batches = (range(start, min(start + batch_size, len(states))) for start in range(0, len(states), batch_size))
    return [rows for rows in batches if (states[rows.start : rows.stop] == PENDING).any()]


def _image_loader(config, *, dataset: RetrievalDataset, backbone: Backbone, batches: list[range]) -> DataLoader:
    workers = config.workers
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    images = ImageBatches(
        dataset.image_files,
        root=dataset.root,
        preprocess=backbone.preprocess,
        background=config.background or dataset.background,
        side=backbone.image_side,
        batches=batches,
    )
    # No more processes than batches: the others would only be started and stopped.
    workers = min(workers, len(batches))
    # Forked workers see when their parent is killed and end; those of a fork server, Python 3.14's default, never do.
    context = "fork" if workers and sys.platform.startswith("linux") else None
    return DataLoader(
        images,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        pin_memory=backbone.device.type == "cuda",
    )


def _extract_images(
    writer: CacheWriter, loader: DataLoader, *, backbone: Backbone, on_progress: ProgressCallback
) -> None:
    states, checked = writer.states["image"], False
    for start, pixels, problems in loader:
        encoded = backbone.encode_image(pixels)
        if not checked:
            backbone.require_exact("image", inputs=pixels, features=encoded)
            checked = True
        features = _stored(encoded, writer, side="image", start=start)
        features[list(problems)] = 0
        writer.write_images(start, features=features, problems=problems)
        unusable = int(np.sum(states == UNUSABLE))
        detail = {"unusable": unusable} if unusable else {}
        on_progress(Progress("images", int(np.sum(states != PENDING)), len(states), detail))


def _extract_texts(
    writer: CacheWriter, texts: list[str], *, batches: list[range], backbone: Backbone, on_progress: ProgressCallback
) -> None:
    states, checked = writer.states["text"], False
    for rows in batches:
        ids, counts = backbone.tokenize(texts[rows.start : rows.stop])
        encoded = backbone.encode_text(ids)
        if not checked:
            backbone.require_exact("text", inputs=ids, features=encoded)
            checked = True
        features = _stored(encoded, writer, side="text", start=rows.start)
        writer.write_texts(rows.start, features=features, tokens=counts)
        on_progress(Progress("captions", int(np.sum(states != PENDING)), len(states)))


def _stored(encoded: torch.Tensor, writer: CacheWriter, *, side: str, start: int) -> np.ndarray:
    """The features as the cache's type, in host memory; raises when they do not fit into it."""
    with np.errstate(over="ignore"):
        features = encoded.cpu().numpy().astype(writer.dtype)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise BackboneError(
            f"the feature of {side} row {start + broken[0]} is not finite as {writer.dtype}; "
            f"extract with --dtype float32 to another --out, or check the model's weights."
        )
    return features
