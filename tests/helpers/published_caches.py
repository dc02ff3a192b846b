"""Caches of which it is known what they give, and published figures to compare them with."""

import dataclasses
from pathlib import Path

import numpy as np

from clipret import TrainConfig, train
from clipret.cache import open_writer
from clipret.evaluation.reproduction import deviations, matching, stage
from clipret.evaluation.reproduction.published import published_models, published_rows
from tests.conftest import contents, digests_of

WEIGHTS = published_models()["ViT-B/32"].sha256
ROWS = {row.name: row for row in published_rows()}
FLICKR = "open_clip ViT-B/32 zero-shot, flickr30k-karpathy-1k"
MEASURED = {"i2t": {"R@1": 90.0, "R@5": 90.0, "R@10": 90.0}, "t2i": {"R@1": 60.0, "R@5": 90.0, "R@10": 90.0}}


def settings(dataset="flickr30k", *, model="ViT-B/32", about=None, **inputs):
    """What a cache says of its making: by default what OpenAI's ViT-B/32 gives, exactly."""
    made = contents()
    known = {"weights_sha256": WEIGHTS, "preprocessing": "clip 224 px", "dataset": dataset}
    return {
        "inputs": {**made.inputs, **known, **inputs},
        "about": {**made.about, "model": model, **(about or {})},
    }


def write(path, images, texts, *, owners, splits, unusable=(), tokens=5, caption_ids=None, **made):
    """A cache whose features are embeddings, but for their lengths."""
    width = images.shape[1]
    made = contents(
        images=len(images),
        image_ids=[str(10 * row) for row in range(len(images))],
        image_splits=np.asarray(splits, dtype=np.uint8),
        captions=[f"caption {row}" for row in range(len(owners))],
        caption_ids=caption_ids or [str(row) for row in range(len(owners))],
        caption_images=owners,
        projections={"image/weight": np.eye(width), "text/weight": np.eye(width), "logit_scale": 4.6},
        dtype="float32",
        **made,
    )
    with open_writer(path, made) as writer:
        problems = dict.fromkeys(unusable, "empty file")
        digests = digests_of(f"published {name}" for name in made.image_ids)
        writer.write_images(0, features=images.astype(np.float32), problems=problems, digests=digests)
        writer.write_texts(0, features=texts.astype(np.float32), tokens=np.broadcast_to(tokens, len(texts)))
    return path


def write_flickr(path, *, images):
    """Five captions an image, no two images alike: MEASURED is what CLIP's own head makes of it.

    Of every ten images, six have captions that are theirs, three captions that are nearer to the next image, and one
    captions that are like no image.
    """
    rows, owners = np.eye(images, images + 1), np.repeat(np.arange(images), 5)
    kinds = np.resize([1, 0, 1, 0, 1, 0, 0, 0, 0, 2], images)
    texts = rows[owners]
    near = kinds[owners] == 1
    texts[near] = 0.6 * rows[owners[near]] + 0.8 * rows[owners[near] + 1]
    texts[kinds[owners] == 2] = np.eye(images + 1)[images]
    return write(path, rows, texts, owners=owners, splits=np.full(images, 2), **settings())


def write_small(folder, dataset="coco", *, name="small.h5", **changes):
    """A cache of twelve test images and twelve others, for whatever is not counted in thousands."""
    generator = np.random.default_rng(0)
    owners = np.repeat(np.arange(24), 5)
    images = generator.normal(size=(24, 8))
    texts = images[owners] + generator.normal(size=(120, 8))
    rows = {key: changes.pop(key) for key in ("unusable", "tokens") if key in changes}
    splits = np.resize([2, 0, 2, 1], 24)
    return write(folder / name, images, texts, owners=owners, splits=splits, **rows, **settings(dataset, **changes))


def changed(row, figures, **changes):
    return dataclasses.replace(row, figures=figures, **changes)


def off(figures, by):
    """Published figures from which ours differ by so much."""
    return {
        direction: {name: value - by.get((direction, name), 0) for name, value in metrics.items()}
        for direction, metrics in figures.items()
    }


def publish_rows(monkeypatch, *rows):
    """Make these the published rows."""
    for module in (matching, deviations, stage):
        monkeypatch.setattr(module, "published_rows", lambda: rows)


def trained(path, **changes):
    """The run of a short training on a cache."""
    return Path(train(TrainConfig(cache=path, epochs=3, runs_dir=path.parent / "runs", **changes))["run"])
