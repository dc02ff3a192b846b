"""Make clipret/backbones/bundled/tiny-emoji.pt from nothing: fetch drawings and texts, train, write.

    python scripts/train_tiny_clip.py                 # what made the shipped file; about half an hour on a CPU
    python scripts/train_tiny_clip.py --epochs 60 --out build/quick.pt

Needs clipret[demo], npm, and for the first run, which renders the drawings, the package `resvg-py`. On a machine that
does other work too, OMP_WAIT_POLICY=passive keeps the threads from burning time while they wait for each other.

The drawings that it reports on (Twemoji) are never trained on and choose nothing: the weights written are the moving
average at the end of a fixed schedule.
"""

import argparse
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import clip
import numpy as np
import torch
from PIL import Image
from tiny_clip_batches import Augmentation, Batches, CaptionMix, Captions, augment
from tiny_clip_data import CLDR, CLDR_DERIVED, EMOJILIB, FEW_STYLES, STYLES, fetch, load_concepts, load_drawings
from tiny_clip_model import MovingAverage, Shape, Towers, build, contrastive_loss, export
from torch import Tensor

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.emoji import load_emoji

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the data."""

    epochs: int = 75  # passes over the concepts, each in one drawing
    seed: int = 0
    batch_size: int = 256
    group: int = 16  # neighbours in Unicode's order that stay together in a batch
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: float = 0.1
    largest_scale: float = 100.0
    largest_gradient: float = 2.0
    average_decay: float = 0.98
    styles: tuple[str, ...] = FEW_STYLES
    shape: Shape = field(default_factory=Shape)
    captions: CaptionMix = field(default_factory=CaptionMix)
    augmentation: Augmentation = field(default_factory=Augmentation)


class Monitor:
    """Zero-shot retrieval on Twemoji, in the plainest code: a second opinion on clipret's own evaluation."""

    def __init__(self, *, resolution: int, vocabulary: Tensor):
        dataset = load_emoji(DatasetConfig(dataset="emoji"))
        images = [_read_image(dataset.root / file, resolution=resolution) for file in dataset.image_files]
        self.images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        row = {token: position for position, token in enumerate(vocabulary.tolist())}
        tokens = clip.tokenize(dataset.captions)
        tokens = tokens[:, : int((tokens != 0).sum(dim=1).max())]
        self.tokens = tokens.apply_(lambda token: row.get(token, 0))  # 0 pads; every caption's token is known
        self.caption_images = torch.from_numpy(dataset.caption_images)
        self.galleries = {
            "all": torch.arange(len(images)),
            "test": torch.from_numpy(np.flatnonzero(dataset.image_splits == SPLITS.index("test"))),
        }

    @torch.no_grad()
    def measure(self, towers: Towers, *, device: torch.device) -> dict[str, tuple[list[float], list[float]]]:
        """Gallery -> R@1, R@5, R@10 of t2i and of i2t, in percent."""
        towers.eval()
        image = torch.cat([towers.embed_images(part.to(device)).cpu() for part in self.images.split(256)])
        text = torch.cat([towers.embed_texts(part.to(device)).cpu() for part in self.tokens.split(256)])
        results = {}
        for name, rows in self.galleries.items():
            mask = torch.isin(self.caption_images, rows)
            own = self.caption_images[mask][:, None] == rows
            similarity = text[mask] @ image[rows].T
            results[name] = (_recalls(similarity, own), _recalls(similarity.T, own.T))
        return results


def _read_image(path: Path, *, resolution: int) -> np.ndarray:
    drawing = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    flat = Image.alpha_composite(white, drawing).convert("RGB")
    return np.asarray(flat.resize((resolution, resolution), Image.Resampling.BICUBIC))


def _recalls(similarity: Tensor, own: Tensor) -> list[float]:
    """R@1, R@5, R@10 in percent of the best own item of each row; ties count against us."""
    best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((similarity >= best) & ~own).sum(dim=1)
    return [100 * (ahead < k).float().mean().item() for k in (1, 5, 10)]


