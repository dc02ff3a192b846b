"""An epoch of head training beside its matrix products and the usual ways to train one: make bench-train

Also what sweeps of one pass save (--sweep): 24 runs together beside the same 24 one by one.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import torch
from benchmark import compare, random_cache, run_process
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from clipret.backbones import load_backbone
from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.heads.linear import LinearHead
from clipret.machine.products import Products, keep_freed_memory
from clipret.protocols.protocol import split_protocol
from clipret.training import train_many
from clipret.training.batches import plan_epoch
from clipret.training.features import Features
from clipret.training.pairs import Pairs
from clipret.training.stack import Stack, first_state
from clipret.training.starting import initial_tensors

# Of ViT-B/32.
IMAGE_WIDTH, TEXT_WIDTH, EMBEDDING = 768, 512, 512
WIDTHS = {"image": IMAGE_WIDTH, "text": TEXT_WIDTH}
CAPTIONS = 5
MARGIN = TrainConfig.margin


def ours(cache: FeatureCache, *, batch: int, loss: str = "margin", most_steps: int | None = None) -> Callable[[], None]:
    """An epoch as clipret train has it, or its first steps: plan, fetch, step."""
    config = TrainConfig(cache=cache.path, batch_size=batch, loss=loss)
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    features = Features(cache, pairs, placement="device", device="cpu", memory_limit=None)
    state = first_state(config, initial_tensors(config, cache), logit_scale=4.6)
    stack = Stack([config], [state], products=Products("cpu"), device="cpu")

    def epoch() -> None:
        batches = plan_epoch(pairs, [config], epoch=1)[:most_steps]
        for number, loaded in enumerate(features.batches([batch.places for batch in batches])):
            batch = batches[number]
            stack.step(
                loaded,
                matching=lambda rows, batch=batch: batch.matching(rows, device="cpu"),
                rates=[config.lr],
                margins=stack.margins([0.0]),
            )

    return epoch


def products_alone(*, batch: int, steps: int, torch_only: bool = False) -> None:
    """The seven products of a step, each in the layout that is quickest: both projections and their weights' gradients,
    similarities and their gradients' way back."""
    multiply = torch.bmm if torch_only else Products("cpu")
    images, texts = torch.randn(1, batch, IMAGE_WIDTH), torch.randn(1, batch, TEXT_WIDTH)
    image_weight, text_weight = torch.randn(1, EMBEDDING, IMAGE_WIDTH), torch.randn(1, EMBEDDING, TEXT_WIDTH)
    rows, columns = torch.randn(1, batch, EMBEDDING), torch.randn(1, EMBEDDING, batch)
    square = torch.randn(1, batch, batch)
    for _ in range(steps):
        multiply(image_weight, images.transpose(1, 2))
        multiply(text_weight, texts.transpose(1, 2))
        multiply(rows, columns)
        multiply(columns, square)
        multiply(columns, square)
        multiply(columns, images)
        multiply(columns, texts)


def products_in_blocks(cache: FeatureCache, *, batch: int, rows: int = 4096) -> Callable[[], None]:
    """The seven products of one step of a large batch, without ever holding the whole matrix of similarities."""
    multiply, widths = Products("cpu"), {side: cache.projections[f"{side}/weight"].shape for side in ("image", "text")}
    features = {side: torch.randn(1, batch, depth) for side, (depth, _) in widths.items()}
    weights = {side: torch.randn(1, width, depth) for side, (depth, width) in widths.items()}
    texts, images = (torch.randn(1, widths["text"][1], batch) for _ in range(2))
    spans = [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]
    as_rows, parts = texts.transpose(1, 2).contiguous(), [texts[:, :, span].contiguous() for span in spans]

    def step() -> None:
        for side in ("image", "text"):
            multiply(weights[side], features[side].transpose(1, 2))
        for span, part in zip(spans, parts, strict=True):
            square = multiply(as_rows[:, span], images)
            multiply(images, square.transpose(1, 2))
            multiply(part, square)
        for side in ("image", "text"):
            multiply(texts, features[side])

    return step


class Rows(Dataset):
    """The usual way: one h5py read an item."""

    def __init__(self, path: Path, *, images: int):
        self._file, self._images = h5py.File(path, "r", locking=False), images

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, row: int):
        return self._file["image/features"][row], self._file["text/features"][CAPTIONS * row]


