"""Writing embeddings beside their bare products and writes: make bench-embed"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bench_check import WORDS
from benchmark import compare, run_process

from clipret import FeatureCache, write_cache

_BLOCK = 16_384


def write_features(path: Path, *, rows: int, width: int, embedding: int) -> None:
    """A cache of half as many images, and a caption each: float16 features before their projections."""
    generator, count = np.random.default_rng(0), rows // 2
    words = np.array(WORDS)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, count, _BLOCK):
            size = (min(_BLOCK, count - start), width)
            yield generator.standard_normal(size, dtype=np.float32).astype(np.float16)

    def captions() -> Iterator[str]:
        for start in range(0, count, _BLOCK):
            picked = words[generator.integers(len(words), size=(min(_BLOCK, count - start), 10))]
            yield from (" ".join(line) for line in picked)

    weights = {
        f"{side}/weight": generator.standard_normal((width, embedding), dtype=np.float32) for side in ("image", "text")
    }
    write_cache(
        path,
        images=blocks(),
        texts=blocks(),
        captions=captions(),
        caption_images=np.arange(count),
        splits=np.resize(np.array([0, 0, 1, 2], dtype=np.uint8), count),
        image_files=(f"{row // 10_000:05d}/{row:09d}.jpg" for row in range(count)),
        projections=weights,
        kind="raw",
        dtype="float16",
    )


def write_bare(cache: Path, folder: Path) -> None:
    """The products, normalised, written and on the disk: nothing is checked, and there are no texts."""
    opened = FeatureCache(cache)
    for side in ("image", "text"):
        features, weight = getattr(opened, f"{side}_features"), torch.from_numpy(opened.projections[f"{side}/weight"])
        with (folder / f"{side}.bin").open("wb", buffering=0) as file:
            for start in range(0, len(features), _BLOCK):
                block = torch.from_numpy(np.array(features[start : start + _BLOCK])).float()
                file.write(torch.nn.functional.normalize(block @ weight, dim=-1).numpy())
            os.fsync(file.fileno())


def main() -> None:
    """Measure whole processes, Python's start and imports included, over a file that the system has in memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000, help="images and captions together")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--embedding", type=int, default=512)
    parser.add_argument("--formats", default="npy,parquet", help="of npy, npz, safetensors, parquet")
    parser.add_argument("--folder", type=Path, help="of the disk to measure on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        write_bare(*arguments.bare)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        sizes = {"rows": arguments.rows, "width": arguments.width, "embedding": arguments.embedding}
        # In another process: the peaks of those that this one starts begin at its own.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(write_features, (folder / "bench.h5",), sizes)
        for number, ending in enumerate(arguments.formats.split(",")):
            compare_with_bare(f"embed{f'-{ending}' if number else ''}", ending, arguments=arguments, folder=folder)


def compare_with_bare(name: str, ending: str, *, arguments, folder: Path) -> None:
    """Write embeddings by the command, and bare."""
    out = folder / "out"

    def fresh(words: list):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return run_process(list(map(str, words)))

    cache, size = folder / "bench.h5", arguments.rows * arguments.embedding * 4
    command = ["-m", "clipret", "embed", cache, "--out", out / f"emb.{ending}", "--device", "cpu", "--quiet"]
    compare(
        name,
        work=f"{arguments.rows:,} rows, {arguments.width} to {arguments.embedding}, {size / 1e9:.2f} GB, .{ending}",
        floor="products, write, fsync",
        ways={
            "products, write, fsync": lambda: fresh([Path(sys.argv[0]).resolve(), "--bare", cache, out]),
            "clipret": lambda: fresh(command),
        },
        rounds=arguments.rounds,
        warm_up=False,
    )


if __name__ == "__main__":
    main()
