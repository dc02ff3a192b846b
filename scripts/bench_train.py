"""An epoch of head training beside its matrix products and a DataLoader over HDF5: make bench-train"""

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from benchmark import compare
from torch.utils.data import DataLoader, Dataset

from clipret.cache import CacheContents, FeatureCache, open_writer
from clipret.config import TrainConfig
from clipret.heads import LinearHead
from clipret.losses import margin_loss
from clipret.protocols import split_protocol
from clipret.training import _epochs, _training_pairs

IMAGE_WIDTH, TEXT_WIDTH, EMBEDDING = 768, 512, 512


def make_cache(path: Path, *, images: int) -> FeatureCache:
    """A cache of ViT-B/32's widths with random features and five captions an image, all in train."""
    generator = np.random.default_rng(0)
    widths = {"image": IMAGE_WIDTH, "text": TEXT_WIDTH}
    contents = CacheContents(
        image_ids=[str(row) for row in range(images)],
        image_files=[f"{row}.jpg" for row in range(images)],
        image_splits=np.zeros(images, np.uint8),
        captions=[str(row) for row in range(5 * images)],
        caption_ids=[str(row) for row in range(5 * images)],
        caption_images=np.repeat(np.arange(images), 5),
        projections={
            **{f"{side}/weight": generator.normal(size=(width, EMBEDDING)) / 30 for side, width in widths.items()},
            "logit_scale": 4.6,
        },
        dtype="float16",
        inputs={},
        about={"command": ""},
    )
    with open_writer(path, contents) as writer:
        features = generator.standard_normal((images, IMAGE_WIDTH), dtype=np.float32).astype(np.float16)
        writer.write_images(0, features=features, problems={})
        features = generator.standard_normal((5 * images, TEXT_WIDTH), dtype=np.float32).astype(np.float16)
        writer.write_texts(0, features=features, tokens=np.full(5 * images, 12))
    return FeatureCache(path)


class Rows(Dataset):
    """The usual way: one h5py read an item."""

    def __init__(self, path: Path, *, images: int):
        self._file, self._images = h5py.File(path, "r"), images

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, row: int):
        return self._file["image/features"][row], self._file["text/features"][5 * row]


def train_from_loader(head: LinearHead, loader: DataLoader) -> None:
    """An epoch of the same step, fed by a DataLoader."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-4)
    for images, texts in loader:
        similarities = head.embed_texts(texts) @ head.embed_images(images).T
        loss = margin_loss(similarities, torch.eye(len(images), dtype=torch.bool), margin=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def products_alone(batch: int, steps: int) -> None:
    """The matrix products of a step: both projections forward and their weights' gradients, similarities thrice."""
    images, texts = torch.randn(batch, IMAGE_WIDTH), torch.randn(batch, TEXT_WIDTH)
    image_weight, text_weight = torch.randn(IMAGE_WIDTH, EMBEDDING), torch.randn(TEXT_WIDTH, EMBEDDING)
    for _ in range(steps):
        image_embeddings, text_embeddings = images @ image_weight, texts @ text_weight
        similarities = text_embeddings @ image_embeddings.T
        texts.T @ (similarities @ image_embeddings)
        images.T @ (similarities.T @ text_embeddings)


def main() -> None:
    """Measure one epoch of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    images, batch = arguments.images, arguments.batch_size
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(Path(folder) / "bench.h5", images=images)
        pairs = _training_pairs(cache, split_protocol(cache, split="train").folds[0], device="cpu")
        config = TrainConfig(cache=cache.path, epochs=1, batch_size=batch)
        loader = DataLoader(Rows(cache.path, images=images), batch_size=batch, shuffle=True)
        compare(
            "train",
            work=f"an epoch of {images:,} images, batch {batch}, {IMAGE_WIDTH}/{TEXT_WIDTH} -> {EMBEDDING}",
            floor="matrix products alone",
            ways={
                "matrix products alone": lambda: products_alone(batch, images // batch),
                "clipret": lambda: list(_epochs(LinearHead(cache.projections), pairs, config)),
                "DataLoader over h5py": lambda: train_from_loader(LinearHead(cache.projections), loader),
            },
            rounds=arguments.rounds,
        )


if __name__ == "__main__":
    main()
