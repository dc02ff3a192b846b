"""Stage 1: a data set and a frozen backbone -> features.h5."""

import contextlib
import dataclasses
import datetime
import os
import sys
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import torch
from torch.utils.data import DataLoader

from clipret.backbones import Backbone, load_backbone
from clipret.cache import DONE, PENDING, CacheContents, CacheWriter, open_writer
from clipret.config import ExtractConfig, to_command
from clipret.datasets import RetrievalDataset, load_dataset
from clipret.datasets.captions import prompted
from clipret.devices import choose_device
from clipret.errors import BackboneError, DatasetError
from clipret.images import NOT_FOUND, ImageBatches
from clipret.progress import Progress, ProgressCallback, silent


def extract(config: ExtractConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Write the penultimate features of a data set to its cache, or complete the cache that is there.

    on_progress  called after every batch, with phase "images", then "captions"

    Before the first batch is written, features times projection are compared with clip's own output. An image that
    cannot be read has no feature but a reason in the cache.

    Returns cache (path), fingerprint, images, captions, problems (images without a usable feature), missing (those of
    them that were not found), extracted_images, extracted_captions (of this call; less than all after an interruption),
    batch_size, remarks (what the data set got wrong and was put right) and seconds.

    Raises DatasetError, BackboneError or CacheError, each with what to do next: DatasetError also when images are
    missing, unless config.skip_missing, and when more than config.max_problems of them cannot be read. Whatever was
    finished is kept, and the same call goes on from there.
    """
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    dataset = load_dataset(config)
    begun = config.cache.exists()
    if not begun:
        missing = dataset.require_files(skip_missing=config.skip_missing)
    backbone = load_backbone(config.model, device=device, download_root=config.download_root)
    contents = _contents(config, dataset=dataset, backbone=backbone)
    with open_writer(config.cache, contents) as writer:
        if begun:
            missing = dataset.require_files(skip_missing=config.skip_missing, todo=_undone(writer, config))
        if config.retry_problems:
            writer.forget_problems()
        _require_few_problems(writer, dataset, config=config)
        todo = {side: int(np.sum(states == PENDING)) for side, states in writer.states.items()}
        loader = _image_loader(config, dataset=dataset, backbone=backbone, writer=writer)
        batches = _extract_images(writer, loader, backbone=backbone, missing=frozenset(missing.tolist()))
        # Closed, the generator ends the processes that decode images, also when an error is on its way.
        with _workers_explained(config), contextlib.closing(batches):
            for progress in batches:
                on_progress(progress)
                _require_few_problems(writer, dataset, config=config)
        _extract_texts(writer, prompted(dataset.captions, config), backbone=backbone, on_progress=on_progress)
    return {
        "cache": str(config.cache),
        "fingerprint": contents.fingerprint,
        "images": len(dataset.image_ids),
        "captions": len(dataset.captions),
        "problems": len(writer.problems),
        "missing": sum(reason == NOT_FOUND for reason in writer.problems.values()),
        "extracted_images": todo["image"],
        "extracted_captions": todo["text"],
        "batch_size": writer.about["batch_size"],
        "remarks": list(dataset.remarks),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _contents(config: ExtractConfig, *, dataset: RetrievalDataset, backbone: Backbone) -> CacheContents:
    inputs = {
        "backbone": "openai",
        "weights_sha256": backbone.weights_sha256,
        "precision": backbone.precision,
        "preprocessing": f"clip {backbone.image_side} px",
        "background": config.background or dataset.background,
        "caption_clean": config.caption_clean,
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
        "split_rule": dataset.split_rule,
        "remarks": list(dataset.remarks),
        "command": to_command("extract", config),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return CacheContents(
        image_ids=dataset.image_ids,
        image_files=dataset.image_files,
        image_splits=dataset.image_splits,
        captions=dataset.captions,
        caption_ids=dataset.caption_ids,
        caption_images=dataset.caption_images,
        projections=backbone.projections(),
        dtype=config.dtype,
        inputs=inputs,
        about=about,
    )


def _undone(writer: CacheWriter, config: ExtractConfig) -> np.ndarray:
    """(N,) bool: the images that this call is to read."""
    states = writer.states["image"]
    return states != DONE if config.retry_problems else states == PENDING


def _require_few_problems(writer: CacheWriter, dataset: RetrievalDataset, *, config: ExtractConfig) -> None:
    """Raise DatasetError when more than config.max_problems of all images cannot be read, skipped ones not counted.

    The share is exact, also of few images: one of 20 is 5 %, more than the default allows.
    """
    counted = sorted(
        row for row, reason in writer.problems.items() if not (config.skip_missing and reason == NOT_FOUND)
    )
    count = len(dataset.image_ids)
    share = len(counted) / count
    percent = f"{float(f'{100 * share:.2g}'):g} %"
    if share > config.max_problems:
        first, again = counted[0], dataclasses.replace(config, retry_problems=True)
        raise DatasetError(
            f"{len(counted):,} of {count:,} images ({percent}) cannot be read, more than "
            f"--max-problems {config.max_problems:g} allows; the first: {dataset.image_files[first]}: "
            f"{writer.problems[first]}. Something is wrong with {dataset.root}. Mend the files and go on with: "
            f"{to_command('extract', again)}"
        )


def _pending(states: np.ndarray, batch_size: int) -> list[range]:
    """The batches that hold a row still to do. Cut by row number, so that a resumed extraction cuts the same ones."""
    batches = (range(start, min(start + batch_size, len(states))) for start in range(0, len(states), batch_size))
    return [rows for rows in batches if (states[rows.start : rows.stop] == PENDING).any()]


def _image_loader(
    config: ExtractConfig, *, dataset: RetrievalDataset, backbone: Backbone, writer: CacheWriter
) -> DataLoader:
    states = writer.states["image"]
    # The cache's batch size: another one would give a batch other bits than an uninterrupted extraction gives it.
    batches = _pending(states, writer.about["batch_size"])
    images = ImageBatches(
        dataset.image_files,
        root=dataset.root,
        preprocess=backbone.preprocess,
        background=config.background or dataset.background,
        side=backbone.image_side,
        batches=batches,
        todo=states == PENDING,
    )
    workers = config.workers
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
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


@contextlib.contextmanager
def _workers_explained(config: ExtractConfig) -> Iterator[None]:
    """Turn what torch raises when a process that decodes images has died into a DatasetError.

    That is a RuntimeError, from a signal handler and so from anywhere, or a broken connection to that process.
    """
    try:
        yield
    except (RuntimeError, ConnectionResetError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if not isinstance(error, RuntimeError):
            # The signal is on its way.
            with contextlib.suppress(RuntimeError):
                time.sleep(0.2)
        # The frames hold the loader, and while it lives the signal handler goes on raising.
        traceback.clear_frames(error.__traceback__)
        fewer = dataclasses.replace(config, workers=0 if config.workers == 1 else 1)
        raise DatasetError(
            f"a process that decodes images died, perhaps for want of memory. Finished rows are kept; go on with fewer "
            f"processes: {to_command('extract', fewer)}"
        ) from error


def _extract_images(
    writer: CacheWriter, loader: DataLoader, *, backbone: Backbone, missing: frozenset[int]
) -> Iterator[Progress]:
    states, checked = writer.states["image"], False
    for start, pixels, problems in loader:
        problems |= {row - start: NOT_FOUND for row in range(start, start + len(pixels)) if row in missing}
        usable = states[start : start + len(pixels)] == PENDING
        usable[list(problems)] = False
        encoded = backbone.encode_image(pixels)
        if not checked and usable.any():
            known = torch.from_numpy(usable)
            backbone.require_exact("image", inputs=pixels[known], features=encoded[known])
            checked = True
        features = _stored(encoded, writer, side="image", start=start, usable=usable)
        writer.write_images(start, features=features, problems=problems)
        detail = {"unusable": len(writer.problems)} if writer.problems else {}
        yield Progress("images", int(np.sum(states != PENDING)), len(states), detail)


def _extract_texts(writer: CacheWriter, texts: list[str], *, backbone: Backbone, on_progress: ProgressCallback) -> None:
    states, checked = writer.states["text"], False
    for rows in _pending(states, writer.about["batch_size"]):
        ids, counts = backbone.tokenize(texts[rows.start : rows.stop])
        encoded = backbone.encode_text(ids)
        if not checked:
            backbone.require_exact("text", inputs=ids, features=encoded)
            checked = True
        features = _stored(encoded, writer, side="text", start=rows.start)
        writer.write_texts(rows.start, features=features, tokens=counts)
        on_progress(Progress("captions", int(np.sum(states != PENDING)), len(states)))


def _stored(
    encoded: torch.Tensor, writer: CacheWriter, *, side: str, start: int, usable: np.ndarray | None = None
) -> np.ndarray:
    """The features as the cache's type, in host memory, zeros in rows not usable; raises when they do not fit it."""
    with np.errstate(over="ignore"):
        features = encoded.cpu().numpy().astype(writer.dtype)
    if usable is not None:
        features[~usable] = 0
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise BackboneError(
            f"the feature of {side} row {start + broken[0]} is not finite as {writer.dtype}; "
            f"extract with --dtype float32 to another --out, or check the model's weights."
        )
    return features