def fancy_batches(path: Path, *, images: int, batch: int, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches by h5py's own indexing, which wants rows in order."""
    with h5py.File(path, "r", locking=False) as file:
        for _ in range(steps):
            rows = np.sort(np.random.default_rng(0).choice(images, size=batch, replace=False))
            rows_read = file["image/features"][rows], file["text/features"][CAPTIONS * rows]
            yield tuple(torch.from_numpy(features).float() for features in rows_read)


def memory_batches(features: tuple, *, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch of batches of float32 tensors in memory."""
    images, texts = features
    for rows in torch.randperm(len(images)).split(batch):
        yield images[rows], texts[CAPTIONS * rows + torch.randint(CAPTIONS, (len(rows),))]


def plain_loop(cache: FeatureCache, batches, *, broadcast: bool = False) -> None:
    """The loop that people write: autograd, CosineEmbeddingLoss' formula, torch's AdamW."""
    head = LinearHead(cache.projections)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-4)
    for images, texts in batches:
        images, texts = head.embed_images(images), head.embed_texts(texts)
        if broadcast:
            similarities = functional.cosine_similarity(texts[:, None], images[None], dim=2)
        else:
            similarities = texts @ images.T
        matching = torch.eye(len(images), dtype=torch.bool)
        loss = torch.where(matching, 1 - similarities, (similarities - MARGIN).clamp_min(0)).mean() / 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def re_encoding(folder: Path) -> Callable[[int], None]:
    """Encoding some images and as many captions with a ViT-B/32 of random weights, by our own fast encoders."""
    from bench_extract import write_checkpoint

    backbone = load_backbone(str(write_checkpoint(folder / "model.pt")))
    ids = backbone.pad(backbone.tokenize(["a man rides a brown horse on the sand of a beach"] * 32)[0])

    @torch.inference_mode()
    def encode(count: int) -> None:
        for _ in range(count // 32):
            backbone.encode_image(torch.randint(0, 256, (32, 224, 224, 3), dtype=torch.uint8))
            backbone.encode_text(ids)

    return encode


def bench_epoch(folder: Path, *, images: int, batch: int, rounds: int) -> None:
    """One epoch by every way; those that are slow do a part of it, which the rate is computed from."""
    cache = random_cache(folder / "bench.h5", images=images, captions=CAPTIONS, widths=WIDTHS, embedding=EMBEDDING)
    steps = -(-images // batch)
    features = torch.tensor(cache.image_features[:]).float(), torch.tensor(cache.text_features[:]).float()
    loader = DataLoader(Rows(cache.path, images=min(images, 20 * batch)), batch_size=batch, shuffle=True)
    encode, parts = (
        re_encoding(folder),
        {"fancy": 40 * batch, "loader": min(images, 20 * batch), "broadcast": 2 * batch},
    )
    floor, reference = "matrix products alone", "B x B x E cosine, in memory (2 steps)"
    loaded, fancy = "DataLoader over h5py (20 steps)", "h5py indexing by batch (40 steps)"
    encoding = "re-encoding every step (64 images, extrapolated)"
    compare(
        "train",
        work=f"an epoch of {images:,} images, batch {batch}, {IMAGE_WIDTH}/{TEXT_WIDTH} -> {EMBEDDING}",
        floor=floor,
        ways={
            floor: lambda: products_alone(batch=batch, steps=steps),
            "the same by torch.bmm": lambda: products_alone(batch=batch, steps=steps, torch_only=True),
            "clipret": ours(cache, batch=batch),
            "in memory, plain loop": lambda: plain_loop(cache, memory_batches(features, batch=batch)),
            fancy: lambda: plain_loop(cache, fancy_batches(cache.path, images=images, batch=batch, steps=40)),
            loaded: lambda: plain_loop(cache, ((image.float(), text.float()) for image, text in loader)),
            reference: lambda: plain_loop(cache, islice(memory_batches(features, batch=batch), 2), broadcast=True),
            encoding: lambda: encode(64),
        },
        units={
            floor: images,
            "the same by torch.bmm": images,
            "clipret": images,
            "in memory, plain loop": images,
            fancy: parts["fancy"],
            loaded: parts["loader"],
            reference: parts["broadcast"],
            encoding: 64,
        },
        rounds=rounds,
    )


def bench_sweep(cache: Path, folder: Path, *, batch: int, epochs: int, rounds: int) -> None:
    """24 runs trained together and one by one, validation, checkpoints and files included."""
    grid = [(margin, lr, seed) for margin in (0.0, 0.1, 0.2) for lr in (1e-4, 3e-4) for seed in range(4)]
    base = TrainConfig(cache=cache, batch_size=batch, epochs=epochs, runs_dir=folder)
    configs = [replace(base, margin=margin, lr=lr, seed=seed) for margin, lr, seed in grid]

    def one_by_one() -> None:
        for config in configs:
            train_many([config])

    compare(
        f"sweep-{FeatureCache(cache).inputs.get('dataset', 'made')}-{batch}",
        work=f"24 runs of {epochs} epochs, batch {batch}, on {cache.name}",
        floor="one by one",
        ways={"one by one": one_by_one, "together": lambda: train_many(configs)},
        rounds=rounds,
    )


def bench_large(path: Path, *, batch: int, rounds: int) -> None:
    """A step of a large batch of a cache, by two losses, beside its products; and the memory that it takes."""
    cache, floor, losses = FeatureCache(path), "products alone, in blocks", ("margin", "infonce")
    images = len(Pairs.of(cache, split_protocol(cache, split="train").folds[0]))
    # Batches are of nearly equal size.
    actual = -(-images // -(-images // batch))
    alone = [str(Path(__file__)), "--large", str(path), "--batch-size", str(batch), "--alone"]
    compare(
        f"train-{batch}",
        work=f"one step, batch {actual:,}, of the {images:,} pairs of {path.name}",
        floor=floor,
        ways={
            floor: products_in_blocks(cache, batch=actual),
            **{f"clipret, {loss}": ours(cache, batch=batch, loss=loss, most_steps=1) for loss in losses},
        },
        rounds=rounds,
        peaks={f"clipret, {loss}": run_process([*alone, loss]) for loss in losses},
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=113_287)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep", type=Path, help="a cache to measure sweeps on, such as data/emoji.h5")
    parser.add_argument("--large", type=Path, help="a cache to measure one step of a large batch on")
    parser.add_argument("--alone", help="with --large: only take that step, by this loss")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    if arguments.alone:
        ours(FeatureCache(arguments.large), batch=arguments.batch_size, loss=arguments.alone, most_steps=1)()
        return
    if arguments.large:
        bench_large(arguments.large, batch=arguments.batch_size, rounds=arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.sweep:
            for batch in (32, 256):
                bench_sweep(arguments.sweep, Path(folder), batch=batch, epochs=10, rounds=arguments.rounds)
        else:
            bench_epoch(Path(folder), images=arguments.images, batch=arguments.batch_size, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
