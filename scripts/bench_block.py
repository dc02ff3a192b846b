"""The last block: extraction with its tokens beside one without, and an epoch of its training: make bench-block

Extraction is of tiny-emoji. Epochs are of the cache that it leaves, and of a random one with the sizes of ViT-B/32: 50
tokens an image, 12 a caption. There are three captions of each image.
"""

import argparse
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_check import WORDS
from bench_extract import ASSETS, CORES, extract_all, in_child, photograph
from benchmark import compare, random_cache
from torch.nn import functional

from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.machine.products import keep_freed_memory
from clipret.protocols.protocol import split_protocol
from clipret.training.autograd import AutogradRun, first_state
from clipret.training.batches import plan_epoch
from clipret.training.features import Features
from clipret.training.pairs import Pairs
from clipret.training.starting import inputs_of

CAPTIONS = 3
# Of ViT-B/32.
WIDTHS, TOKENS, EMBEDDING = {"image": 768, "text": 512}, {"image": 50, "text": 12}, 512
# So many photographs differ; the others are the same with some bytes behind their end.
DISTINCT = 64


def write_pairs(folder: Path, *, images: int) -> Path:
    """A table of JPEGs of 640x480, all in train, with three captions of 8 words on average for each."""
    generator = np.random.default_rng(0)
    photographs = [photograph(generator) for _ in range(min(images, DISTINCT))]
    texts = set()
    while len(texts) < CAPTIONS * images:
        texts.add(" ".join(generator.choice(WORDS, size=max(4, int(generator.normal(8, 2))))))
    path, captions = folder / "pairs.jsonl", iter(sorted(texts))
    with path.open("w") as table:
        for number, content in zip(range(images), itertools.cycle(photographs)):
            name = f"{number:06d}.jpg"
            (folder / name).write_bytes(content + number.to_bytes(4, "big"))
            for caption in itertools.islice(captions, CAPTIONS):
                table.write(json.dumps({"image": name, "caption": caption, "split": "train"}) + "\n")
    return path


def bench_extraction(dataset: Path, *, images: int, rounds: int) -> None:
    """The whole of `clipret extract`, with the tokens and without."""
    model = str(ASSETS / "tiny-emoji.pt")
    extracted = partial(extract_all, dataset, model)
    compare(
        "block-extraction",
        work=f"{images:,} JPEGs of 640x480 and {CAPTIONS * images:,} captions, tiny-emoji, {CORES} cores",
        floor="features alone",
        ways={
            "features alone": lambda: in_child(extracted),
            "clipret, tokens as int8": lambda: in_child(partial(extracted, tap="block", tap_dtype="int8")),
            "clipret": lambda: in_child(partial(extracted, tap="block")),
        },
        rounds=rounds,
        warm_up=False,
    )


