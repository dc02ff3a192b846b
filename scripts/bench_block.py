"""An epoch of the last block's training beside its reading and its products: make bench-block

The cache has the sizes of ViT-B/32: 50 tokens an image, 12 a caption, of three captions an image.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmark import compare
from torch.nn import functional

from clipret.cache import CacheContents, FeatureCache, open_writer
from clipret.cache.layout import NOTES
from clipret.cache.taps import Tap, block_notes, store_tokens
from clipret.config import TrainConfig
from clipret.machine.last_blocks import LastBlock, shapes_of
from clipret.protocols.protocol import split_protocol
from clipret.training.autograd import AutogradRun, first_state
from clipret.training.batches import plan_epoch
from clipret.training.features import Features
from clipret.training.pairs import Pairs
from clipret.training.starting import inputs_of

WIDTHS, TOKENS, EMBEDDING, CAPTIONS = {"image": 768, "text": 512}, {"image": 50, "text": 12}, 512, 3
HEADS = {"image": 12, "text": 8}


def make_cache(path: Path, *, images: int, dtype: str) -> FeatureCache:
    """Random tokens, all images in train."""
    generator = np.random.default_rng(0)
    captions = CAPTIONS * images
    taps = {
        "image": Tap(WIDTHS["image"], dtype, positions=TOKENS["image"]),
        "text": Tap(WIDTHS["text"], dtype, starts=np.arange(captions + 1) * TOKENS["text"]),
    }
    blocks = {
        side: LastBlock(
            "transformer", HEADS[side], TOKENS[side] if side == "image" else None, _weights(generator, side)
        )
        for side in WIDTHS
    }
    projections = {f"{side}/weight": generator.normal(size=(width, EMBEDDING)) / 30 for side, width in WIDTHS.items()}
    contents = CacheContents(
        image_ids=[str(row) for row in range(images)],
        image_files=[f"{row}.jpg" for row in range(images)],
        image_splits=np.zeros(images, np.uint8),
        captions=[str(row) for row in range(captions)],
        caption_ids=[str(row) for row in range(captions)],
        caption_images=np.repeat(np.arange(images), CAPTIONS),
        projections=projections | {"logit_scale": 4.6},
        dtype="float16",
        notes=NOTES,
        taps=taps,
        blocks=blocks,
        inputs={
            "weights_sha256": "0" * 64,
            "dataset": "made",
            "precision": "float32",
            "preprocessing": "none",
            "decode": "exact",
            "background": "clip",
            "caption_clean": "none",
            "prompt": "{}",
            "dtype": "float16",
        },
        about={
            "model": "random",
            "library": "none",
            "batch_size": 1,
            "context_length": 77,
            "split_rule": "none",
            "remarks": [],
            "command": "none",
            "created": "now",
            "blocks": block_notes(blocks),
        },
    )
    with open_writer(path, contents) as writer:
        for side, count in (("image", images), ("text", captions)):
            for start in range(0, count, 1024):
                rows = np.arange(start, min(start + 1024, count))
                tokens = generator.standard_normal((len(rows), TOKENS[side], WIDTHS[side]), dtype=np.float32)
                values = {
                    "features": tokens[:, 0].astype(np.float16),
                    "tap": store_tokens(tokens, lengths=np.full(len(rows), TOKENS[side]), dtype=dtype),
                }
                if side == "image":
                    writer.write_images(rows, problems={}, **values)
                else:
                    writer.write_texts(rows, tokens=np.full(len(rows), TOKENS[side]), **values)
    return FeatureCache(path)


def _weights(generator: np.random.Generator, side: str) -> dict[str, np.ndarray]:
    weights = {}
    for part, shape in shapes_of("transformer", width=WIDTHS[side]).items():
        drawn = generator.normal(scale=0.02, size=shape)
        weights[part] = (drawn + (part.startswith("norm") and part.endswith("weight"))).astype(np.float32)
    return weights


def training(cache: FeatureCache, *, batch: int, tune: str, place: str, steps: int | None) -> Callable[[], None]:
    """An epoch, or its first steps, as clipret train has it: plan, fetch, step."""
    config = TrainConfig(cache=cache.path, batch_size=batch, head="block", tune=tune, lr=1e-6)
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    features = Features(cache, pairs, placement=place, device="cpu", memory_limit=None, inputs=inputs_of(config))
    run = AutogradRun(config, first_state(config, {}, cache=cache), codes={}, cache=cache, device="cpu")

    def epoch() -> None:
        batches = plan_epoch(pairs, [config], epoch=1)[:steps]
        for number, loaded in enumerate(features.batches([batch.places for batch in batches])):
            batch = batches[number]
            run.step(
                loaded,
                matching=lambda rows, batch=batch: batch.matching(rows, device="cpu"),
                rates=[config.lr],
                margins=run.margins([0.0]),
            )

    return epoch


def floor(cache: FeatureCache, *, batch: int, place: str, steps: int | None) -> Callable[[], None]:
    """Reading the tokens of the same epoch as float32, and the products of one query a row, forward and back."""
    config = TrainConfig(cache=cache.path, batch_size=batch, head="block")
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    features = Features(cache, pairs, placement=place, device="cpu", memory_limit=None, inputs=inputs_of(config))

    def epoch() -> None:
        batches = plan_epoch(pairs, [config], epoch=1)[:steps]
        for loaded in features.batches([batch.places for batch in batches]):
            for side, (rows,) in loaded.items():
                products(side, rows.padded()[0])

    return epoch


_MATRICES = {
    side: [torch.randn(outputs * width, inputs * width) for outputs, inputs in ((1, 1), (1, 1), (4, 1), (1, 4))]
    + [torch.randn(EMBEDDING, width)]
    for side, width in WIDTHS.items()
}


@torch.no_grad()
def products(side: str, tokens: torch.Tensor) -> None:
    """Query, output, MLP and projection; of the heads q K, scores, mixture and V: each thrice, for both gradients."""
    count, batch = HEADS[side], len(tokens)
    for weight in _MATRICES[side]:
        x, gradient = torch.randn(batch, weight.shape[1]), torch.randn(batch, weight.shape[0])
        functional.linear(x, weight)
        gradient @ weight
        gradient.t() @ x
    narrow = WIDTHS[side] // count
    key, small = torch.randn(count, narrow, WIDTHS[side]), torch.randn(count, batch, narrow)
    wide = small @ key
    for _ in range(2):
        wide @ key.transpose(1, 2)
        small.transpose(1, 2) @ wide
    small @ key
    asked = wide.transpose(0, 1)
    for _ in range(2):
        scores = asked @ tokens.transpose(1, 2)
        scores @ tokens


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, help="the first steps of the epoch alone")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(Path(folder) / "block.h5", images=words.images, dtype=words.dtype)
        common = {"batch": words.batch, "steps": words.steps}
        steps = words.steps or -(-words.images // words.batch)
        compare(
            "block",
            work=f"{steps} steps of {words.batch}, {words.images:,} images, {CAPTIONS * words.images:,} captions",
            floor="reading and products",
            ways={
                "clipret": training(cache, tune="all", place="device", **common),
                "clipret, from disk": training(cache, tune="all", place="disk", **common),
                "clipret, lora": training(cache, tune="lora", place="device", **common),
                "clipret, norms": training(cache, tune="norms", place="device", **common),
                "reading and products": floor(cache, place="device", **common),
            },
            rounds=words.rounds,
            warm_up=False,
        )


if __name__ == "__main__":
    main()