def optimiser_for(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels only: not biases, norms or the temperature."""
    groups = [
        {"params": [value for value in model.parameters() if value.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [value for value in model.parameters() if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def train(towers: Towers, *, batches: Batches, recipe: Recipe, device: torch.device):
    """Run the whole schedule. Yields (epoch, mean loss, moving average) after every epoch."""
    order = np.random.default_rng(recipe.seed)
    distortion = torch.Generator().manual_seed(recipe.seed)
    bend = partial(augment, how=recipe.augmentation, resolution=recipe.shape.resolution, random=distortion)
    optimiser = optimiser_for(towers, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=recipe.learning_rate,
        total_steps=recipe.epochs * batches.steps,
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )
    average = MovingAverage(towers, decay=recipe.average_decay)
    for epoch in range(1, recipe.epochs + 1):
        towers.train()
        losses = []
        for pixels, flippable, tokens, concepts in batches.epoch(order):
            image, text = towers(bend(pixels.to(device), flippable), tokens.to(device))
            same = (concepts[:, None] == concepts).to(device)
            loss = contrastive_loss(image, text, scale=towers.clip.logit_scale.exp(), same=same)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(towers.parameters(), recipe.largest_gradient)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                towers.clip.logit_scale.clamp_(max=math.log(recipe.largest_scale))
            average.update(towers)
            losses.append(loss.item())
        yield epoch, float(np.mean(losses)), average


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="passes over the concepts")
    parser.add_argument("--all-styles", action="store_true", help="train on every artist's drawings")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--report-every", type=int, default=10, help="epochs between two measurements")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "tiny-emoji", help="downloads and cache")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "clipret" / "backbones" / "bundled" / "tiny-emoji.pt")
    return parser.parse_args()


def _format(measured: dict[str, tuple[list[float], list[float]]]) -> str:
    return " | ".join(
        f"{name} t2i " + "/".join(f"{value:.1f}" for value in t2i) + " i2t " + "/".join(f"{value:.1f}" for value in i2t)
        for name, (t2i, i2t) in measured.items()
    )


def run(recipe: Recipe, *, work: Path, out: Path, device: torch.device, report_every: int) -> None:
    """Fetch, render, train with progress lines, export."""
    torch.manual_seed(recipe.seed)
    fetch((CLDR, CLDR_DERIVED, EMOJILIB, *STYLES), folder=work / "archives")
    concepts = load_concepts(work / "archives")
    drawings = load_drawings(concepts, work=work).only(recipe.styles)
    captions = Captions(concepts, mix=recipe.captions)
    vocabulary = captions.vocabulary
    batches = Batches(drawings, concepts=concepts, captions=captions, size=recipe.batch_size, group=recipe.group)
    towers = Towers(build(recipe.shape, vocabulary=len(vocabulary))).to(device)
    monitor = Monitor(resolution=recipe.shape.resolution, vocabulary=vocabulary)
    print(
        f"{len(drawings.pixels)} drawings of {len(concepts)} concepts, {len(vocabulary)} tokens, "
        f"{recipe.epochs} epochs of {batches.steps} batches on {device}",
        flush=True,
    )
    started = time.monotonic()
    for epoch, loss, average in train(towers, batches=batches, recipe=recipe, device=device):
        if epoch % report_every and epoch != recipe.epochs:
            continue
        elapsed = time.monotonic() - started
        rate = epoch * batches.steps * recipe.batch_size / elapsed
        left = elapsed / epoch * (recipe.epochs - epoch) / 60
        measured = _format(monitor.measure(average.model, device=device))
        print(f"epoch {epoch} loss {loss:.3f} {rate:.0f} images/s {left:.0f} min left | {measured}", flush=True)
        # Written at every report, so that an interrupted run leaves a file that works.
        export(average.model.clip, vocabulary=vocabulary, positions=recipe.captions.longest, path=out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {(time.monotonic() - started) / 60:.0f} min")


def main() -> None:
    """Run the recipe that the command line asks for."""
    arguments = parse_arguments()
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    styles = tuple(source.package for source in STYLES) if arguments.all_styles else FEW_STYLES
    run(
        Recipe(epochs=arguments.epochs, seed=arguments.seed, styles=styles),
        work=arguments.work,
        out=arguments.out,
        device=torch.device(automatic if arguments.device == "auto" else arguments.device),
        report_every=arguments.report_every,
    )


if __name__ == "__main__":
    main()