class Epochs:
    """Epochs of training a block on one cache, or their first steps."""

    def __init__(self, cache: FeatureCache, *, batch: int, steps: int | None):
        self._cache, self._batch, self._steps = cache, batch, steps
        self._pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
        self._features = {place: self._read(place) for place in ("device", "disk")}

    def training(self, *, tune: str, place: str) -> Callable[[], None]:
        """As clipret train has it: plan, fetch, step."""
        config, cache = self._config(tune), self._cache
        run = AutogradRun(config, first_state(config, {}, cache=cache), codes={}, cache=cache, device="cpu")

        def epoch() -> None:
            for batch, loaded in self._loaded(config, place):
                run.step(
                    loaded,
                    matching=lambda rows, batch=batch: batch.matching(rows, device="cpu"),
                    rates=[config.lr],
                    margins=run.margins([0.0]),
                )

        return epoch

    def floor(self) -> Callable[[], None]:
        """Reading the same tokens from memory as float32, and the products of one query a row, forward and back."""
        multiply = {side: Products(self._cache, side, batch=self._batch) for side in WIDTHS}

        def epoch() -> None:
            for _, loaded in self._loaded(self._config("all"), "device"):
                for side, (rows,) in loaded.items():
                    multiply[side](rows.padded()[0])

        return epoch

    @property
    def work(self) -> str:
        """In words."""
        steps = self._steps or -(-len(self._pairs) // self._batch)
        size = self._features["device"].size / 2**20
        return f"{steps:,} steps of {self._batch}, {len(self._pairs):,} images, {size:,.0f} MiB of tokens"

    def _loaded(self, config: TrainConfig, place: str):
        batches = plan_epoch(self._pairs, [config], epoch=1)[: self._steps]
        loaded = self._features[place].batches([batch.places for batch in batches])
        return zip(batches, loaded, strict=True)

    def _config(self, tune: str) -> TrainConfig:
        return TrainConfig(cache=self._cache.path, batch_size=self._batch, head="block", tune=tune, lr=1e-6)

    def _read(self, place: str) -> Features:
        inputs = inputs_of(self._config("all"))
        return Features(self._cache, self._pairs, placement=place, device="cpu", memory_limit=None, inputs=inputs)


class Products:
    """The products of a step on one side: query, projection; of the heads q K, scores, mixture and V.

    Of a transformer's block the output of its attention and the MLP too.
    """

    def __init__(self, cache: FeatureCache, side: str, *, batch: int):
        block, embedding = cache.blocks[side], cache.projections[f"{side}/weight"].shape[1]
        width, heads = block.width, block.heads
        inner = [
            block.weights[part].shape for part in ("outer_weight", "up_weight", "down_weight") if part in block.weights
        ]
        sizes = [(width, width), *inner, (embedding, width)]
        self._layers = [
            (torch.randn(outputs, inputs), torch.randn(batch, inputs), torch.randn(batch, outputs))
            for outputs, inputs in sizes
        ]
        self._key = torch.randn(heads, width // heads, width)
        self._small = torch.randn(heads, batch, width // heads)

    @torch.no_grad()
    def __call__(self, tokens: torch.Tensor) -> None:
        """Each thrice, for both gradients; those of tokens (B, L, W) twice, as tokens have no gradient."""
        batch, key, small = len(tokens), self._key, self._small[:, : len(tokens)]
        for weight, x, gradient in self._layers:
            functional.linear(x[:batch], weight)
            gradient[:batch] @ weight
            gradient[:batch].t() @ x[:batch]
        wide = small @ key
        for _ in range(2):
            wide @ key.transpose(1, 2)
            small.transpose(1, 2) @ wide
        small @ key
        asked = wide.transpose(0, 1)
        for _ in range(2):
            scores = asked @ tokens.transpose(1, 2)
            scores @ tokens


def bench_epoch(name: str, epochs: Epochs, *, rounds: int) -> None:
    """Training beside reading and products."""
    ways = {
        "clipret": epochs.training(tune="all", place="device"),
        "clipret, from disk": epochs.training(tune="all", place="disk"),
        "clipret, lora": epochs.training(tune="lora", place="device"),
        "clipret, norms": epochs.training(tune="norms", place="device"),
        "reading and products": epochs.floor(),
    }
    compare(name, work=epochs.work, floor="reading and products", ways=ways, rounds=rounds, warm_up=False)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, help="the first steps of each epoch alone")
    parser.add_argument("--dtype", default="float16", help="of the random tokens")
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    keep_freed_memory()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        folder, common = Path(name), {"batch": words.batch, "steps": words.steps}
        data = folder / "data"
        data.mkdir()
        # Processes that are forked with threads already running would wait for threads that they do not have.
        torch.set_num_threads(1)
        bench_extraction(write_pairs(data, images=words.images), images=words.images, rounds=words.rounds)
        torch.set_num_threads(threads)
        shutil.move(data / "bench.h5", folder / "tiny-emoji.h5")
        shutil.rmtree(data)
        bench_epoch("block", Epochs(FeatureCache(folder / "tiny-emoji.h5"), **common), rounds=words.rounds)
        sizes = {"captions": CAPTIONS, "widths": WIDTHS, "embedding": EMBEDDING, "tokens": TOKENS}
        cache = random_cache(folder / "random.h5", images=words.images, **sizes, tap_dtype=words.dtype)
        bench_epoch("block-vit-b-32", Epochs(cache, **common), rounds=words.rounds)


if __name__ == "__main__":
    main()
