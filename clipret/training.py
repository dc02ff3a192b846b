"""Stage 2: features.h5 -> a run with a trained head. No image, no CLIP, no GPU needed."""

import csv
import time
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import SPLITS, TrainConfig, to_dict
from clipret.devices import choose_device
from clipret.errors import TrainingError, UsageError
from clipret.heads import LinearHead, embed, save_head
from clipret.losses import margin_loss
from clipret.metrics import rsum, summarise
from clipret.progress import Progress, ProgressCallback, silent
from clipret.protocols import split_protocol
from clipret.retrieval import rank_both_directions


def train(config: TrainConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Train a head on the cached features of the train split and write a run folder.

    on_progress  called after every epoch, with phase "epochs" and its loss and validation rsum

    Every epoch visits the training images in a new order, each with one of its captions drawn at random. The epoch with
    the highest validation rsum (sum of R@1, R@5, R@10 of both directions) is kept; epoch 0 is the untrained head,
    zero-shot CLIP, so the kept head is never worse than it on val. Without a val split the last epoch is kept. On the
    CPU the same config gives the same bits.

    Returns run (path), cache, best_epoch, epochs, steps, train_images, val_rsum, zero_shot_val_rsum (None without val)
    and seconds.

    Raises CacheError, UsageError, RunError or TrainingError.
    """
    started = time.perf_counter()
    device = choose_device(config.device)
    cache = FeatureCache(config.cache)
    pairs = _training_pairs(cache, device)
    validation = _Validation.of(cache, device)
    head = LinearHead(cache.projections).to(device)
    run = runs.make_run(config.runs_dir, name=config.name, kind=f"{config.loss}-{config.head}")
    runs.write_json(run / runs.CONFIG, _record(config, cache))
    metadata = {
        "model": cache.about["model"],
        "weights_sha256": cache.inputs["weights_sha256"],
        "fingerprint": cache.fingerprint,
    }
    best_epoch, best, zero_shot = 0, None, None
    with (run / runs.HISTORY).open("w", newline="", encoding="utf-8") as file:
        history = csv.writer(file)
        for epoch, loss in _epochs(head, pairs, config):
            measured = validation.measure(head) if validation else None
            score = rsum(measured) if measured else None
            zero_shot = score if epoch == 0 else zero_shot
            if score is None or best is None or score > best:
                best_epoch, best = epoch, score
                save_head(head, path=run / runs.HEAD, metadata={**metadata, "epoch": str(epoch)})
            _append(history, epoch=epoch, loss=loss, measured=measured, seconds=time.perf_counter() - started)
            file.flush()
            detail = {name: value for name, value in (("loss", loss), ("val rsum", score)) if value is not None}
            on_progress(Progress("epochs", epoch, config.epochs, detail))
    return {
        "run": str(run),
        "cache": str(config.cache),
        "best_epoch": best_epoch,
        "epochs": config.epochs,
        "steps": config.epochs * -(-len(pairs) // config.batch_size),
        "train_images": len(pairs),
        "val_rsum": best,
        "zero_shot_val_rsum": zero_shot,
        "seconds": round(time.perf_counter() - started, 3),
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


def _training_pairs(cache: FeatureCache, device: str) -> _Pairs:
    protocol = split_protocol(
        "train", image_splits=cache.image_splits, usable=cache.usable, caption_images=cache.caption_images
    )
    order = np.argsort(protocol.caption_images, kind="stable")
    captioned, counts = np.unique(protocol.caption_images, return_counts=True)
    return _Pairs(
        images=torch.from_numpy(cache.read("image", protocol.image_rows[captioned])).to(device),
        texts=torch.from_numpy(cache.read("text", protocol.text_rows[order])).to(device),
        first=torch.from_numpy(np.cumsum(counts) - counts),
        counts=torch.from_numpy(counts),
    )


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
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(pairs), generator=generator)
        captions = pairs.draw_captions(generator)[order].to(pairs.texts.device)
        order = order.to(pairs.images.device)
        losses = []
        for images, texts in zip(order.split(config.batch_size), captions.split(config.batch_size), strict=True):
            similarities = head.embed_texts(pairs.texts[texts]) @ head.embed_images(pairs.images[images]).T
            # Compared, not assumed to be the diagonal: a pair of the same image is never a negative.
            loss = margin_loss(
                similarities, images[:, None] == images, margin=config.margin, reduction=config.reduction
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        # Weights of which one is infinite can still give a finite loss: normalising hides it.
        mean = torch.stack(losses).mean().item()
        if not np.isfinite(mean):
            raise TrainingError(
                f"the loss of epoch {epoch} is {mean} at --lr {config.lr:g}; the run keeps the best epoch before it. "
                f"Try a lower --lr."
            )
        yield epoch, mean


@dataclass(frozen=True)
class _Validation:
    """The val split on the device: image and text features, and the position of each caption's image."""

    images: np.ndarray
    texts: np.ndarray
    caption_images: np.ndarray
    device: str

    @classmethod
    def of(cls, cache: FeatureCache, device: str) -> "_Validation | None":
        """None when the cache has no val split to select the epoch on."""
        if not (cache.image_splits == SPLITS.index("val")).any():
            return None
        try:
            protocol = split_protocol(
                "val", image_splits=cache.image_splits, usable=cache.usable, caption_images=cache.caption_images
            )
        except UsageError:
            return None
        return cls(
            cache.read("image", protocol.image_rows),
            cache.read("text", protocol.text_rows),
            protocol.caption_images,
            device,
        )

    def measure(self, head: LinearHead) -> dict[str, dict[str, float]]:
        """Metrics of both directions."""
        ranks = rank_both_directions(
            embed(head.embed_images, self.images, device=self.device),
            embed(head.embed_texts, self.texts, device=self.device),
            caption_images=self.caption_images,
        )
        return {direction: summarise(found) for direction, found in ranks.items()}


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
