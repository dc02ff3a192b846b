"""Stage 2: features.h5 -> a run with a trained head. No image, no CLIP, no GPU needed."""

import csv
import time
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import TrainConfig, to_dict
from clipret.devices import choose_device
from clipret.errors import TrainingError, UsageError
from clipret.heads import LinearHead, save_head
from clipret.leakage import image_digests, save_trained_on
from clipret.losses import margin_loss
from clipret.measurement import Gallery
from clipret.metrics import rsum
from clipret.progress import Progress, ProgressCallback, silent
from clipret.protocols import Fold, split_protocol


def train(config: TrainConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Train a head on the cached features of the train split and write a run folder.

    on_progress  called after every epoch, with phase "epochs" and its loss and validation rsum

    Every epoch visits the training images in a new order, each with one of its captions drawn at random. The epoch with
    the highest validation rsum (sum of R@1, R@5, R@10 of both directions) is kept; epoch 0 is the untrained head,
    zero-shot CLIP, so the kept head is never worse than it on val. The last epoch is kept when the config says so, or
    without a val split. On the CPU the same config gives the same bits.

    Returns run (path), cache, kept_epoch, epochs, steps, train_images, val_rsum, zero_shot_val_rsum (None without val)
    and seconds.

    Raises CacheError, UsageError, RunError or TrainingError.
    """
    started = time.perf_counter()
    device = choose_device(config.device)
    cache = FeatureCache(config.cache)
    (training,) = split_protocol(cache, split="train").folds
    pairs = _training_pairs(cache, training, device=device)
    validation = _validation(cache)
    head = LinearHead(cache.projections).to(device)
    run = runs.make_run(config.runs_dir, name=config.name, kind=f"{config.loss}-{config.head}")
    runs.write_json(run / runs.CONFIG, _record(config, cache))
    save_trained_on(run / runs.TRAINED_ON, image_digests(cache, training.image_rows))
    kept_epoch, kept, zero_shot = 0, None, None
    with (run / runs.HISTORY).open("w", newline="", encoding="utf-8") as file:
        history = csv.writer(file)
        for epoch, loss in _epochs(head, pairs, config):
            measured = validation.measure(head, device=device) if validation else None
            score = rsum(measured) if measured else None
            zero_shot = score if epoch == 0 else zero_shot
            if config.keep == "last" or score is None or kept is None or score > kept:
                kept_epoch, kept = epoch, score
                save_head(head, path=run / runs.HEAD, metadata=_head_metadata(cache, epoch))
            _append(history, epoch=epoch, loss=loss, measured=measured, seconds=time.perf_counter() - started)
            file.flush()
            detail = {name: value for name, value in (("loss", loss), ("val rsum", score)) if value is not None}
            on_progress(Progress("epochs", epoch, config.epochs, detail))
    return {
        "run": str(run),
        "cache": str(config.cache),
        "kept_epoch": kept_epoch,
        "epochs": config.epochs,
        "steps": config.epochs * _steps(pairs, config),
        "train_images": len(pairs),
        "val_rsum": kept,
        "zero_shot_val_rsum": zero_shot,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _head_metadata(cache: FeatureCache, epoch: int) -> dict[str, str]:
    return {
        "model": cache.about["model"],
        "weights_sha256": cache.inputs["weights_sha256"],
        "fingerprint": cache.fingerprint,
        "epoch": str(epoch),
    }


def _record(config: TrainConfig, cache: FeatureCache) -> dict:
    return {
        "format": runs.FORMAT,
        "config": to_dict(config),
        "cache": {"path": str(config.cache), "fingerprint": cache.fingerprint},
        "versions": {name: version(name) for name in ("clipret", "torch", "numpy")},
    }


@dataclass(frozen=True)
class _Pairs:
    """The training images that have a caption, and their captions grouped by image. N images, M captions.

    images   (N, D_image) and texts (M, D_text) features on the device, as the cache stores them
    first    (N,) position in texts of each image's first caption
    counts   (N,) captions of each image
    """

    images: torch.Tensor
    texts: torch.Tensor
    first: torch.Tensor
    counts: torch.Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def draw_captions(self, generator: torch.Generator) -> torch.Tensor:
        """(N,) position in texts of one caption of each image, drawn uniformly."""
        within = (torch.rand(len(self), generator=generator, dtype=torch.float64) * self.counts).long()
        return self.first + within


def _training_pairs(cache: FeatureCache, training: Fold, *, device: str) -> _Pairs:
    order = np.argsort(training.caption_images, kind="stable")
    captioned, counts = np.unique(training.caption_images, return_counts=True)
    return _Pairs(
        images=torch.from_numpy(cache.read("image", training.image_rows[captioned])).to(device),
        texts=torch.from_numpy(cache.read("text", training.text_rows[order])).to(device),
        first=torch.from_numpy(np.cumsum(counts) - counts),
        counts=torch.from_numpy(counts),
    )


def _steps(pairs: _Pairs, config: TrainConfig) -> int:
    """Batches an epoch, each of at most batch_size images."""
    return -(-len(pairs) // config.batch_size)


def _epochs(head: LinearHead, pairs: _Pairs, config: TrainConfig):
    """Train in place; yield (epoch, mean loss of its steps), first (0, None) for the untrained head."""
    yield 0, None
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(
        head.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    # Batches of nearly equal size: a last one of what is left, a single pair at worst, would pull matching pairs
    # together with nothing to push the others apart.
    steps = _steps(pairs, config)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=config.epochs * steps)
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(pairs), generator=generator)
        captions = pairs.draw_captions(generator)[order].to(pairs.texts.device)
        order = order.to(pairs.images.device)
        losses = []
        for images, texts in zip(order.tensor_split(steps), captions.tensor_split(steps), strict=True):
            similarities = head.embed_texts(pairs.texts[texts]) @ head.embed_images(pairs.images[images]).T
            # Compared, not assumed to be the diagonal: a pair of the same image is never a negative.
            loss = margin_loss(
                similarities, images[:, None] == images, margin=config.margin, reduction=config.reduction
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if config.schedule == "cosine":
                cosine.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        if not np.isfinite(mean):
            raise TrainingError(
                f"the loss of epoch {epoch} is {mean} at --lr {config.lr:g}; the run keeps the head it had before. "
                f"Try a lower --lr."
            )
        yield epoch, mean


def _validation(cache: FeatureCache) -> Gallery | None:
    """None when the cache has no val split to select the epoch on."""
    try:
        (fold,) = split_protocol(cache, split="val").folds
    except UsageError:
        return None
    return Gallery.read(cache, fold)


def _append(history, *, epoch: int, loss: float | None, measured: dict | None, seconds: float) -> None:
    """One line of history.csv, with the header before the first. Metrics are fractions on the val split."""
    columns = {"epoch": epoch, "loss": "" if loss is None else f"{loss:.8g}"}
    if measured:
        columns["val_rsum"] = f"{rsum(measured):.6f}"
        for direction, metrics in measured.items():
            columns |= {f"val_{direction}_{name}": f"{value:.6f}" for name, value in metrics.items()}
    columns["seconds"] = f"{seconds:.3f}"
    if epoch == 0:
        history.writerow(columns)
    history.writerow(columns.values())
