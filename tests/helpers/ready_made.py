"""Ready-made features, and files of them in the forms that people have."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

IMAGES, TEXTS = 40, 70
OWNERS = np.sort(np.arange(TEXTS) % IMAGES)


def embeddings(rows: int, *, width: int = 16, seed: int = 0, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Normalised embeddings of images and of a caption each, which resemble them: (rows, width) float32 twice."""
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((rows, width))
    texts = images + noise * generator.standard_normal((rows, width))
    return tuple((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (images, texts))


def write_clip_retrieval(
    folder: Path, images: np.ndarray, texts: np.ndarray, *, shards: int = 3, paths=None, **columns
) -> Path:
    """A folder as clip-retrieval's `inference` leaves it: float16, in shards, row by row the same."""
    rows = len(images)
    columns = {
        "image_path": list(paths or (f"photos/{row:04d}.jpg" for row in range(rows))),
        "caption": [f"caption {row}" for row in range(rows)],
        "width": [640] * rows,
        **columns,
    }
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for shard, places in enumerate(np.array_split(np.arange(rows), shards)):
        np.save(folder / "img_emb" / f"img_emb_{shard}.npy", images[places].astype(np.float16))
        np.save(folder / "text_emb" / f"text_emb_{shard}.npy", texts[places].astype(np.float16))
        part = {name: [values[row] for row in places] for name, values in columns.items()}
        parquet.write_table(pyarrow.table(part), folder / "metadata" / f"metadata_{shard}.parquet")
    return folder


def recall_by_hand(images: np.ndarray, texts: np.ndarray, *, owners: np.ndarray, k: int) -> tuple[float, float]:
    """R@k of t2i and i2t, of embeddings as they are: a naive count."""
    scores = texts.astype(np.float64) @ images.astype(np.float64).T
    t2i = np.mean([(scores[row] > scores[row, owner]).sum() < k for row, owner in enumerate(owners)])
    hits = []
    for image in range(len(images)):
        own = scores[owners == image, image]
        if len(own):
            hits.append((scores[owners != image, image] > own.max()).sum() < k)
    return float(t2i), float(np.mean(hits))


def made(**changes):
    """What write_cache is called with: 40 images and 70 captions of them."""
    images, _ = embeddings(IMAGES)
    _, texts = embeddings(TEXTS, seed=1)
    return {
        "images": images,
        "texts": texts,
        "captions": [f"caption ü{row}" for row in range(TEXTS)],
        "caption_images": OWNERS,
        "splits": ["train", "val", "test", "test"] * 10,
        **changes,
    }


def blocks(values: np.ndarray, size: int):
    """Rows of an array, some at a time."""
    return (values[start : start + size] for start in range(0, len(values), size))
